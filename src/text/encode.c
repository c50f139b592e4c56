/*
 * Text → ids, in the order of the reference tokenizer: added tokens that are looked for in the raw
 * text; normalization of what lies between them; added tokens of the normalized text; words;
 * merges.
 */
#include "base/memory.h"
#include "base/status.h"
#include "text/normalize.h"
#include "text/split.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define CACHED_BYTES 38
#define CACHED_IDS 6

/* A word met before, in one cache line. */
typedef struct cached_word {
    cf_token ids[CACHED_IDS];
    uint8_t n_ids;
    uint8_t n_bytes; /* 0: free */
    char bytes[CACHED_BYTES];
} cached_word;

typedef struct encode_state {
    const cf_tokenizer *tokenizer;
    uint32_t flags;
    cf_token *ids; /* [capacity] */
    size_t capacity;
    size_t n_ids; /* may be larger than the capacity */
    cf_normalizer normalizer;
    cf_bpe_scratch scratch;
    cached_word *cache; /* [n_cached], a power of two: each word has one place */
    size_t n_cached;
    cf_error *error;
} encode_state;

typedef cf_status (*piece_fn)(encode_state *encoder, const char *text, size_t n_bytes);

static void put_ids(encode_state *encoder, const cf_token *ids, size_t n_ids)
{
    for (size_t i = 0; i < n_ids; i++, encoder->n_ids++)
        if (encoder->n_ids < encoder->capacity)
            encoder->ids[encoder->n_ids] = ids[i];
}

static cf_status merge_word(encode_state *encoder, const char *word, size_t n_bytes,
                            const cf_token **ids, size_t *n_ids)
{
    return cf_bpe_encode(&encoder->tokenizer->bpe, &encoder->scratch, word, n_bytes, ids, n_ids,
                         encoder->error);
}

static cf_status encode_word(encode_state *encoder, const char *word, size_t n_bytes)
{
    if (encoder->tokenizer->ignore_merges) {
        cf_token whole = cf_tokenizer_find_bytes(encoder->tokenizer, word, n_bytes);
        if (whole >= 0) {
            put_ids(encoder, &whole, 1);
            return CF_STATUS_OK;
        }
    }
    const cf_token *ids;
    size_t n_ids;
    if (n_bytes > CACHED_BYTES) {
        CF_TRY(merge_word(encoder, word, n_bytes, &ids, &n_ids));
        put_ids(encoder, ids, n_ids);
        return CF_STATUS_OK;
    }
    cached_word *place = &encoder->cache[XXH3_64bits(word, n_bytes) & (encoder->n_cached - 1)];
    if (place->n_bytes == n_bytes && memcmp(place->bytes, word, n_bytes) == 0) {
        put_ids(encoder, place->ids, place->n_ids);
        return CF_STATUS_OK;
    }
    CF_TRY(merge_word(encoder, word, n_bytes, &ids, &n_ids));
    put_ids(encoder, ids, n_ids);
    if (n_ids <= CACHED_IDS) {
        memcpy(place->ids, ids, n_ids * sizeof *ids);
        memcpy(place->bytes, word, n_bytes);
        place->n_ids = (uint8_t)n_ids;
        place->n_bytes = (uint8_t)n_bytes;
    }
    return CF_STATUS_OK;
}

static cf_status encode_words(encode_state *encoder, const char *text, size_t n_bytes)
{
    for (size_t length; n_bytes > 0; text += length, n_bytes -= length) {
        length = encoder->tokenizer->split_words ? cf_split_word(text, n_bytes) : n_bytes;
        CF_TRY(encode_word(encoder, text, length));
    }
    return CF_STATUS_OK;
}

/* Puts the ids of the added tokens in `text`, and gives what lies between them to `between`. */
static cf_status encode_added(encode_state *encoder, const cf_added *added, const char *text,
                              size_t n_bytes, piece_fn between)
{
    const cf_tokenizer *tokenizer = encoder->tokenizer;
    size_t start = 0, pos = 0, length;
    cf_token id = -1;
    while ((length = cf_added_find(added, text, n_bytes, &pos, &id)) > 0) {
        bool ordinary =
            (encoder->flags & CF_ENCODE_NO_SPECIAL) != 0 && tokenizer->entries[id].special;
        if (!ordinary) {
            CF_TRY(between(encoder, text + start, pos - start));
            put_ids(encoder, &id, 1);
            start = pos + length;
        }
        pos += length;
    }
    return between(encoder, text + start, n_bytes - start);
}

static cf_status encode_normalized(encode_state *encoder, const char *text, size_t n_bytes)
{
    if (encoder->tokenizer->normalize)
        CF_TRY(cf_normalize(&encoder->normalizer, text, n_bytes, &text, &n_bytes, encoder->error));
    return encode_added(encoder, &encoder->tokenizer->normalized_tokens, text, n_bytes,
                        encode_words);
}

static cf_status encode_valid(encode_state *encoder, const char *text, size_t n_bytes)
{
    size_t n_cached = 64;
    while (n_cached < 16384 && n_cached < n_bytes / 16)
        n_cached *= 2;
    encoder->n_cached = n_cached;
    CF_TRY(CF_ALLOC(&encoder->cache, n_cached, "encoding", encoder->error));
    return encode_added(encoder, &encoder->tokenizer->raw_tokens, text, n_bytes, encode_normalized);
}

static cf_status encode_bytes(encode_state *encoder, const char *text, size_t n_bytes)
{
    size_t n_valid = cf_utf8_valid_bytes(text, n_bytes);
    if (n_valid == n_bytes)
        return encode_valid(encoder, text, n_bytes);
    char *repaired;
    CF_TRY(cf_alloc((void **)&repaired, n_bytes, 3, "repairing UTF-8", encoder->error));
    cf_status status = encode_valid(encoder, repaired, cf_utf8_repair(text, n_bytes, repaired));
    cf_dealloc(repaired);
    return status;
}

cf_status cf_tokenizer_encode(const cf_tokenizer *tokenizer, const char *text, size_t n_bytes,
                              uint32_t flags, cf_token *ids, size_t capacity, size_t *n_ids,
                              cf_error *error)
{
    if (n_ids != NULL)
        *n_ids = 0;
    if (tokenizer == NULL || n_ids == NULL || (text == NULL && n_bytes > 0) ||
        (ids == NULL && capacity > 0))
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "cf_tokenizer_encode: %s is NULL",
                       tokenizer == NULL ? "tokenizer"
                       : n_ids == NULL   ? "n_ids"
                       : text == NULL    ? "text"
                                         : "ids");
    if ((flags & ~CF_ENCODE_NO_SPECIAL) != 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "cf_tokenizer_encode: unknown flags 0x%x",
                       (unsigned)flags);
    if (n_bytes == 0)
        return CF_STATUS_OK;
    encode_state encoder = {
        .tokenizer = tokenizer, .flags = flags, .ids = ids, .capacity = capacity, .error = error};
    cf_status status = encode_bytes(&encoder, text, n_bytes);
    cf_normalizer_free(&encoder.normalizer);
    cf_bpe_scratch_free(&encoder.scratch);
    cf_dealloc(encoder.cache);
    if (status != CF_STATUS_OK)
        return status;
    *n_ids = encoder.n_ids;
    if (encoder.n_ids > capacity)
        return cf_fail(error, CF_STATUS_BUFFER_TOO_SMALL,
                       "the text has %zu tokens, room is for %zu", encoder.n_ids, capacity);
    return CF_STATUS_OK;
}
