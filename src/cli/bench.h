/* What bench's files share: what was measured. */
#ifndef CF_CLI_BENCH_H
#define CF_CLI_BENCH_H

#include "cli/options.h"
#include "clusterfusion.h"

/* Mean and sample standard deviation; the latter is 0 for a single run. */
typedef struct cf_spread {
    double mean, deviation;
} cf_spread;

typedef struct cf_bench_row {
    bool is_prompt; /* else generation */
    size_t n_tokens;
    size_t depth;           /* tokens of context before them */
    double bytes_per_token; /* of weights and KV cache that are read, on average; 0: of a prompt */
    cf_spread tokens_per_s, ms_per_token;
    double reached; /* operations of matrix products a second; or bytes read; 0: unknown */
    double ceiling; /* what that is held against; 0: unknown */
} cf_bench_row;

/* What the GPU's clock says of one token; empty where nobody asked. */
typedef struct cf_stages {
    cf_span *spans;
    size_t n_spans, n_room;
    bool is_incomplete;
    size_t pos;       /* the token's */
    int32_t n_layers; /* of the model */
} cf_stages;

/* A stage's time in a layer: over its blocks, on average over the layers. */
typedef struct cf_stage_times {
    const char *stage, *role;
    double mean_us, min_us, max_us;
} cf_stage_times;

enum { CF_MAX_STAGES = 32 };

/* Traces the token after `pos` tokens of context, which the session holds. */
cf_status cf_stages_trace(cf_session *session, const cf_model *model, cf_token token,
                          cf_stages *stages, cf_error *error);
void cf_stages_free(cf_stages *stages);

/*
 * Sums spans up by stage, `times` [CF_MAX_STAGES] in the order in which they came; returns how many
 * there are. Leaves out the first two layers, which the launch disturbs, where there are more.
 */
size_t cf_stages_sum_up(const cf_stages *stages, cf_stage_times *times);

/* Writes them in the Trace Event format; `title` says what ran. */
cf_status cf_stages_write(const cf_stages *stages, const char *path, const char *title,
                          cf_error *error);

typedef struct cf_bench_report {
    char date[32]; /* UTC, ISO 8601 */
    const char *model, *backend, *backend_text, *kv;
    size_t n_threads, n_repeats;
    double open_s;           /* until a session was ready for its first token */
    double read_bytes_per_s; /* 0: unknown */
    cf_bench_row rows[CF_MAX_COUNTS + CF_MAX_COUNTS * CF_MAX_COUNTS];
    size_t n_rows;
    const cf_stages *stages; /* or NULL */
} cf_bench_report;

typedef enum cf_bench_format {
    CF_BENCH_TABLE = 0,
    CF_BENCH_CSV = 1,
    CF_BENCH_JSON = 2,
} cf_bench_format;

cf_status cf_bench_print(const cf_bench_report *report, cf_bench_format format, cf_error *error);

#endif
