/* Counters, in Prometheus' text form. */
#ifndef CF_SERVE_METRICS_H
#define CF_SERVE_METRICS_H

#include "serve/sink.h"

#include <stdatomic.h>

#define CF_N_BUCKETS 12

/* Seconds, cumulative as Prometheus has them when printed. */
typedef struct cf_histogram {
    atomic_uint_fast64_t buckets[CF_N_BUCKETS + 1]; /* the last one: beyond all bounds */
    atomic_uint_fast64_t sum_ns;
} cf_histogram;

/* Any thread may write and read at any time. Zeroed: nothing has happened. */
typedef struct cf_metrics {
    atomic_uint_fast64_t responses[6]; /* by the first digit of the HTTP status */
    atomic_uint_fast64_t refused;      /* 429 */
    atomic_uint_fast64_t cancelled;    /* requests whose client went away */
    atomic_uint_fast64_t prompt_tokens, reused_tokens, generated_tokens, scored_tokens;
    atomic_uint_fast64_t running, waiting; /* choices in a session; requests without one */
    atomic_uint_fast64_t connections;
    cf_histogram first_token, request;
} cf_metrics;

void cf_histogram_add(cf_histogram *histogram, uint64_t ns);

void cf_metrics_print(cf_metrics *metrics, cf_sink *sink);

#endif
