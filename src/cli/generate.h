/* What generate's two files share: its arguments, and the writer that its events go to. */
#ifndef CF_CLI_GENERATE_H
#define CF_CLI_GENERATE_H

#include "cli/open.h"
#include "cli/progress.h"
#include "cli/source.h"

#include <jansson.h>
#include <stdio.h>

typedef struct cf_generate_args {
    cf_model_args model;
    cf_source source;
    size_t max_tokens, top_k, n_top;
    double temperature, top_p, min_p;
    double repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;
    cf_texts stops;
    bool ignore_eos, no_prompt;
    size_t json;
} cf_generate_args;

/* Streams a generation to stdout, or gathers it for one JSON object. */
typedef struct cf_writer {
    const cf_generate_args *args;
    const cf_tokenizer *tokenizer; /* NULL: ids take the place of text */
    const cf_input *input;
    const cf_model *model;
    cf_progress progress;
    bool begun;  /* the prompt, if wanted, was written */
    bool spaced; /* an id was written: the next one needs a space before it */
    bool out_of_memory;
    FILE *text;      /* JSON: the text so far grows here */
    char *text_data; /* and can be read here after a flush */
    size_t text_bytes;
    json_t *ids, *logprobs, *top; /* JSON */
} cf_writer;

/* The writer's other fields are zero or set by the caller. Errors: OUT_OF_MEMORY. */
cf_status cf_writer_open(cf_writer *writer, cf_error *error);

/* A cf_event_fn: false once Ctrl-C was pressed, or nothing can be written any more. */
bool cf_writer_on_event(void *writer, const cf_event *event);

/* Ends the output; prints the stats line to stderr or the JSON object to stdout. */
cf_status cf_writer_finish(cf_writer *writer, const cf_generate_stats *stats, cf_error *error);

/* Takes a zeroed one too. */
void cf_writer_close(cf_writer *writer);

#endif
