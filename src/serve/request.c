#include "serve/request.h"

#include "base/json.h"
#include "serve/fields.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MAX_TOKENS 16 /* OpenAI's */

/* ---- Memory ---- */

static bool no_memory(cf_fault *fault)
{
    return cf_fault_set(fault, 503, NULL, "out_of_memory", "not enough memory for the request");
}

static void *copy_bytes(const char *data, size_t n_bytes)
{
    char *copy = malloc(n_bytes + 1);
    if (copy != NULL) {
        memcpy(copy, data, n_bytes);
        copy[n_bytes] = 0;
    }
    return copy;
}

void cf_request_free(cf_request *request)
{
    for (size_t i = 0; i < request->n_prompts; i++) {
        free(request->prompts[i].text);
        free(request->prompts[i].ids);
    }
    free(request->prompts);
    for (size_t i = 0; i < request->n_stops; i++)
        free(request->stops[i]);
    free((void *)request->sampling.bias);
    *request = (cf_request){0};
}

/* ---- Prompts ---- */

static bool allocate_prompts(cf_request *request, size_t n, cf_fault *fault)
{
    if (n == 0 || n > CF_MAX_PROMPTS)
        return cf_fault_set(fault, 400, "prompt", "invalid_value",
                            "prompt: expected 1 to %d prompts, found %zu", CF_MAX_PROMPTS, n);
    request->prompts = calloc(n, sizeof *request->prompts);
    if (request->prompts == NULL)
        return no_memory(fault);
    request->n_prompts = n;
    return true;
}

static bool set_text(cf_prompt *prompt, const char *text, size_t n_bytes, cf_fault *fault)
{
    prompt->text = copy_bytes(text, n_bytes);
    prompt->n_bytes = n_bytes;
    return prompt->text != NULL || no_memory(fault);
}

bool cf_request_set_text(cf_request *request, const char *text, size_t n_bytes, cf_fault *fault)
{
    return allocate_prompts(request, 1, fault) &&
           set_text(&request->prompts[0], text, n_bytes, fault);
}

static bool check_length(size_t n, const cf_request_limits *limits, cf_fault *fault)
{
    return n <= limits->n_context ||
           cf_fault_set(fault, 400, "prompt", "context_length_exceeded",
                        "prompt: %zu tokens, the context holds %zu", n, limits->n_context);
}

static bool read_ids(const json_t *array, const cf_request_limits *limits, cf_prompt *prompt,
                     cf_fault *fault)
{
    size_t n = json_array_size(array);
    if (n == 0)
        return cf_fault_set(fault, 400, "prompt", "invalid_value", "prompt: a list of no tokens");
    if (!check_length(n, limits, fault))
        return false;
    prompt->ids = malloc(n * sizeof *prompt->ids);
    if (prompt->ids == NULL)
        return no_memory(fault);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, i);
        if (!json_is_integer(item))
            return cf_field_wrong("prompt", "only token ids in the list", item, fault);
        json_int_t id = json_integer_value(item);
        if (id < 0 || id >= limits->n_vocab)
            return cf_fault_set(fault, 400, "prompt", "invalid_value",
                                "prompt: token %zu is %lld, the vocabulary has ids 0 to %d", i,
                                (long long)id, limits->n_vocab - 1);
        prompt->ids[i] = (cf_token)id;
    }
    prompt->n_ids = n;
    return true;
}

/* The token that stands for nothing before the text: what the model saw at a document's start. */
static bool set_empty(cf_prompt *prompt, const cf_request_limits *limits, cf_fault *fault)
{
    if (limits->first_token < 0)
        return cf_fault_set(fault, 400, "prompt", "invalid_value",
                            "prompt: empty, and the model has no end-of-text token to begin with");
    prompt->ids = malloc(sizeof *prompt->ids);
    if (prompt->ids == NULL)
        return no_memory(fault);
    prompt->ids[0] = limits->first_token;
    prompt->n_ids = 1;
    return true;
}

