/* Text and tokens: the forms that evaluation harnesses ask for, and llama.cpp's. */
#include "serve/fields.h"
#include "serve/response.h"
#include "serve/routes.h"

#include <stdlib.h>

/*
 * These answers are written by the threads that serve connections, whose other connections wait:
 * so much takes about a tenth of a second.
 */
#define MAX_TEXT_BYTES 1048576 /* to tokens */
#define MAX_PIECES 65536       /* with texts of tokens */
#define MAX_TOKENS 262144      /* to text */

static bool refuse_size(const char *name, const char *unit, size_t n, size_t max, cf_fault *fault)
{
    return cf_fault_set(fault, 413, name, "text_too_long", "%s: %zu %s, at most %zu are taken",
                        name, n, unit, max);
}

static void reply_object(cf_reply *reply, json_t *object)
{
    reply->http = 200;
    reply->content_type = "application/json";
    cf_json_append(&reply->body, object);
}

static bool need_tokenizer(const cf_service *service, cf_fault *fault)
{
    return service->tokenizer != NULL ||
           cf_fault_set(fault, 404, NULL, "no_tokenizer", "the model has no tokenizer");
}

static json_t *no_memory(cf_fault *fault)
{
    cf_fault_set(fault, 503, NULL, "out_of_memory", "not enough memory for the answer");
    return NULL;
}

/* ---- Text to tokens ---- */

typedef struct tokenize_options {
    const json_t *text;
    bool add_special, parse_special, with_pieces, return_strings;
} tokenize_options;

static bool read_options(const json_t *root, tokenize_options *options, cf_fault *fault)
{
    const char *name = cf_field(root, "prompt") != NULL ? "prompt" : "content";
    options->text = cf_field(root, name);
    options->parse_special = true;
    if (options->text == NULL)
        return cf_fault_set(fault, 400, "prompt", "missing_field",
                            "expected a text as \"prompt\" or \"content\"");
    if (!json_is_string(options->text))
        return cf_field_wrong(name, "a string", options->text, fault);
    size_t n_bytes = json_string_length(options->text);
    if (n_bytes > MAX_TEXT_BYTES)
        return refuse_size(name, "bytes", n_bytes, MAX_TEXT_BYTES, fault);
    /* There is no token that would be added before a text. */
    return cf_field_bool(root, "add_special", &options->add_special, fault) &&
           cf_field_bool(root, "add_special_tokens", &options->add_special, fault) &&
           cf_field_bool(root, "parse_special", &options->parse_special, fault) &&
           cf_field_bool(root, "with_pieces", &options->with_pieces, fault) &&
           cf_field_bool(root, "return_token_strs", &options->return_strings, fault);
}

static json_t *make_bytes(const unsigned char *bytes, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_integer(bytes[i]));
    return array;
}

/* llama.cpp's: text, or its bytes where that is not whole characters. */
static json_t *make_piece(const cf_tokenizer *tokenizer, cf_token id)
{
    size_t n;
    const char *bytes = cf_tokenizer_bytes(tokenizer, id, &n);
    json_t *piece = cf_text_is_utf8(bytes, n) ? json_stringn(bytes, n)
                                              : make_bytes((const unsigned char *)bytes, n);
    return json_pack("{s:i, s:o}", "id", id, "piece", piece);
}

static json_t *make_tokens(const cf_service *service, const tokenize_options *options,
                           const cf_token *ids, size_t n)
{
    json_t *tokens = json_array(), *names = options->return_strings ? json_array() : NULL;
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(tokens, options->with_pieces ? make_piece(service->tokenizer, ids[i])
                                                           : json_integer(ids[i]));
        if (names != NULL)
            json_array_append_new(names, cf_token_name(service->tokenizer, ids[i]));
    }
    return json_pack("{s:I, s:I, s:o, s:o?}", "count", (json_int_t)n, "max_model_len",
                     (json_int_t)service->limits.n_context, "tokens", tokens, "token_strs", names);
}

static json_t *tokenize(const cf_service *service, const tokenize_options *options, cf_fault *fault)
{
    const char *text = json_string_value(options->text);
    size_t n_bytes = json_string_length(options->text), n_ids = 0, capacity = n_bytes + 1;
    uint32_t flags = options->parse_special ? 0 : CF_ENCODE_NO_SPECIAL;
    cf_error error;
    cf_status status;
    json_t *object = NULL;
    cf_token *ids = malloc(capacity * sizeof *ids);
    if (ids == NULL)
        return no_memory(fault);
    status = cf_tokenizer_encode(service->tokenizer, text, n_bytes, flags, ids, capacity, &n_ids,
                                 &error);
    if (status == CF_STATUS_BUFFER_TOO_SMALL) {
        free(ids);
        ids = malloc(n_ids * sizeof *ids);
        if (ids == NULL)
            return no_memory(fault);
        status = cf_tokenizer_encode(service->tokenizer, text, n_bytes, flags, ids, n_ids, &n_ids,
                                     &error);
    }
    if (status != CF_STATUS_OK)
        cf_fault_from_error(fault, &error);
    else if ((options->with_pieces || options->return_strings) && n_ids > MAX_PIECES)
        refuse_size(options->with_pieces ? "with_pieces" : "return_token_strs", "tokens", n_ids,
                    MAX_PIECES, fault);
    else
        object = make_tokens(service, options, ids, n_ids);
    free(ids);
    return object;
}

