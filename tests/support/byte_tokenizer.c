#include "support/byte_tokenizer.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The character that stands for a byte in GPT-2's vocabularies: itself where it is printable, else
 * the next one free from U+0100 on. */
static void byte_text(int byte, char text[3])
{
    int code = 256;
    for (int b = 0; b <= byte; b++) {
        bool is_printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte && is_printable)
            code = byte;
        else if (b < byte && !is_printable)
            code++;
    }
    if (code < 128) {
        snprintf(text, 3, "%c", code);
    } else {
        text[0] = (char)(0xC0 | code >> 6);
        text[1] = (char)(0x80 | (code & 0x3F));
        text[2] = 0;
    }
}

static json_t *added_token(int id, const char *text, bool is_special)
{
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special",
                     (int)is_special);
}

static json_t *describe(const char *const *pieces, size_t n_pieces)
{
    json_t *vocab = json_object(), *added = json_array();
    json_object_set_new(vocab, "<|endoftext|>", json_integer(0));
    json_array_append_new(added, added_token(0, "<|endoftext|>", true));
    for (int byte = 0; byte < 256; byte++) {
        char text[3];
        byte_text(byte, text);
        json_object_set_new(vocab, text, json_integer(byte + 1));
    }
    for (size_t i = 0; i < n_pieces; i++)
        json_array_append_new(added, added_token(BYTE_TOKENIZER_PIECES + (int)i, pieces[i], false));
    return json_pack("{s:s, s:o, s:n, s:{s:s, s:b, s:b, s:b}, s:{s:s}, s:{s:s, s:o, s:[]}}",
                     "version", "1.0", "added_tokens", added, "normalizer", "pre_tokenizer", "type",
                     "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1,
                     "decoder", "type", "ByteLevel", "model", "type", "BPE", "vocab", vocab,
                     "merges");
}

cf_tokenizer *byte_tokenizer_create(const char *const *pieces, size_t n_pieces)
{
    json_t *root = describe(pieces, n_pieces);
    assert_non_null(root);
    char *text = json_dumps(root, 0);
    const char *folder = test_scratch_create();
    const char *path = test_write(folder, "tokenizer.json", text, strlen(text));
    cf_tokenizer *tokenizer;
    cf_error error;
    assert_ok(cf_tokenizer_open(path, &tokenizer, &error), error);
    test_scratch_remove(folder);
    free(text);
    json_decref(root);
    return tokenizer;
}
