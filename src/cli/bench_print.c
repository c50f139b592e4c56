/* The three forms of clusterfusion bench's results. */
#include "base/status.h"
#include "cli/bench.h"
#include "cli/output.h"

#include <math.h>
#include <stdio.h>

static const char *test_name(const cf_bench_row *row)
{
    return row->is_prompt ? "prompt" : "generate";
}

static double percent(const cf_bench_row *row)
{
    return 100 * row->reached / row->ceiling;
}

/* What is not known is a dash. */
static void print_cell(const char *format, int width, double value)
{
    if (value > 0 && isfinite(value))
        printf(format, width, value);
    else
        printf("%*s", width, "-");
}

/* "64", or "64@2048": after 2,048 others. */
typedef struct length_text {
    char text[48];
} length_text;

static length_text length_of(const cf_bench_row *row)
{
    length_text length;
    if (row->depth > 0)
        snprintf(length.text, sizeof length.text, "%zu@%zu", row->n_tokens, row->depth);
    else
        snprintf(length.text, sizeof length.text, "%zu", row->n_tokens);
    return length;
}

static void print_percent(const cf_bench_row *row)
{
    double value = percent(row);
    if (value > 0 && isfinite(value))
        printf("  %.1f %% of %s\n", value, row->is_prompt ? "the BLAS alone" : "reading memory");
    else
        printf("  -\n");
}

static void print_stages(const cf_stages *stages)
{
    cf_stage_times times[CF_MAX_STAGES];
    size_t n = cf_stages_sum_up(stages, times);
    printf("\na layer of the token at position %zu, µs: over blocks, mean of the layers\n"
           "%-11s %-17s %9s %9s %9s\n",
           stages->pos, "role", "stage", "mean", "min", "max");
    for (size_t i = 0; i < n; i++)
        printf("%-11s %-17s %9.2f %9.2f %9.2f\n", times[i].role, times[i].stage, times[i].mean_us,
               times[i].min_us, times[i].max_us);
}

static void print_table(const cf_bench_report *report)
{
    printf("%s  %s  %s  %zu threads  KV %s  %zu runs\n", report->date, report->model,
           report->backend, report->n_threads, report->kv, report->n_repeats);
    printf("%s\nready after %.2f s, memory is read at ", report->backend_text, report->open_s);
    print_cell("%*.2f", 1, report->read_bytes_per_s * 1e-9);
    printf(" GB/s\n\n%-9s %9s  %20s  %20s  %9s  %9s  %9s  %s\n", "test", "tokens", "tokens/s",
           "ms/token", "MB/token", "GB/s", "GFLOP/s", "of the ceiling");
    for (size_t i = 0; i < report->n_rows; i++) {
        const cf_bench_row *row = &report->rows[i];
        /* "±" is two bytes wide and one column. */
        printf("%-9s %9s  %10.2f ± %7.2f  %10.4f ± %7.4f  ", test_name(row), length_of(row).text,
               row->tokens_per_s.mean, row->tokens_per_s.deviation, row->ms_per_token.mean,
               row->ms_per_token.deviation);
        print_cell("%*.2f", 9, row->bytes_per_token * 1e-6);
        printf("  ");
        print_cell("%*.2f", 9, row->is_prompt ? 0 : row->reached * 1e-9);
        printf("  ");
        print_cell("%*.2f", 9, row->is_prompt ? row->reached * 1e-9 : 0);
        print_percent(row);
    }
    if (report->stages != NULL)
        print_stages(report->stages);
}

static void print_csv_text(const char *text)
{
    putchar('"');
    for (; *text != 0; text++) {
        if (*text == '"')
            putchar('"');
        putchar(*text);
    }
    putchar('"');
}

/* What is not known, or not of this test, is empty. */
static void print_csv_number(double value)
{
    if (value > 0 && isfinite(value))
        printf(",%.6g", value);
    else
        putchar(',');
}

