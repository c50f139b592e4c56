#include "serve/logprobs.h"

#include "serve/sink.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool reset(cf_logprobs *logprobs)
{
    logprobs->tokens = json_array();
    logprobs->token_logprobs = json_array();
    logprobs->top_logprobs = json_array();
    logprobs->text_offset = json_array();
    return logprobs->tokens != NULL && logprobs->token_logprobs != NULL &&
           logprobs->top_logprobs != NULL && logprobs->text_offset != NULL;
}

bool cf_logprobs_open(cf_logprobs *logprobs, const cf_tokenizer *tokenizer)
{
    *logprobs = (cf_logprobs){.tokenizer = tokenizer};
    if (tokenizer != NULL &&
        cf_decoder_create(tokenizer, 0, &logprobs->decoder, NULL) != CF_STATUS_OK)
        return false;
    return reset(logprobs);
}

void cf_logprobs_close(cf_logprobs *logprobs)
{
    cf_decoder_free(logprobs->decoder);
    json_decref(logprobs->tokens);
    json_decref(logprobs->token_logprobs);
    json_decref(logprobs->top_logprobs);
    json_decref(logprobs->text_offset);
    *logprobs = (cf_logprobs){0};
}

static json_t *name_bytes(const unsigned char *bytes, size_t n_bytes)
{
    cf_sink name = {0};
    cf_sink_text(&name, "bytes:");
    for (size_t i = 0; i < n_bytes; i++)
        cf_sink_format(&name, "\\x%02x", bytes[i]);
    json_t *string = name.is_short ? NULL : json_stringn(name.data, name.n);
    cf_sink_free(&name);
    return string;
}

json_t *cf_token_name(const cf_tokenizer *tokenizer, cf_token id)
{
    size_t n = 0;
    const char *bytes = tokenizer != NULL ? cf_tokenizer_bytes(tokenizer, id, &n) : "";
    if (n == 0) {
        char name[32];
        snprintf(name, sizeof name, "token_id:%d", id);
        return json_string(name);
    }
    /* Names of alternatives are keys of an object, which end at a zero byte. */
    if (memchr(bytes, 0, n) != NULL || !cf_text_is_utf8(bytes, n))
        return name_bytes((const unsigned char *)bytes, n);
    return json_stringn(bytes, n);
}

/* JSON has no infinity. A finite logit's log-probability is finite, so this is a last resort. */
static json_t *make_logprob(float logprob)
{
    return json_real(isfinite(logprob) ? (double)logprob : -9999.0);
}

static json_t *make_top(const cf_logprobs *logprobs, json_t *name, float logprob, cf_token id,
                        const cf_alternative *top, size_t n_top)
{
    json_t *object = json_object();
    for (size_t i = 0; i < n_top && top[i].id >= 0; i++) {
        if (top[i].id == id)
            continue;
        json_t *other = cf_token_name(logprobs->tokenizer, top[i].id);
        json_object_set_new(object, json_string_value(other), make_logprob(top[i].logprob));
        json_decref(other);
    }
    json_object_set_new(object, json_string_value(name), make_logprob(logprob));
    return object;
}

void cf_logprobs_add(cf_logprobs *logprobs, cf_token id, float logprob, const cf_alternative *top,
                     size_t n_top)
{
    json_t *name = cf_token_name(logprobs->tokenizer, id);
    bool is_first = isnan(logprob);
    json_array_append_new(logprobs->token_logprobs, is_first ? json_null() : make_logprob(logprob));
    json_array_append_new(logprobs->top_logprobs,
                          is_first ? json_null()
                                   : make_top(logprobs, name, logprob, id, top, n_top));
    json_array_append_new(logprobs->tokens, name);
    json_array_append_new(logprobs->text_offset, json_integer((json_int_t)logprobs->n_characters));
    const char *text;
    size_t n_bytes;
    if (logprobs->decoder != NULL &&
        cf_decoder_push(logprobs->decoder, id, &text, &n_bytes, NULL) == CF_STATUS_OK)
        logprobs->n_characters += cf_text_characters(text, n_bytes);
}

json_t *cf_logprobs_take(cf_logprobs *logprobs)
{
    json_t *object = json_pack("{s:o, s:o, s:o, s:o}", "tokens", logprobs->tokens, "token_logprobs",
                               logprobs->token_logprobs, "top_logprobs", logprobs->top_logprobs,
                               "text_offset", logprobs->text_offset);
    if (!reset(logprobs)) {
        json_decref(object);
        return NULL;
    }
    return object;
}
