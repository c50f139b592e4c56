/* The glue to libmicrohttpd: connections, bodies, keys, and answers on their way out. */
#ifndef CF_SERVE_HTTP_H
#define CF_SERVE_HTTP_H

#include "serve/service.h"

typedef struct cf_http cf_http;

/*
 * Serves the listening socket `fd`, which it then owns, on a few threads. Connections that are
 * silent for timeout_s seconds are closed, and those that take twice as long for a request's head,
 * or again for its body. Errors: IO.
 */
cf_status cf_http_start(cf_service *service, int fd, unsigned timeout_s, cf_http **http,
                        cf_error *error);

/* Accepts no more connections; those there are go on. */
void cf_http_quiesce(cf_http *http);

/* Closes all connections: none may be waiting for a job. Takes NULL. */
void cf_http_stop(cf_http *http);

#endif