static void print_csv_row(const cf_bench_report *report, const cf_bench_row *row)
{
    printf("%s,", report->date);
    print_csv_text(report->model);
    printf(",%s,", report->backend);
    print_csv_text(report->backend_text);
    printf(",%zu,%s,%zu,%s,%zu,%.6g,%.6g,%.6g,%.6g", report->n_threads, report->kv,
           report->n_repeats, test_name(row), row->n_tokens, row->tokens_per_s.mean,
           row->tokens_per_s.deviation, row->ms_per_token.mean, row->ms_per_token.deviation);
    print_csv_number(row->is_prompt ? 0 : row->reached * 1e-9);
    print_csv_number(report->read_bytes_per_s * 1e-9);
    print_csv_number(row->is_prompt ? 0 : percent(row));
    print_csv_number(row->is_prompt ? row->reached * 1e-9 : 0);
    print_csv_number(row->is_prompt ? row->ceiling * 1e-9 : 0);
    print_csv_number(row->is_prompt ? percent(row) : 0);
    printf(",%zu", row->depth);
    print_csv_number(row->bytes_per_token);
    printf(",%.6g\n", report->open_s);
}

static void print_csv(const cf_bench_report *report)
{
    printf("date,model,backend,backend_text,threads,kv,runs,test,tokens,tokens_per_s,"
           "tokens_per_s_deviation,ms_per_token,ms_per_token_deviation,gb_per_s,read_gb_per_s,"
           "percent_of_read,gflop_per_s,blas_gflop_per_s,percent_of_blas,depth,"
           "bytes_per_token,open_s\n");
    for (size_t i = 0; i < report->n_rows; i++)
        print_csv_row(report, &report->rows[i]);
}

/* What is not known is null. */
static json_t *make_known(double value)
{
    return value > 0 ? cf_json_real(value) : json_null();
}

static json_t *make_row(const cf_bench_row *row)
{
    const char *const keys[2][3] = {{"gb_per_s", "read_gb_per_s", "percent_of_read"},
                                    {"gflop_per_s", "blas_gflop_per_s", "percent_of_blas"}};
    const char *const *names = keys[row->is_prompt];
    return json_pack(
        "{s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "test", test_name(row),
        "n_tokens", (json_int_t)row->n_tokens, "depth", (json_int_t)row->depth, "bytes_per_token",
        make_known(row->bytes_per_token), "tokens_per_s", cf_json_real(row->tokens_per_s.mean),
        "tokens_per_s_deviation", cf_json_real(row->tokens_per_s.deviation), "ms_per_token",
        cf_json_real(row->ms_per_token.mean), "ms_per_token_deviation",
        cf_json_real(row->ms_per_token.deviation), names[0], make_known(row->reached * 1e-9),
        names[1], make_known(row->ceiling * 1e-9), names[2], make_known(percent(row)));
}

static json_t *make_stages(const cf_stages *stages)
{
    cf_stage_times times[CF_MAX_STAGES];
    size_t n = cf_stages_sum_up(stages, times);
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array,
                              json_pack("{s:s, s:s, s:o, s:o, s:o}", "role", times[i].role, "stage",
                                        times[i].stage, "mean_us", cf_json_real(times[i].mean_us),
                                        "min_us", cf_json_real(times[i].min_us), "max_us",
                                        cf_json_real(times[i].max_us)));
    return json_pack("{s:I, s:o}", "pos", (json_int_t)stages->pos, "times", array);
}

static json_t *make_json(const cf_bench_report *report)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < report->n_rows; i++)
        json_array_append_new(rows, make_row(&report->rows[i]));
    json_t *json =
        json_pack("{s:s, s:o, s:s, s:s, s:I, s:s, s:I, s:o, s:o, s:o}", "date", report->date,
                  "model", cf_json_path(report->model), "backend", report->backend, "backend_text",
                  report->backend_text, "threads", (json_int_t)report->n_threads, "kv", report->kv,
                  "runs", (json_int_t)report->n_repeats, "open_s", cf_json_real(report->open_s),
                  "read_gb_per_s", make_known(report->read_bytes_per_s * 1e-9), "results", rows);
    if (report->stages != NULL)
        json_object_set_new(json, "stages", make_stages(report->stages));
    return json;
}

cf_status cf_bench_print(const cf_bench_report *report, cf_bench_format format, cf_error *error)
{
    if (format == CF_BENCH_JSON)
        return cf_json_print(make_json(report), error);
    if (format == CF_BENCH_CSV)
        print_csv(report);
    else
        print_table(report);
    return CF_STATUS_OK;
}
