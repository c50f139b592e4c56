/* The three forms of clusterfusion eval's results. */
#include "base/status.h"
#include "cli/eval.h"
#include "cli/output.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Columns on the screen: bytes that begin a character. */
static int width(const char *text)
{
    return (int)cf_count_characters(text, strlen(text));
}

static void pad(int n)
{
    printf("%*s", n > 0 ? n : 0, "");
}

static bool is_measured(const cf_eval_row *row)
{
    return row->error.status == CF_STATUS_OK;
}

/* "12.34 ± 0.05", to the right of `columns`; without an error where there is none. */
static void print_estimate(cf_estimate value, double scale, int digits, int columns)
{
    char text[96];
    if (isfinite(value.error))
        snprintf(text, sizeof text, "%.*f ± %.*f", digits, value.mean * scale, digits,
                 value.error * scale);
    else
        snprintf(text, sizeof text, "%.*f", digits, value.mean * scale);
    pad(columns - width(text));
    fputs(text, stdout);
}

static void print_text_row(const cf_text_result *result)
{
    printf("  %9zu", result->n_tokens);
    print_estimate(result->loss, 1, 4, 17);
    print_estimate(result->perplexity, 1, 3, 21);
    printf("  %9.4f  %13.6g\n", result->bits_per_byte, result->word_perplexity);
}

static void print_tasks_row(const cf_tasks_result *result)
{
    printf("  %9zu", result->n_questions);
    print_estimate(result->acc, 100, 2, 17);
    print_estimate(result->acc_norm, 100, 2, 17);
    print_estimate(result->acc_bytes, 100, 2, 17);
    putchar('\n');
}

static void print_table(const cf_eval_args *args, const cf_eval_row *rows, size_t n)
{
    int columns = (int)sizeof "model" - 1;
    for (size_t i = 0; i < n; i++) {
        if (is_measured(&rows[i]) && width(rows[i].model) > columns)
            columns = width(rows[i].model);
    }
    printf("%-*s  %-8s  ", columns, "model", "weights");
    if (args->file != NULL)
        printf("%9s%17s%21s  %9s  %13s\n", "tokens", "nats a token", "perplexity", "bits/byte",
               "word perplex.");
    else
        printf("%9s%17s%17s%17s\n", "questions", "acc %", "acc_norm %", "acc_bytes %");
    for (size_t i = 0; i < n; i++) {
        if (!is_measured(&rows[i]))
            continue;
        fputs(rows[i].model, stdout);
        pad(columns - width(rows[i].model));
        printf("  %-8.8s", rows[i].hash[0] != 0 ? rows[i].hash : "-");
        if (args->file != NULL)
            print_text_row(&rows[i].text);
        else
            print_tasks_row(&rows[i].tasks);
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

/* What is not known is empty. */
static void print_csv_number(double value)
{
    if (isfinite(value))
        printf(",%.9g", value);
    else
        putchar(',');
}

static void print_csv_estimate(cf_estimate value)
{
    print_csv_number(value.mean);
    print_csv_number(value.error);
}

void cf_eval_print_csv_row(const cf_eval_args *args, const cf_eval_row *row, bool first)
{
    const cf_text_result *text = &row->text;
    const cf_tasks_result *tasks = &row->tasks;
    if (first && args->file != NULL)
        puts("model,hash,tokens,words,bytes,loss,loss_stderr,perplexity,perplexity_stderr,"
             "bits_per_byte,byte_perplexity,word_perplexity");
    else if (first)
        puts("model,hash,questions,truncated,acc,acc_stderr,acc_norm,acc_norm_stderr,acc_bytes,"
             "acc_bytes_stderr");
    print_csv_text(row->model);
    printf(",%s", row->hash);
    if (args->file != NULL) {
        printf(",%zu,%zu,%zu", text->n_tokens, text->n_words, text->n_bytes);
        print_csv_estimate(text->loss);
        print_csv_estimate(text->perplexity);
        print_csv_number(text->bits_per_byte);
        print_csv_number(text->byte_perplexity);
        print_csv_number(text->word_perplexity);
    } else {
        printf(",%zu,%zu", tasks->n_questions, tasks->n_truncated);
        print_csv_estimate(tasks->acc);
        print_csv_estimate(tasks->acc_norm);
        print_csv_estimate(tasks->acc_bytes);
    }
    putchar('\n');
}

static json_t *make_text(const cf_text_result *result)
{
    return json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "tokens",
                     (json_int_t)result->n_tokens, "words", (json_int_t)result->n_words, "bytes",
                     (json_int_t)result->n_bytes, "loss", cf_json_real(result->loss.mean),
                     "loss_stderr", cf_json_real(result->loss.error), "perplexity",
                     cf_json_real(result->perplexity.mean), "perplexity_stderr",
                     cf_json_real(result->perplexity.error), "bits_per_byte",
                     cf_json_real(result->bits_per_byte), "byte_perplexity",
                     cf_json_real(result->byte_perplexity), "word_perplexity",
                     cf_json_real(result->word_perplexity));
}

static json_t *make_tasks(const cf_tasks_result *result)
{
    return json_pack(
        "{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "questions", (json_int_t)result->n_questions,
        "truncated", (json_int_t)result->n_truncated, "acc", cf_json_real(result->acc.mean),
        "acc_stderr", cf_json_real(result->acc.error), "acc_norm",
        cf_json_real(result->acc_norm.mean), "acc_norm_stderr",
        cf_json_real(result->acc_norm.error), "acc_bytes", cf_json_real(result->acc_bytes.mean),
        "acc_bytes_stderr", cf_json_real(result->acc_bytes.error));
}

static json_t *make_row(const cf_eval_args *args, const cf_eval_row *row)
{
    json_t *object = json_pack("{s:o, s:s?}", "model", cf_json_path(row->model), "hash",
                               row->hash[0] != 0 ? row->hash : NULL);
    json_t *result = args->file != NULL ? make_text(&row->text) : make_tasks(&row->tasks);
    if (object == NULL || json_object_update_new(object, result) != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *make_failure(const cf_eval_row *row)
{
    return json_pack("{s:o, s:o}", "model", cf_json_path(row->model), "error",
                     cf_json_path(row->error.message));
}

static json_t *make_json(const cf_eval_args *args, const cf_eval_row *rows, size_t n)
{
    json_t *results = json_array(), *failed = json_array();
    for (size_t i = 0; i < n; i++) {
        bool is_fine = is_measured(&rows[i]);
        if (json_array_append_new(is_fine ? results : failed,
                                  is_fine ? make_row(args, &rows[i]) : make_failure(&rows[i])) !=
            0) {
            json_decref(results);
            json_decref(failed);
            return NULL;
        }
    }
    const char *kind = args->file != NULL ? "file" : "tasks";
    const char *path = args->file != NULL ? args->file : args->tasks;
    return json_pack("{s:o, s:o, s:o}", kind, cf_json_path(path), "results", results, "failed",
                     failed);
}

cf_status cf_eval_print(const cf_eval_args *args, const cf_eval_row *rows, size_t n,
                        cf_error *error)
{
    if (args->format == CF_EVAL_JSON)
        return cf_json_print(make_json(args, rows, n), error);
    if (args->format == CF_EVAL_TABLE)
        print_table(args, rows, n);
    return CF_STATUS_OK;
}