static bool read_prompt_item(const json_t *item, const cf_request_limits *limits, cf_prompt *prompt,
                             cf_fault *fault)
{
    if (json_is_string(item))
        return set_text(prompt, json_string_value(item), json_string_length(item), fault);
    if (json_is_array(item))
        return read_ids(item, limits, prompt, fault);
    return cf_field_wrong("prompt", "a string or a list of token ids in the list", item, fault);
}

static bool read_prompts(const json_t *root, const cf_request_limits *limits, cf_request *request,
                         cf_fault *fault)
{
    const json_t *field = cf_field(root, "prompt");
    bool is_list = json_is_array(field) && !json_is_integer(json_array_get(field, 0));
    if (field != NULL && !json_is_array(field) && !json_is_string(field))
        return cf_field_wrong("prompt", "a string, strings, token ids, or lists of token ids",
                              field, fault);
    if (!allocate_prompts(request, is_list ? json_array_size(field) : 1, fault))
        return false;
    if (field == NULL)
        return set_empty(&request->prompts[0], limits, fault);
    if (!is_list)
        return read_prompt_item(field, limits, &request->prompts[0], fault);
    for (size_t i = 0; i < request->n_prompts; i++) {
        if (!read_prompt_item(json_array_get(field, i), limits, &request->prompts[i], fault))
            return false;
    }
    return true;
}

/* Every token stands for at least one byte and at most n_longest; normalisation to NFC makes text
 * at most three times shorter (Unicode Standard Annex #15). */
static bool is_hopeless(size_t n_bytes, const cf_request_limits *limits)
{
    return n_bytes / 3 / limits->n_longest > limits->n_context;
}

static bool encode_prompt(cf_prompt *prompt, const cf_tokenizer *tokenizer,
                          const cf_request_limits *limits, cf_fault *fault)
{
    if (prompt->n_bytes == 0)
        return set_empty(prompt, limits, fault);
    if (tokenizer == NULL || limits->n_longest == 0)
        return cf_fault_set(fault, 400, "prompt", "invalid_value",
                            "prompt: the model has no tokenizer, expected token ids");
    if (is_hopeless(prompt->n_bytes, limits))
        return cf_fault_set(fault, 400, "prompt", "context_length_exceeded",
                            "prompt: a text of %zu bytes, the context holds %zu tokens",
                            prompt->n_bytes, limits->n_context);
    size_t capacity = limits->n_context;
    prompt->ids = malloc(capacity * sizeof *prompt->ids);
    if (prompt->ids == NULL)
        return no_memory(fault);
    cf_error error;
    cf_status status = cf_tokenizer_encode(tokenizer, prompt->text, prompt->n_bytes, 0, prompt->ids,
                                           capacity, &prompt->n_ids, &error);
    if (status == CF_STATUS_BUFFER_TOO_SMALL)
        return check_length(prompt->n_ids, limits, fault);
    if (status != CF_STATUS_OK)
        return cf_fault_from_error(fault, &error);
    return prompt->n_ids > 0 ||
           cf_fault_set(fault, 400, "prompt", "invalid_value", "prompt: a text of no tokens");
}

/* A prompt's ids were reserved for a whole context. */
static void shrink(cf_prompt *prompt)
{
    cf_token *ids = realloc(prompt->ids, prompt->n_ids * sizeof *ids);
    if (ids != NULL)
        prompt->ids = ids;
}

