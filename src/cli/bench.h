/* What bench's two files share: what was measured. */
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
    cf_spread tokens_per_s, ms_per_token;
    double reached; /* operations of matrix products a second; or bytes read; 0: unknown */
    double ceiling; /* what that is held against; 0: unknown */
} cf_bench_row;

typedef struct cf_bench_report {
    char date[32]; /* UTC, ISO 8601 */
    const char *model, *backend, *backend_text, *kv;
    size_t n_threads, n_repeats;
    double read_bytes_per_s; /* 0: unknown */
    cf_bench_row rows[2 * CF_MAX_COUNTS];
    size_t n_rows;
} cf_bench_report;

typedef enum cf_bench_format {
    CF_BENCH_TABLE = 0,
    CF_BENCH_CSV = 1,
    CF_BENCH_JSON = 2,
} cf_bench_format;

cf_status cf_bench_print(const cf_bench_report *report, cf_bench_format format, cf_error *error);

#endif
