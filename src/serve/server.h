/* An HTTP server that speaks OpenAI's protocol for one model. */
#ifndef CF_SERVE_SERVER_H
#define CF_SERVE_SERVER_H

#include "clusterfusion.h"

typedef struct cf_server cf_server;

typedef struct cf_server_options {
    const char *host; /* a name or an address */
    uint16_t port;    /* 0: any that is free */
    const cf_model *model;
    const cf_tokenizer *tokenizer;     /* NULL: prompts are ids, answers have no text */
    const char *name;                  /* the model's name for clients */
    const char *api_key;               /* NULL: none is asked for */
    const char *chat_template;         /* NULL: no chat; see docs/server.md */
    size_t n_parallel;                 /* sessions; at least 1 */
    size_t max_queue;                  /* requests that may wait for one */
    size_t max_body_bytes;             /* of a request */
    unsigned timeout_s;                /* after which a silent connection is closed */
    const cf_session_options *session; /* of each session */
} cf_server_options;

/*
 * Begins to listen and to answer, on threads of its own. Model, tokenizer and strings must outlive
 * it. Errors: INVALID_ARGUMENT (a host that is not known, a chat template without {content}), IO
 * (the port is taken), and those of cf_session_create().
 */
cf_status cf_server_start(const cf_server_options *options, cf_server **server, cf_error *error);

/* "http://127.0.0.1:8080". */
const char *cf_server_url(const cf_server *server);

/*
 * Listens no more, refuses what waits, lets what runs go on for grace_s seconds at most, and waits
 * until the answers are sent.
 */
void cf_server_stop(cf_server *server, unsigned grace_s);

/* After cf_server_stop(); takes NULL. */
void cf_server_free(cf_server *server);

#endif
