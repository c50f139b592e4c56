/* Ids → text, in whole characters. */
#include "base/memory.h"
#include "base/status.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#include <string.h>

/* The longest beginning of a character that can wait for its rest. */
#define MAX_PENDING (CF_UTF8_MAX_BYTES - 1)

struct cf_decoder {
    const cf_tokenizer *tokenizer;
    uint32_t flags;
    size_t n_pending; /* bytes of an unfinished character at the beginning of `input` */
    char *input;      /* the pending bytes, then those of a token */
    char *output;     /* each byte of the input may become U+FFFD */
};

cf_status cf_decoder_create(const cf_tokenizer *tokenizer, uint32_t flags, cf_decoder **decoder,
                            cf_error *error)
{
    if (decoder != NULL)
        *decoder = NULL;
    if (tokenizer == NULL || decoder == NULL)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "cf_decoder_create: %s is NULL",
                       tokenizer == NULL ? "tokenizer" : "decoder");
    if ((flags & ~CF_DECODE_SKIP_SPECIAL) != 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "cf_decoder_create: unknown flags 0x%x",
                       (unsigned)flags);
    cf_decoder *created;
    CF_TRY(CF_ALLOC(&created, 1, "decoder", error));
    created->tokenizer = tokenizer;
    created->flags = flags;
    size_t n_bytes = tokenizer->longest_bytes + MAX_PENDING;
    cf_status status = CF_ALLOC(&created->input, n_bytes, "decoder", error);
    if (status == CF_STATUS_OK)
        status = cf_alloc((void **)&created->output, n_bytes, 3, "decoder", error);
    if (status == CF_STATUS_OK)
        *decoder = created;
    else
        cf_decoder_free(created);
    return status;
}

void cf_decoder_free(cf_decoder *decoder)
{
    if (decoder == NULL)
        return;
    cf_dealloc(decoder->input);
    cf_dealloc(decoder->output);
    cf_dealloc(decoder);
}

/* Where an unfinished character at the end of `text` begins; n_bytes if there is none. */
static size_t pending_start(const char *text, size_t n_bytes)
{
    size_t start = n_bytes > MAX_PENDING ? n_bytes - MAX_PENDING : 0;
    for (; start < n_bytes; start++) {
        uint32_t code;
        cf_utf8_next(text + start, n_bytes - start, &code);
        if (code == CF_UTF8_PARTIAL)
            break;
    }
    return start;
}

cf_status cf_decoder_push(cf_decoder *decoder, cf_token id, const char **text, size_t *n_bytes,
                          cf_error *error)
{
    if (text != NULL)
        *text = "";
    if (n_bytes != NULL)
        *n_bytes = 0;
    if (decoder == NULL || text == NULL || n_bytes == NULL)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "cf_decoder_push: %s is NULL",
                       decoder == NULL ? "decoder"
                       : text == NULL  ? "text"
                                       : "n_bytes");
    if (id < 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "token id %d is negative", (int)id);
    size_t n_token;
    const char *bytes = cf_tokenizer_bytes(decoder->tokenizer, id, &n_token);
    if ((decoder->flags & CF_DECODE_SKIP_SPECIAL) != 0 &&
        cf_tokenizer_is_special(decoder->tokenizer, id))
        n_token = 0;
    memcpy(decoder->input + decoder->n_pending, bytes, n_token);
    size_t n_input = decoder->n_pending + n_token;
    size_t start = pending_start(decoder->input, n_input);
    *n_bytes = cf_utf8_repair(decoder->input, start, decoder->output);
    *text = decoder->output;
    decoder->n_pending = n_input - start;
    memmove(decoder->input, decoder->input + start, decoder->n_pending);
    return CF_STATUS_OK;
}

void cf_decoder_finish(cf_decoder *decoder, const char **text, size_t *n_bytes)
{
    if (text != NULL)
        *text = "";
    if (n_bytes != NULL)
        *n_bytes = 0;
    if (decoder == NULL || text == NULL || n_bytes == NULL)
        return;
    *n_bytes = cf_utf8_repair(decoder->input, decoder->n_pending, decoder->output);
    *text = decoder->output;
    decoder->n_pending = 0;
}

/* What has been decoded, as far as there is room. */
typedef struct text_sink {
    char *text;
    size_t capacity;
    size_t n_bytes;
} text_sink;

static void put_text(text_sink *sink, const char *text, size_t n_bytes)
{
    if (sink->n_bytes < sink->capacity) {
        size_t room = sink->capacity - sink->n_bytes;
        memcpy(sink->text + sink->n_bytes, text, n_bytes < room ? n_bytes : room);
    }
    sink->n_bytes += n_bytes;
}

static cf_status decode_all(cf_decoder *decoder, const cf_token *ids, size_t n_ids, text_sink *sink,
                            cf_error *error)
{
    const char *text;
    size_t n_bytes;
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0)
            return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "token %zu of %zu has the id %d", i,
                           n_ids, (int)ids[i]);
        CF_TRY(cf_decoder_push(decoder, ids[i], &text, &n_bytes, error));
        put_text(sink, text, n_bytes);
    }
    cf_decoder_finish(decoder, &text, &n_bytes);
    put_text(sink, text, n_bytes);
    return CF_STATUS_OK;
}

cf_status cf_tokenizer_decode(const cf_tokenizer *tokenizer, const cf_token *ids, size_t n_ids,
                              uint32_t flags, char *text, size_t capacity, size_t *n_bytes,
                              cf_error *error)
{
    if (n_bytes != NULL)
        *n_bytes = 0;
    if (tokenizer == NULL || n_bytes == NULL || (ids == NULL && n_ids > 0) ||
        (text == NULL && capacity > 0))
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "cf_tokenizer_decode: %s is NULL",
                       tokenizer == NULL          ? "tokenizer"
                       : n_bytes == NULL          ? "n_bytes"
                       : ids == NULL && n_ids > 0 ? "ids"
                                                  : "text");
    cf_decoder *decoder;
    CF_TRY(cf_decoder_create(tokenizer, flags, &decoder, error));
    text_sink sink = {.text = text, .capacity = capacity};
    cf_status status = decode_all(decoder, ids, n_ids, &sink, error);
    cf_decoder_free(decoder);
    if (status != CF_STATUS_OK)
        return status;
    *n_bytes = sink.n_bytes;
    if (sink.n_bytes > capacity)
        return cf_fail(error, CF_STATUS_BUFFER_TOO_SMALL, "the text has %zu bytes, room is for %zu",
                       sink.n_bytes, capacity);
    return CF_STATUS_OK;
}
