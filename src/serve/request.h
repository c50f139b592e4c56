/* What a client asks for: the JSON body of a completion, checked and in the library's terms. */
#ifndef CF_SERVE_REQUEST_H
#define CF_SERVE_REQUEST_H

#include "serve/fault.h"

#define CF_MAX_STOPS 32
#define CF_MAX_STOP_BYTES 1024
#define CF_MAX_PROMPTS 2048
#define CF_MAX_CHOICES_EACH 128     /* n, best_of */
#define CF_MAX_CHOICES_ALL 4096     /* prompts × best_of */
#define CF_MAX_LOGPROBS_ALL 2097152 /* tokens × choices × (1 + alternatives) of an answer */
#define CF_MAX_BIASES 1024
#define CF_MAX_TOP_LOGPROBS 64

typedef struct cf_prompt {
    char *text; /* as it was given; NULL: ids were given, or nothing */
    size_t n_bytes;
    cf_token *ids; /* NULL until encoded if text was given */
    size_t n_ids;
} cf_prompt;

typedef struct cf_request {
    cf_prompt *prompts;
    size_t n_prompts;
    size_t n, best_of;
    size_t max_tokens, min_tokens;
    cf_sampling sampling; /* bias is the request's own memory */
    bool has_seed;
    char *stops[CF_MAX_STOPS];
    size_t n_stops;
    bool has_logprobs;
    int32_t n_top; /* with has_logprobs: alternatives a token */
    bool echo, stream, include_usage, ignore_eos;
    bool is_chat; /* answered in the form of chat completions */
} cf_request;

/* What a request is checked against. */
typedef struct cf_request_limits {
    int32_t n_vocab;
    size_t n_context;
    cf_token first_token; /* of an empty prompt; -1: there is none */
    size_t n_longest;     /* bytes of the tokenizer's longest token; 0: no tokenizer */
} cf_request_limits;

/*
 * Reads the body of POST /v1/completions. Fields that it does not know are ignored. False and a
 * fault of status 400 if something is wrong. cf_request_free() takes it in either case.
 */
bool cf_request_parse(const char *body, size_t n_bytes, const cf_request_limits *limits,
                      cf_request *request, cf_fault *fault);

/* The fields that completions and chat completions share, from a parsed body. */
bool cf_request_read_common(const json_t *root, const cf_request_limits *limits,
                            cf_request *request, cf_fault *fault);

/* One prompt of the text's bytes, which are copied. */
bool cf_request_set_text(cf_request *request, const char *text, size_t n_bytes, cf_fault *fault);

/*
 * Gives each prompt of text its ids; `tokenizer` may be NULL. A fault of status 400 for one that is
 * longer than the context, for more tokens at least than at most, or for an answer that would have
 * too many log-probabilities.
 */
bool cf_request_encode(cf_request *request, const cf_tokenizer *tokenizer,
                       const cf_request_limits *limits, cf_fault *fault);

void cf_request_free(cf_request *request);

#endif
