/* From the options that commands share to an open model, tokenizer and session. */
#ifndef CF_CLI_OPEN_H
#define CF_CLI_OPEN_H

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/source.h"
#include "clusterfusion.h"

#define CF_MAX_CONTEXT 16777216 /* 2^24: cf_session_create() */
#define CF_MAX_THREADS 1024

typedef struct cf_model_args {
    const char *model;
    const char *tokenizer;
    size_t backend;   /* a cf_backend */
    size_t n_threads; /* 0: the library's default */
    size_t n_context; /* 0: the model's */
    size_t kv;        /* 0: F16, 1: F32 */
} cf_model_args;

/* Rows of a command's table of options; `type` has a field `model` of type cf_model_args. */
#define CF_ROW_MODEL(type)                                                                         \
    {                                                                                              \
        .name = "model", .letter = 'm', .kind = CF_OPTION_TEXT, .value = "DIR",                    \
        .offset = offsetof(type, model.model),                                                     \
        .help = "The model: a Hugging Face folder with config.json and weights. Default: the "     \
                "bundled model."                                                                   \
    }
#define CF_ROW_TOKENIZER(type)                                                                     \
    {                                                                                              \
        .name = "tokenizer", .kind = CF_OPTION_TEXT, .value = "FILE",                              \
        .offset = offsetof(type, model.tokenizer),                                                 \
        .help =                                                                                    \
            "The tokenizer: a tokenizer.json or a folder that holds one. Default: the model's "    \
            "folder."                                                                              \
    }
#define CF_ROW_BACKEND(type)                                                                       \
    {                                                                                              \
        .name = "backend", .kind = CF_OPTION_CHOICE, .value = "NAME",                              \
        .offset = offsetof(type, model.backend), .choices = {"auto", "cpu", "cuda"},               \
        .preset = "auto", .help = "Where to compute; auto takes a GPU if there is a usable one."   \
    }
#define CF_ROW_THREADS(type)                                                                       \
    {                                                                                              \
        .name = "threads", .letter = 't', .kind = CF_OPTION_COUNT, .value = "N",                   \
        .offset = offsetof(type, model.n_threads), .min = 1, .max = CF_MAX_THREADS,                \
        .help = "CPU threads. Default: one for each processor that the program may use."           \
    }
#define CF_ROW_CONTEXT(type, default_text)                                                         \
    {                                                                                              \
        .name = "context", .letter = 'c', .kind = CF_OPTION_COUNT, .value = "N",                   \
        .offset = offsetof(type, model.n_context), .min = 1, .max = CF_MAX_CONTEXT,                \
        .help = "Tokens that fit in the session. Default: " default_text "."                       \
    }
#define CF_ROW_KV(type)                                                                            \
    {                                                                                              \
        .name = "kv", .kind = CF_OPTION_CHOICE, .value = "TYPE",                                   \
        .offset = offsetof(type, model.kv), .choices = {"f16", "f32"}, .preset = "f16",            \
        .help = "Number format of the KV cache; f32 is more exact and takes twice the memory."     \
    }

/* The options' part of a session; the rest is zero. */
cf_session_options cf_open_session_options(const cf_model_args *args);

/* Opens the model that the options name or the bundled one. Errors: as cf_model_open(). */
cf_status cf_open_model(const cf_model_args *args, cf_progress *progress, cf_model **model,
                        cf_error *error);

/*
 * Opens the tokenizer that the options name, or that of the model's folder. Where that folder has
 * none, *tokenizer is NULL; NOT_FOUND if `needed_for` is not NULL: what needs one, and the way out.
 */
cf_status cf_open_tokenizer(const cf_model_args *args, const char *needed_for,
                            cf_tokenizer **tokenizer, cf_error *error);

typedef struct cf_opened {
    cf_model *model;
    cf_tokenizer *tokenizer; /* may be NULL, see cf_open_tokenizer() */
    cf_session *session;
} cf_opened;

/*
 * Reads the source, catches Ctrl-C from then on, opens everything and makes ids of the input. On
 * failure too, cf_open_close() releases what was opened.
 */
cf_status cf_open_all(const cf_model_args *args, const cf_source *source, const char *needed_for,
                      cf_input *input, cf_opened *opened, cf_error *error);
void cf_open_close(cf_opened *opened);

#endif