void cf_route_tokenize(cf_service *service, const char *tail, const cf_sink *body, cf_reply *reply)
{
    (void)tail;
    cf_fault fault = {0};
    tokenize_options options = {0};
    json_t *root = cf_body_parse(body->data, body->n, &fault), *object = NULL;
    if (root != NULL && need_tokenizer(service, &fault) && read_options(root, &options, &fault))
        object = tokenize(service, &options, &fault);
    if (fault.http != 0)
        cf_reply_fault(reply, &fault);
    else
        reply_object(reply, object);
    json_decref(root);
}

/* ---- Tokens to text ---- */

static bool read_tokens(const json_t *root, const json_t **tokens, cf_fault *fault)
{
    *tokens = cf_field(root, "tokens");
    if (*tokens == NULL)
        return cf_fault_set(fault, 400, "tokens", "missing_field", "expected a list as \"tokens\"");
    if (!json_is_array(*tokens))
        return cf_field_wrong("tokens", "a list of ids", *tokens, fault);
    size_t n = json_array_size(*tokens);
    return n <= MAX_TOKENS || refuse_size("tokens", "tokens", n, MAX_TOKENS, fault);
}

static bool read_ids(const json_t *tokens, int32_t n_vocab, cf_token *ids, cf_fault *fault)
{
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const json_t *item = json_array_get(tokens, i);
        if (!json_is_integer(item))
            return cf_field_wrong("tokens", "only token ids in the list", item, fault);
        json_int_t id = json_integer_value(item);
        if (id < 0 || id >= n_vocab)
            return cf_fault_set(fault, 400, "tokens", "invalid_value",
                                "tokens: token %zu is %lld, the vocabulary has ids 0 to %d", i,
                                (long long)id, n_vocab - 1);
        ids[i] = (cf_token)id;
    }
    return true;
}

static json_t *decode(const cf_service *service, const cf_token *ids, size_t n, cf_fault *fault)
{
    size_t n_bytes = 0;
    cf_error error;
    cf_tokenizer_decode(service->tokenizer, ids, n, 0, NULL, 0, &n_bytes, NULL);
    char *text = malloc(n_bytes + 1);
    if (text == NULL)
        return no_memory(fault);
    json_t *object = NULL;
    if (cf_tokenizer_decode(service->tokenizer, ids, n, 0, text, n_bytes, &n_bytes, &error) ==
        CF_STATUS_OK) {
        json_t *string = json_stringn(text, n_bytes);
        object = json_pack("{s:O, s:o}", "prompt", string, "content", string);
    } else {
        cf_fault_from_error(fault, &error);
    }
    free(text);
    return object;
}

static json_t *detokenize(const cf_service *service, const json_t *tokens, cf_fault *fault)
{
    size_t n = json_array_size(tokens);
    cf_token *ids = malloc((n + 1) * sizeof *ids);
    if (ids == NULL)
        return no_memory(fault);
    json_t *object = NULL;
    if (read_ids(tokens, service->limits.n_vocab, ids, fault))
        object = decode(service, ids, n, fault);
    free(ids);
    return object;
}

void cf_route_detokenize(cf_service *service, const char *tail, const cf_sink *body,
                         cf_reply *reply)
{
    (void)tail;
    cf_fault fault = {0};
    const json_t *tokens;
    json_t *root = cf_body_parse(body->data, body->n, &fault), *object = NULL;
    if (root != NULL && need_tokenizer(service, &fault) && read_tokens(root, &tokens, &fault))
        object = detokenize(service, tokens, &fault);
    if (fault.http != 0)
        cf_reply_fault(reply, &fault);
    else
        reply_object(reply, object);
    json_decref(root);
}

/* ---- Facts ---- */

static json_t *make_special(const cf_service *service, cf_token id)
{
    return id < 0 ? json_null() : cf_token_name(service->tokenizer, id);
}

void cf_route_tokenizer_info(cf_service *service, const char *tail, const cf_sink *body,
                             cf_reply *reply)
{
    (void)tail, (void)body;
    const cf_shape *shape = cf_model_shape(service->model);
    cf_fault fault = {0};
    if (!need_tokenizer(service, &fault)) {
        cf_reply_fault(reply, &fault);
        return;
    }
    reply_object(reply, json_pack("{s:s, s:o, s:o, s:n, s:o, s:I, s:I, s:b, s:s?}",
                                  "tokenizer_class", "GPTNeoXTokenizerFast", "bos_token",
                                  make_special(service, shape->bos_token), "eos_token",
                                  make_special(service, shape->eos_token), "pad_token", "unk_token",
                                  json_null(), "vocab_size",
                                  (json_int_t)cf_tokenizer_n_vocab(service->tokenizer),
                                  "model_max_length", (json_int_t)service->limits.n_context,
                                  "add_bos_token", 0, "chat_template", NULL));
}
