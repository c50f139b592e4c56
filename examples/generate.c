/*
 * Text from a model, as it is written:
 *
 *     generate MODEL "It was a dark night, and" 64
 */
#include <clusterfusion.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Text comes in whole characters, as soon as it is certain. */
static bool print_text(void *user, const cf_event *event)
{
    FILE *to = user;
    fwrite(event->text, 1, event->n_text, to);
    return fflush(to) == 0; /* false, when nobody reads any more, ends the generation */
}

static void print_stats(const cf_generate_stats *stats)
{
    double n_steps = stats->n_tokens > 1 ? (double)(stats->n_tokens - 1) : 0;
    fprintf(stderr, "%zu tokens, %.0f tokens/s, finish: %s, logits %016" PRIx64 "\n",
            stats->n_tokens, stats->decode_ns > 0 ? 1e9 * n_steps / (double)stats->decode_ns : 0,
            cf_finish_name(stats->finish), stats->logits_hash);
}

static cf_status run(const cf_model *model, const cf_tokenizer *tokenizer, const char *prompt,
                     size_t max_tokens, cf_error *error)
{
    cf_session *session;
    cf_status status = cf_session_create(model, NULL, &session, error);
    if (status != CF_STATUS_OK)
        return status;
    cf_sampling sampling = {
        .size = sizeof sampling, .temperature = 0.8f, .top_p = 0.95f, .seed = 1};
    cf_generate_options options = {.size = sizeof options, .sampling = &sampling};
    cf_generate_stats stats;
    status = cf_generate_text(session, tokenizer, prompt, max_tokens, &options, print_text, stdout,
                              &stats, error);
    if (status == CF_STATUS_OK) {
        putchar('\n');
        print_stats(&stats);
    }
    cf_session_free(session);
    return status;
}

int main(int n_arguments, char **arguments)
{
    if (n_arguments != 4) {
        fprintf(stderr, "usage: generate MODEL PROMPT TOKENS\n");
        return 2;
    }
    cf_error error;
    cf_model *model = NULL;
    cf_tokenizer *tokenizer = NULL;
    cf_status status = cf_model_open(arguments[1], NULL, &model, &error);
    if (status == CF_STATUS_OK)
        status = cf_tokenizer_open(arguments[1], &tokenizer, &error);
    if (status == CF_STATUS_OK)
        status = run(model, tokenizer, arguments[2], strtoul(arguments[3], NULL, 10), &error);
    if (status != CF_STATUS_OK)
        fprintf(stderr, "generate: %s\n", error.message);
    cf_tokenizer_close(tokenizer);
    cf_model_close(model);
    return status == CF_STATUS_OK ? 0 : 1;
}
