/* What every part of the server sees: the model that is served, and how. */
#ifndef CF_SERVE_SERVICE_H
#define CF_SERVE_SERVICE_H

#include "serve/metrics.h"
#include "serve/request.h"

#include <time.h>

struct cf_worker;

typedef struct cf_service {
    const cf_model *model;
    const cf_tokenizer *tokenizer; /* may be NULL */
    const char *name;              /* the model's, in /v1/models and in answers */
    const char *api_key;           /* NULL: none is asked for */
    const char *chat_template;     /* NULL: none */
    char fingerprint[64];          /* changes with the weights, the backend and the version */
    time_t created;
    cf_request_limits limits;
    size_t n_slots;
    size_t max_body_bytes;
    cf_metrics metrics;
    struct cf_worker *worker;
} cf_service;

#endif