/* Log-probabilities are by far the largest part of an answer, which is built in memory. */
static bool check_answer(const cf_request *request, const cf_request_limits *limits,
                         cf_fault *fault)
{
    size_t n_tokens = 0, n_each = 1 + (size_t)request->n_top;
    for (size_t i = 0; i < request->n_prompts && request->has_logprobs; i++) {
        size_t n_ids = request->prompts[i].n_ids;
        size_t n_free = n_ids < limits->n_context ? limits->n_context - n_ids : 0;
        n_tokens += (request->echo ? n_ids : 0) +
                    (request->max_tokens < n_free ? request->max_tokens : n_free);
    }
    size_t n_choices = request->best_of > 0 ? request->best_of : 1;
    return n_tokens * n_choices * n_each <= CF_MAX_LOGPROBS_ALL ||
           cf_fault_set(fault, 400, "logprobs", "invalid_value",
                        "logprobs: tokens times choices times alternatives: at most %d, found %zu",
                        CF_MAX_LOGPROBS_ALL, n_tokens * n_choices * n_each);
}

static bool check_tokens(const cf_request *request, cf_fault *fault)
{
    return request->min_tokens <= request->max_tokens ||
           cf_fault_set(fault, 400, "min_tokens", "invalid_value",
                        "min_tokens: expected at most max_tokens, %zu, found %zu",
                        request->max_tokens, request->min_tokens);
}

bool cf_request_encode(cf_request *request, const cf_tokenizer *tokenizer,
                       const cf_request_limits *limits, cf_fault *fault)
{
    if (!check_tokens(request, fault))
        return false;
    for (size_t i = 0; i < request->n_prompts; i++) {
        cf_prompt *prompt = &request->prompts[i];
        if (prompt->ids != NULL)
            continue;
        if (!encode_prompt(prompt, tokenizer, limits, fault))
            return false;
        shrink(prompt);
    }
    return check_answer(request, limits, fault);
}

/* ---- Settings ---- */

static bool read_stop(const json_t *item, cf_request *request, cf_fault *fault)
{
    if (!json_is_string(item))
        return cf_field_wrong("stop", "a string or a list of strings", item, fault);
    const char *text = json_string_value(item);
    size_t n_bytes = json_string_length(item);
    if (n_bytes == 0 || n_bytes > CF_MAX_STOP_BYTES || strlen(text) != n_bytes)
        return cf_fault_set(fault, 400, "stop", "invalid_value",
                            "stop: expected strings of 1 to %d bytes without zero bytes, found %zu",
                            CF_MAX_STOP_BYTES, n_bytes);
    char *copy = copy_bytes(text, n_bytes);
    if (copy == NULL)
        return no_memory(fault);
    request->stops[request->n_stops++] = copy;
    return true;
}

static bool read_stops(const json_t *root, cf_request *request, cf_fault *fault)
{
    const json_t *field = cf_field(root, "stop");
    if (field == NULL)
        return true;
    if (!json_is_array(field))
        return read_stop(field, request, fault);
    if (json_array_size(field) > CF_MAX_STOPS)
        return cf_fault_set(fault, 400, "stop", "invalid_value",
                            "stop: at most %d strings, found %zu", CF_MAX_STOPS,
                            json_array_size(field));
    for (size_t i = 0; i < json_array_size(field); i++) {
        if (!read_stop(json_array_get(field, i), request, fault))
            return false;
    }
    return true;
}

static bool parse_id(const char *text, int32_t n_vocab, cf_token *id)
{
    int64_t value = 0;
    for (const char *c = text; *c != 0; c++) {
        if (*c < '0' || *c > '9' || value >= n_vocab)
            return false;
        value = 10 * value + (*c - '0');
    }
    *id = (cf_token)value;
    return *text != 0 && value < n_vocab;
}

static bool read_bias(const char *key, const json_t *value, const cf_request_limits *limits,
                      cf_logit_bias *bias, cf_fault *fault)
{
    if (!parse_id(key, limits->n_vocab, &bias->id))
        return cf_fault_set(fault, 400, "logit_bias", "invalid_value",
                            "logit_bias: expected token ids from 0 to %d as names, found \"%.40s\"",
                            limits->n_vocab - 1, key);
    if (!json_is_number(value))
        return cf_field_wrong("logit_bias", "numbers in the object", value, fault);
    double number = json_number_value(value);
    if (!(number >= -100 && number <= 100))
        return cf_fault_set(fault, 400, "logit_bias", "invalid_value",
                            "logit_bias: expected numbers from -100 to 100, found %g", number);
    bias->bias = number <= -100 ? -INFINITY : (float)number;
    return true;
}

