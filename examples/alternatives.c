/*
 * What a model expects at each position of a text: the probability of the token that is there, and
 * the three most probable ones.
 *
 *     alternatives MODEL "It was a dark and stormy night"
 */
#include <clusterfusion.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TOKENS = 1024, N_TOP = 3 };

static void print_token(const cf_tokenizer *tokenizer, cf_token id, float logprob)
{
    size_t n_bytes;
    const char *bytes = cf_tokenizer_bytes(tokenizer, id, &n_bytes);
    printf("  [%.*s] %.3f", (int)n_bytes, bytes, exp((double)logprob));
}

static cf_status run(cf_session *session, const cf_tokenizer *tokenizer, const char *text,
                     cf_error *error)
{
    static cf_token ids[MAX_TOKENS];
    static float logprobs[MAX_TOKENS];
    static cf_alternative top[MAX_TOKENS][N_TOP];
    size_t n;
    cf_status status =
        cf_tokenizer_encode(tokenizer, text, strlen(text), 0, ids, MAX_TOKENS, &n, error);
    cf_score_options options = {.size = sizeof options, .n_top = N_TOP};
    if (status == CF_STATUS_OK)
        status = cf_score(session, ids, n, &options, logprobs, top[0], error);
    if (status != CF_STATUS_OK)
        return status;
    double sum = 0;
    for (size_t i = 1; i < n; i++) { /* nothing precedes the first */
        print_token(tokenizer, ids[i], logprobs[i]);
        printf("   expected:");
        for (size_t j = 0; j < N_TOP; j++)
            print_token(tokenizer, top[i][j].id, top[i][j].logprob);
        putchar('\n');
        sum += (double)logprobs[i];
    }
    if (n > 1)
        printf("perplexity %.2f over %zu tokens\n", exp(-sum / (double)(n - 1)), n - 1);
    return status;
}

int main(int n_arguments, char **arguments)
{
    if (n_arguments != 3) {
        fprintf(stderr, "usage: alternatives MODEL TEXT\n");
        return 2;
    }
    cf_error error;
    cf_model *model = NULL;
    cf_tokenizer *tokenizer = NULL;
    cf_session *session = NULL;
    cf_status status = cf_model_open(arguments[1], NULL, &model, &error);
    if (status == CF_STATUS_OK)
        status = cf_tokenizer_open(arguments[1], &tokenizer, &error);
    if (status == CF_STATUS_OK)
        status = cf_session_create(model, NULL, &session, &error);
    if (status == CF_STATUS_OK)
        status = run(session, tokenizer, arguments[2], &error);
    if (status != CF_STATUS_OK)
        fprintf(stderr, "alternatives: %s\n", error.message);
    cf_session_free(session);
    cf_tokenizer_close(tokenizer);
    cf_model_close(model);
    return status == CF_STATUS_OK ? 0 : 1;
}
