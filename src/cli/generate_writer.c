/* The output of clusterfusion generate. */
#include "base/status.h"
#include "cli/generate.h"
#include "cli/output.h"
#include "cli/report.h"

#include <stdlib.h>

cf_status cf_writer_open(cf_writer *writer, cf_error *error)
{
    if (!writer->args->json)
        return CF_STATUS_OK;
    writer->text = open_memstream(&writer->text_data, &writer->text_bytes);
    writer->ids = json_array();
    writer->logprobs = json_array();
    writer->top = json_array();
    if (writer->text == NULL || writer->ids == NULL || writer->logprobs == NULL ||
        writer->top == NULL)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "gathering the JSON output");
    return CF_STATUS_OK;
}

void cf_writer_close(cf_writer *writer)
{
    if (writer->text != NULL)
        fclose(writer->text);
    free(writer->text_data);
    json_decref(writer->ids);
    json_decref(writer->logprobs);
    json_decref(writer->top);
}

/* Text that is not there may have no address either, which fwrite() does not take. */
static bool write_text(const cf_event *event, FILE *stream)
{
    return event->n_text == 0 || fwrite(event->text, 1, event->n_text, stream) == event->n_text;
}

static void print_id(cf_writer *writer, cf_token id)
{
    printf(writer->spaced ? " %d" : "%d", id);
    writer->spaced = true;
}

static void print_ids(cf_writer *writer, const cf_ids *ids)
{
    cf_bytes text = {0};
    if (writer->tokenizer == NULL) {
        for (size_t i = 0; i < ids->n; i++)
            print_id(writer, ids->values[i]);
    } else if (cf_bytes_decode(writer->tokenizer, ids, 0, &text, NULL) == CF_STATUS_OK) {
        fwrite(text.data, 1, text.n, stdout);
    }
    cf_bytes_free(&text);
}

/* Text is echoed as it was given; ids as the text that they stand for. */
static void print_prompt(cf_writer *writer)
{
    const cf_input *input = writer->input;
    if (writer->args->source.ids != NULL)
        print_ids(writer, &input->ids);
    else
        fwrite(input->text.data, 1, input->text.n, stdout);
}

/* Prints what became certain at once: whoever reads the other end wants to see it grow. */
static bool stream(cf_writer *writer, const cf_event *event)
{
    if (!writer->begun && !writer->args->no_prompt)
        print_prompt(writer);
    writer->begun = true;
    if (writer->tokenizer != NULL)
        write_text(event, stdout);
    else if (event->kind == CF_EVENT_TOKEN)
        print_id(writer, event->token);
    return cf_output_flush();
}

static json_t *make_alternatives(const cf_event *event)
{
    json_t *array = json_array();
    for (size_t i = 0; i < event->n_top; i++) {
        json_t *item = json_pack("{s:i, s:o}", "id", event->top[i].id, "logprob",
                                 cf_json_real((double)event->top[i].logprob));
        json_array_append_new(array, item);
    }
    return array;
}

static bool gather(cf_writer *writer, const cf_event *event)
{
    bool kept = write_text(event, writer->text);
    if (event->kind == CF_EVENT_TOKEN) {
        json_t *logprob = cf_json_real((double)event->logprob);
        kept = json_array_append_new(writer->ids, json_integer(event->token)) == 0 && kept;
        kept = json_array_append_new(writer->logprobs, logprob) == 0 && kept;
        kept = json_array_append_new(writer->top, make_alternatives(event)) == 0 && kept;
    }
    writer->out_of_memory = writer->out_of_memory || !kept;
    return kept;
}

bool cf_writer_on_event(void *user, const cf_event *event)
{
    cf_writer *writer = user;
    if (event->kind == CF_EVENT_PROMPT)
        return cf_progress_update(&writer->progress, "prompt", event->n_prompt,
                                  event->n_prompt_total);
    cf_progress_clear(&writer->progress);
    bool written = writer->args->json ? gather(writer, event) : stream(writer, event);
    return written && !cf_interrupt_seen();
}

static double rate(size_t n, uint64_t ns)
{
    return ns > 0 ? (double)n * 1e9 / (double)ns : 0;
}

/* The first token comes of the prompt's evaluation; each later one of one of its own. */
static size_t count_steps(const cf_generate_stats *stats)
{
    return stats->n_tokens > 0 ? stats->n_tokens - 1 : 0;
}

static json_t *make_stats(const cf_generate_stats *stats, const char *backend)
{
    char hash[17];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)stats->logits_hash);
    size_t n_evaluated = stats->n_prompt - stats->n_reused;
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:s, s:s}", "n_prompt",
                     (json_int_t)stats->n_prompt, "n_tokens", (json_int_t)stats->n_tokens,
                     "prompt_ms", cf_json_real((double)stats->prompt_ns * 1e-6), "decode_ms",
                     cf_json_real((double)stats->decode_ns * 1e-6), "prompt_tokens_per_s",
                     cf_json_real(rate(n_evaluated, stats->prompt_ns)), "decode_tokens_per_s",
                     cf_json_real(rate(count_steps(stats), stats->decode_ns)), "logits_hash", hash,
                     "backend", backend);
}

static cf_status print_json(cf_writer *writer, const cf_generate_stats *stats, cf_error *error)
{
    if (writer->out_of_memory || fflush(writer->text) != 0)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "gathering the JSON output");
    const cf_ids *prompt = &writer->input->ids;
    const cf_model_info *info = cf_model_info_get(writer->model);
    json_t *object = json_pack("{s:o, s:O, s:o, s:s, s:O, s:o}", "prompt_ids",
                               cf_json_ids(prompt->values, prompt->n), "ids", writer->ids, "text",
                               json_stringn(writer->text_data, writer->text_bytes), "finish_reason",
                               cf_finish_name(stats->finish), "logprobs", writer->logprobs, "stats",
                               make_stats(stats, cf_backend_name(info->backend)));
    if (object != NULL && writer->args->n_top > 0)
        json_object_set(object, "top_logprobs", writer->top);
    return cf_json_print(object, error);
}

static void print_stats(const cf_writer *writer, const cf_generate_stats *stats)
{
    const cf_model_info *info = cf_model_info_get(writer->model);
    cf_report_note("prompt %zu tokens, %.1f ms, %.1f tokens/s; generated %zu tokens, %.1f ms, "
                   "%.1f tokens/s; %s; logits %016llx; %s",
                   stats->n_prompt, (double)stats->prompt_ns * 1e-6,
                   rate(stats->n_prompt - stats->n_reused, stats->prompt_ns), stats->n_tokens,
                   (double)stats->decode_ns * 1e-6, rate(count_steps(stats), stats->decode_ns),
                   cf_finish_name(stats->finish), (unsigned long long)stats->logits_hash,
                   info->backend_text);
}

cf_status cf_writer_finish(cf_writer *writer, const cf_generate_stats *stats, cf_error *error)
{
    cf_progress_clear(&writer->progress);
    if (writer->args->json)
        return print_json(writer, stats, error);
    putchar('\n');
    if (cf_output_flush())
        print_stats(writer, stats);
    return CF_STATUS_OK;
}
