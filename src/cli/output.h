/* Results to stdout: plain and as JSON, and no loss goes unseen. */
#ifndef CF_CLI_OUTPUT_H
#define CF_CLI_OUTPUT_H

#include "clusterfusion.h"

#include <jansson.h>

/* To be called first: keeps a missing stdout from becoming some other file, and ignores SIGPIPE. */
void cf_output_begin(void);

/* Sends what was printed so far on its way; false if stdout has failed. */
bool cf_output_flush(void);

/* Flushes and closes stdout; IO if anything that was ever printed got lost. */
cf_status cf_output_finish(cf_error *error);

/*
 * A number, or null where JSON has none for it; an array of ids; a string, null for NULL, U+FFFD in
 * place of bytes that are no UTF-8, which paths may have.
 */
json_t *cf_json_real(double value);
json_t *cf_json_ids(const cf_token *ids, size_t n);
json_t *cf_json_path(const char *bytes);

/* 9 significant digits are what a float32 needs to survive. Releases `value`; NULL is an error. */
cf_status cf_json_print(json_t *value, cf_error *error);

#endif
