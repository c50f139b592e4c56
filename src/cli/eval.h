/* What eval's files share: arguments, checkpoints, questions, results. */
#ifndef CF_CLI_EVAL_H
#define CF_CLI_EVAL_H

#include "cli/open.h"

#include <jansson.h>

typedef enum cf_eval_format {
    CF_EVAL_TABLE = 0,
    CF_EVAL_CSV = 1,
    CF_EVAL_JSON = 2,
} cf_eval_format;

typedef struct cf_eval_args {
    cf_model_args model; /* its `model` is set to one checkpoint after the other */
    cf_texts models;
    const char *revisions;
    const char *file, *tasks; /* exactly one */
    const char *delimiter;    /* NULL: a space */
    size_t n_window, n_stride;
    bool no_hash;
    size_t format;
} cf_eval_args;

/* A mean and its standard error, NaN where fewer than two values were seen. */
typedef struct cf_estimate {
    double mean, error;
} cf_estimate;

/* Of the text of a file. Losses are in nats. */
typedef struct cf_text_result {
    size_t n_tokens, n_words, n_bytes;
    cf_estimate loss, perplexity;
    double bits_per_byte, byte_perplexity, word_perplexity;
} cf_text_result;

/* Of multiple-choice questions: right by the sum of log-probabilities, and a character, a byte. */
typedef struct cf_tasks_result {
    size_t n_questions, n_truncated;
    cf_estimate acc, acc_norm, acc_bytes;
} cf_tasks_result;

typedef struct cf_eval_row {
    const char *model; /* as the command line or the folder names it */
    char hash[33];     /* "": not asked for, or not to be had */
    cf_error error;    /* what it failed of; the rest is then not known */
    cf_text_result text;
    cf_tasks_result tasks;
} cf_eval_row;

/* The checkpoints to evaluate, in order. */
typedef struct cf_checkpoints {
    struct {
        char *name, *path; /* of one allocation, which `name` begins; path NULL: bundled model */
    } * items;
    size_t n, capacity;
} cf_checkpoints;

/* Questions as they were read: each has passed every check that needs no model. */
typedef struct cf_questions {
    json_t *values;
    size_t n_choices; /* of all questions */
} cf_questions;

/*
 * eval_checkpoints.c: those of --model, then the folders in --revisions that hold a config.json, by
 * their names, numbers in them compared as numbers. Errors: NOT_FOUND, IO, OUT_OF_MEMORY.
 */
cf_status cf_checkpoints_list(const cf_eval_args *args, cf_checkpoints *list, cf_error *error);
void cf_checkpoints_free(cf_checkpoints *list);

/* eval_questions.c. Errors: those of reading, BAD_FILE with the line. */
cf_status cf_questions_read(const char *path, cf_questions *questions, cf_error *error);
void cf_questions_free(cf_questions *questions);

/*
 * eval_tasks.c: `n_window` tokens at most are evaluated for a choice, what is beyond them is cut
 * off the context's beginning.
 */
cf_status cf_eval_tasks(const cf_questions *questions, const char *delimiter, size_t n_window,
                        const cf_opened *opened, cf_tasks_result *result, cf_error *error);

/* eval_text.c: `stride` 0: the window. */
cf_status cf_eval_text(const cf_bytes *text, size_t n_window, size_t n_stride,
                       const cf_opened *opened, cf_text_result *result, cf_error *error);

/* The token that stands before a text's first: begin of text, or else its end; -1: none. */
cf_token cf_eval_prefix(const cf_model *model);

/*
 * eval_spaces.c: white space as Python's str.isspace() has it. Bytes of `text` before its trailing
 * white space; the words that re.split(r"\s+", text) finds, empty ones at the ends included.
 */
size_t cf_trim_spaces(const char *text, size_t n_bytes);
size_t cf_count_words(const char *text, size_t n_bytes);

/* Characters of valid UTF-8. */
size_t cf_count_characters(const char *text, size_t n_bytes);

/* Mean of `n` ≥ 1 values, of which their sum and the sum of their squares are given. */
cf_estimate cf_estimate_mean(double sum, double sum_squares, size_t n);

/* eval_print.c: CSV rows are printed as they come, the other forms at the end. */
void cf_eval_print_csv_row(const cf_eval_args *args, const cf_eval_row *row, bool first);
cf_status cf_eval_print(const cf_eval_args *args, const cf_eval_row *rows, size_t n,
                        cf_error *error);

#endif
