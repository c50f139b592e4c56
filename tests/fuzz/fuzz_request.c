/*
 * Any bytes as the body of a completion or a chat: refused with a fault of the client's, or a
 * request within its bounds, whose prompts can be encoded. Runs in the project's root.
 */
#include "serve/chat.h"
#include "serve/request.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static const cf_tokenizer *tokenizer(void)
{
    static cf_tokenizer *opened;
    cf_error error;
    if (opened == NULL && cf_tokenizer_open("tests/data/tokenizer", &opened, &error) != 0) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    return opened;
}

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_prompts(const cf_request *request, const cf_request_limits *limits)
{
    require(request->n_prompts >= 1 && request->n_prompts <= CF_MAX_PROMPTS);
    for (size_t i = 0; i < request->n_prompts; i++) {
        const cf_prompt *prompt = &request->prompts[i];
        require(prompt->n_ids >= 1 && prompt->n_ids <= limits->n_context);
        for (size_t k = 0; k < prompt->n_ids; k++)
            require(prompt->ids[k] >= 0 && prompt->ids[k] < limits->n_vocab);
    }
}

static void check_settings(const cf_request *request, const cf_request_limits *limits)
{
    const cf_sampling *sampling = &request->sampling;
    require(request->n >= 1 && request->best_of >= request->n);
    require(request->n_prompts * request->best_of <= CF_MAX_CHOICES_ALL);
    require(sampling->temperature >= 0 && sampling->temperature <= 2);
    require(sampling->top_p > 0 && sampling->top_p <= 1 && sampling->top_k >= 0);
    require(sampling->min_p >= 0 && sampling->min_p < 1);
    require(request->n_top >= 0 && request->n_top <= CF_MAX_TOP_LOGPROBS);
    for (size_t i = 0; i < sampling->n_bias; i++) {
        require(sampling->bias[i].id >= 0 && sampling->bias[i].id < limits->n_vocab);
        require(sampling->bias[i].bias <= 100 && !isnan(sampling->bias[i].bias));
    }
    for (size_t i = 0; i < request->n_stops; i++)
        require(request->stops[i][0] != 0);
}

static void check(bool is_read, cf_request *request, const cf_request_limits *limits,
                  cf_fault *fault)
{
    if (is_read && cf_request_encode(request, tokenizer(), limits, fault)) {
        require(fault->http == 0);
        check_prompts(request, limits);
        check_settings(request, limits);
    } else {
        require(fault->http == 400 && fault->message[0] != 0);
        json_t *object = cf_fault_json(fault);
        require(object != NULL);
        json_decref(object);
    }
    cf_request_free(request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    const cf_request_limits limits = {
        .n_vocab = (int32_t)cf_tokenizer_n_vocab(tokenizer()), .n_context = 64, .n_longest = 16};
    const char *body = (const char *)data;
    cf_request request;
    cf_fault fault = {0};
    bool is_read = cf_request_parse(body, n_bytes, &limits, &request, &fault);
    check(is_read, &request, &limits, &fault);
    fault = (cf_fault){0};
    is_read = cf_chat_parse(body, n_bytes, "<{role}>{content}\n", &limits, &request, &fault);
    check(is_read, &request, &limits, &fault);
    return 0;
}
