/*
 * Any bytes as text and as ids, with the small tokenizer of the tests. Runs in the project's root.
 *   - Encoding gives at most as many ids as the header says.
 *   - Decoded text encodes to ids that decode to the same text.
 *   - Decoding id by id gives the text of the whole.
 */
#include "clusterfusion.h"

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

static cf_token *encode(const char *text, size_t n_bytes, uint32_t flags, size_t *n_ids)
{
    cf_token *ids = malloc((3 * n_bytes + 1) * sizeof *ids);
    require(cf_tokenizer_encode(tokenizer(), text, n_bytes, flags, ids, 3 * n_bytes, n_ids, NULL) ==
            CF_STATUS_OK);
    return ids;
}

static char *decode(const cf_token *ids, size_t n_ids, size_t *n_bytes)
{
    cf_tokenizer_decode(tokenizer(), ids, n_ids, 0, NULL, 0, n_bytes, NULL);
    size_t capacity = *n_bytes;
    char *text = malloc(capacity + 1);
    require(cf_tokenizer_decode(tokenizer(), ids, n_ids, 0, text, capacity, n_bytes, NULL) ==
            CF_STATUS_OK);
    require(*n_bytes == capacity);
    return text;
}

static void check_streaming(const cf_token *ids, size_t n_ids)
{
    size_t n_whole, pos = 0, n;
    char *whole = decode(ids, n_ids, &n_whole);
    const char *text;
    cf_decoder *decoder;
    require(cf_decoder_create(tokenizer(), 0, &decoder, NULL) == CF_STATUS_OK);
    for (size_t i = 0; i <= n_ids; i++, pos += n) {
        if (i < n_ids)
            require(cf_decoder_push(decoder, ids[i], &text, &n, NULL) == CF_STATUS_OK);
        else
            cf_decoder_finish(decoder, &text, &n);
        require(pos + n <= n_whole && memcmp(whole + pos, text, n) == 0);
    }
    require(pos == n_whole);
    cf_decoder_free(decoder);
    free(whole);
}

/* The one added token whose letters are all of the byte-level alphabet stands for other bytes. */
static bool is_ambiguous(const cf_token *ids, size_t n_ids)
{
    for (size_t i = 0; i < n_ids; i++)
        if ((size_t)ids[i] == cf_tokenizer_n_vocab(tokenizer()) - 1)
            return true;
    return false;
}

static void check_text(const char *text, size_t n_bytes, uint32_t flags)
{
    size_t n_ids, n_text, n_again, n_text_again;
    cf_token *ids = encode(text, n_bytes, flags, &n_ids);
    char *decoded = decode(ids, n_ids, &n_text);
    cf_token *again = encode(decoded, n_text, flags, &n_again);
    char *decoded_again = decode(again, n_again, &n_text_again);
    if (!is_ambiguous(ids, n_ids) && !is_ambiguous(again, n_again))
        require(n_text_again == n_text && memcmp(decoded, decoded_again, n_text) == 0);
    check_streaming(ids, n_ids);
    free(ids);
    free(decoded);
    free(again);
    free(decoded_again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    check_text((const char *)data, n_bytes, 0);
    check_text((const char *)data, n_bytes, CF_ENCODE_NO_SPECIAL);
    size_t n_ids = n_bytes / 2;
    cf_token *ids = malloc((n_ids + 1) * sizeof *ids);
    for (size_t i = 0; i < n_ids; i++) /* most are bytes and broken characters */
        ids[i] = (data[2 * i] & 3) == 0 ? data[2 * i + 1] * 3 : data[2 * i + 1] + 2;
    check_streaming(ids, n_ids);
    free(ids);
    return 0;
}
