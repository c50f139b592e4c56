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

static void print_table(const cf_bench_report *report)
{
    printf("%s  %s  %s  %zu threads  KV %s  %zu runs\n", report->date, report->model,
           report->backend, report->n_threads, report->kv, report->n_repeats);
    printf("%s\nmemory is read at ", report->backend_text);
    print_cell("%*.2f", 1, report->read_bytes_per_s * 1e-9);
    printf(" GB/s\n\n%-9s %6s  %20s  %20s  %9s  %9s  %s\n", "test", "tokens", "tokens/s",
           "ms/token", "GB/s", "GFLOP/s", "of the ceiling");
    for (size_t i = 0; i < report->n_rows; i++) {
        const cf_bench_row *row = &report->rows[i];
        /* "±" is two bytes wide and one column. */
        printf("%-9s %6zu  %10.2f ± %7.2f  %10.4f ± %7.4f  ", test_name(row), row->n_tokens,
               row->tokens_per_s.mean, row->tokens_per_s.deviation, row->ms_per_token.mean,
               row->ms_per_token.deviation);
        print_cell("%*.2f", 9, row->is_prompt ? 0 : row->reached * 1e-9);
        printf("  ");
        print_cell("%*.2f", 9, row->is_prompt ? row->reached * 1e-9 : 0);
        printf("  ");
        print_cell("%*.1f", 1, percent(row));
        printf(" %% of %s\n", row->is_prompt ? "the BLAS alone" : "reading memory");
    }
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
    putchar('\n');
}

static void print_csv(const cf_bench_report *report)
{
    printf("date,model,backend,backend_text,threads,kv,runs,test,tokens,tokens_per_s,"
           "tokens_per_s_deviation,ms_per_token,ms_per_token_deviation,gb_per_s,read_gb_per_s,"
           "percent_of_read,gflop_per_s,blas_gflop_per_s,percent_of_blas\n");
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
        "{s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "test", test_name(row), "n_tokens",
        (json_int_t)row->n_tokens, "tokens_per_s", cf_json_real(row->tokens_per_s.mean),
        "tokens_per_s_deviation", cf_json_real(row->tokens_per_s.deviation), "ms_per_token",
        cf_json_real(row->ms_per_token.mean), "ms_per_token_deviation",
        cf_json_real(row->ms_per_token.deviation), names[0], make_known(row->reached * 1e-9),
        names[1], make_known(row->ceiling * 1e-9), names[2], make_known(percent(row)));
}

static json_t *make_json(const cf_bench_report *report)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < report->n_rows; i++)
        json_array_append_new(rows, make_row(&report->rows[i]));
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:s, s:I, s:o, s:o}", "date", report->date, "model",
                     report->model, "backend", report->backend, "backend_text",
                     report->backend_text, "threads", (json_int_t)report->n_threads, "kv",
                     report->kv, "runs", (json_int_t)report->n_repeats, "read_gb_per_s",
                     make_known(report->read_bytes_per_s * 1e-9), "results", rows);
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
