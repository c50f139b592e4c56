/* Where a command's text comes from: the command line, a file, or ready-made ids. */
#ifndef CF_CLI_SOURCE_H
#define CF_CLI_SOURCE_H

#include "cli/ids.h"

typedef struct cf_source {
    const char *text, *file, *ids;                      /* what the options gave; exactly one */
    const char *text_option, *file_option, *ids_option; /* their names, for messages */
} cf_source;

/* What came of it. */
typedef struct cf_input {
    cf_bytes text; /* as given; nothing if ids were given */
    cf_ids ids;
} cf_input;

/*
 * Checks that exactly one was given and reads ids. Returns CF_EXIT_OK, or CF_EXIT_USAGE after a
 * report.
 */
int cf_source_check(const cf_source *source, cf_input *input);

/* Reads the text, from a file or stdin if need be. Errors: as cf_bytes_read(). */
cf_status cf_source_read(const cf_source *source, cf_input *input, cf_error *error);

/*
 * Makes ids of the text. INVALID_ARGUMENT if there is none in it. `tokenizer` may be NULL if ids
 * were given.
 */
cf_status cf_source_encode(const cf_source *source, const cf_tokenizer *tokenizer, cf_input *input,
                           cf_error *error);

/* Takes a zeroed one too. */
void cf_input_free(cf_input *input);

#endif