static bool read_biases(const json_t *root, const cf_request_limits *limits, cf_request *request,
                        cf_fault *fault)
{
    const json_t *field = cf_field(root, "logit_bias");
    if (field == NULL)
        return true;
    if (!json_is_object(field))
        return cf_field_wrong("logit_bias", "an object of token ids and numbers", field, fault);
    size_t n = json_object_size(field);
    if (n > CF_MAX_BIASES)
        return cf_fault_set(fault, 400, "logit_bias", "invalid_value",
                            "logit_bias: at most %d tokens, found %zu", CF_MAX_BIASES, n);
    cf_logit_bias *biases = calloc(n + 1, sizeof *biases);
    if (biases == NULL)
        return no_memory(fault);
    request->sampling.bias = biases;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)field, key, value)
    {
        if (!read_bias(key, value, limits, &biases[request->sampling.n_bias], fault))
            return false;
        request->sampling.n_bias++;
    }
    return true;
}

static bool read_seed(const json_t *root, cf_request *request, cf_fault *fault)
{
    int64_t seed = 0;
    request->has_seed = cf_field(root, "seed") != NULL;
    if (!cf_field_integer(root, "seed", INT64_MIN, INT64_MAX, &seed, fault))
        return false;
    request->sampling.seed = (uint64_t)seed;
    return true;
}

static bool read_sampling(const json_t *root, const cf_request_limits *limits, cf_request *request,
                          cf_fault *fault)
{
    cf_sampling *sampling = &request->sampling;
    *sampling = (cf_sampling){.size = sizeof *sampling, .temperature = 1, .top_p = 1};
    int64_t top_k = 0;
    bool is_read =
        cf_field_real(root, "temperature", 0, 2, &sampling->temperature, fault) &&
        cf_field_real(root, "top_p", 0, 1, &sampling->top_p, fault) &&
        cf_field_integer(root, "top_k", -1, INT32_MAX, &top_k, fault) &&
        cf_field_real(root, "min_p", 0, 1, &sampling->min_p, fault) &&
        cf_field_real(root, "repetition_penalty", 0.001, 1000, &sampling->repetition_penalty,
                      fault) &&
        cf_field_real(root, "presence_penalty", -2, 2, &sampling->presence_penalty, fault) &&
        cf_field_real(root, "frequency_penalty", -2, 2, &sampling->frequency_penalty, fault) &&
        read_seed(root, request, fault) && read_biases(root, limits, request, fault);
    sampling->top_k = top_k > 0 ? (int32_t)top_k : 0;
    /* The library's 0 turns top_p off and its min_p stays below 1; here both leave one token. */
    if (sampling->top_p <= 0)
        sampling->top_p = 1e-9F;
    if (sampling->min_p >= 1)
        sampling->min_p = nextafterf(1, 0);
    return is_read;
}

static bool read_stream(const json_t *root, cf_request *request, cf_fault *fault)
{
    if (!cf_field_bool(root, "stream", &request->stream, fault))
        return false;
    const json_t *options = cf_field(root, "stream_options");
    if (options == NULL)
        return true;
    if (!json_is_object(options))
        return cf_field_wrong("stream_options", "an object", options, fault);
    if (!request->stream)
        return cf_fault_set(fault, 400, "stream_options", "invalid_value",
                            "stream_options: only with \"stream\": true");
    return cf_field_bool(options, "include_usage", &request->include_usage, fault);
}

bool cf_request_read_common(const json_t *root, const cf_request_limits *limits,
                            cf_request *request, cf_fault *fault)
{
    const json_t *model = cf_field(root, "model");
    if (model != NULL && !json_is_string(model))
        return cf_field_wrong("model", "a string", model, fault);
    int64_t max_tokens = DEFAULT_MAX_TOKENS, min_tokens = 0, n = 1;
    bool is_read = cf_field_integer(root, "max_tokens", 0, INT32_MAX, &max_tokens, fault) &&
                   cf_field_integer(root, "min_tokens", 0, INT32_MAX, &min_tokens, fault) &&
                   cf_field_integer(root, "n", 1, CF_MAX_CHOICES_EACH, &n, fault) &&
                   cf_field_bool(root, "ignore_eos", &request->ignore_eos, fault) &&
                   read_sampling(root, limits, request, fault) &&
                   read_stops(root, request, fault) && read_stream(root, request, fault);
    request->max_tokens = (size_t)max_tokens;
    request->min_tokens = (size_t)min_tokens;
    request->n = request->best_of = (size_t)n;
    if (is_read && request->n_stops > 0 && limits->n_longest == 0)
        return cf_fault_set(fault, 400, "stop", "invalid_value",
                            "stop: the model has no tokenizer, and stop strings need one");
    return is_read;
}

static bool read_best_of(const json_t *root, cf_request *request, cf_fault *fault)
{
    int64_t best_of = (int64_t)request->n;
    if (!cf_field_integer(root, "best_of", 1, CF_MAX_CHOICES_EACH, &best_of, fault))
        return false;
    request->best_of = (size_t)best_of;
    if (request->best_of < request->n)
        return cf_fault_set(fault, 400, "best_of", "invalid_value",
                            "best_of: expected at least n, %zu, found %zu", request->n,
                            request->best_of);
    return !request->stream || request->best_of == request->n ||
           cf_fault_set(fault, 400, "best_of", "invalid_value",
                        "best_of: a stream cannot be taken back, expected n, %zu, found %zu",
                        request->n, request->best_of);
}

static bool read_logprobs(const json_t *root, cf_request *request, cf_fault *fault)
{
    int64_t n_top = 0;
    request->has_logprobs = cf_field(root, "logprobs") != NULL;
    bool is_read = cf_field_integer(root, "logprobs", 0, CF_MAX_TOP_LOGPROBS, &n_top, fault);
    request->n_top = (int32_t)n_top;
    return is_read;
}

static bool refuse_suffix(const json_t *root, cf_fault *fault)
{
    return cf_field(root, "suffix") == NULL ||
           cf_fault_set(fault, 400, "suffix", "unsupported",
                        "suffix: the model writes on from a prompt, it cannot fill a gap");
}

static bool check_choices(const cf_request *request, cf_fault *fault)
{
    size_t n_choices = request->n_prompts * request->best_of;
    return n_choices <= CF_MAX_CHOICES_ALL ||
           cf_fault_set(fault, 400, request->best_of > request->n ? "best_of" : "n",
                        "invalid_value", "prompts times choices: at most %d, found %zu",
                        CF_MAX_CHOICES_ALL, n_choices);
}

static bool read_completion(const json_t *root, const cf_request_limits *limits,
                            cf_request *request, cf_fault *fault)
{
    return refuse_suffix(root, fault) && read_prompts(root, limits, request, fault) &&
           cf_request_read_common(root, limits, request, fault) &&
           read_best_of(root, request, fault) && read_logprobs(root, request, fault) &&
           cf_field_bool(root, "echo", &request->echo, fault) && check_choices(request, fault);
}

bool cf_request_parse(const char *body, size_t n_bytes, const cf_request_limits *limits,
                      cf_request *request, cf_fault *fault)
{
    *request = (cf_request){0};
    json_t *root = cf_body_parse(body, n_bytes, fault);
    if (root == NULL)
        return false;
    bool is_read = read_completion(root, limits, request, fault);
    json_decref(root);
    return is_read;
}
