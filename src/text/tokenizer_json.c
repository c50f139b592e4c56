/* Reading tokenizer.json's tokens and merges. Every value is checked before it is used. */
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "text/bytelevel.h"
#include "text/normalize.h"
#include "text/tokenizer.h"
#include "text/tokenizer_options.h"

#include <string.h>

/* Gaps between ids cost memory: as many as these, and three for each token, are allowed. */
#define MAX_GAPS 65536

typedef struct load_state {
    cf_tokenizer *tokenizer;
    const char *path;
    json_t *vocab; /* text → id */
    json_t *added; /* array; NULL: none */
    json_t *merges;
    size_t max_id;   /* that so many tokens may have */
    size_t n_bytes;  /* of `tokenizer->bytes` in use */
    cf_buffer parts; /* char: the bytes of a merge, left and right */
    cf_error *error;
} load_state;

#define BAD_FILE(loader, ...) cf_fail((loader)->error, CF_STATUS_BAD_FILE, __VA_ARGS__)

/* How much of a string from outside is shown in a message: 60 bytes, and no part of a character. */
static int shown(const char *text)
{
    size_t n = strnlen(text, 61);
    if (n == 61)
        for (n = 60; n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80;)
            n--;
    return (int)n;
}

static cf_status read_id(const load_state *loader, const json_t *value, const char *text,
                         size_t *id)
{
    if (!json_is_integer(value))
        return BAD_FILE(loader, "%s: token \"%.*s\" has %s as its id, expected an integer",
                        loader->path, shown(text), text, cf_json_kind(value));
    json_int_t number = json_integer_value(value);
    if (number < 0 || number > (json_int_t)loader->max_id)
        return BAD_FILE(loader,
                        "%s: token \"%.*s\" has the id %lld, expected 0 to %zu for so many tokens",
                        loader->path, shown(text), text, (long long)number, loader->max_id);
    *id = (size_t)number;
    return CF_STATUS_OK;
}

/* Gives entry `id` the bytes that `text` spells. */
static void set_entry(load_state *loader, size_t id, const char *text, size_t n_text)
{
    cf_tokenizer *tokenizer = loader->tokenizer;
    cf_token_entry *entry = &tokenizer->entries[id];
    entry->present = true;
    entry->offset = loader->n_bytes;
    entry->n_bytes =
        cf_bytelevel_read(text, n_text, tokenizer->bytes + loader->n_bytes, &entry->spelled);
    loader->n_bytes += entry->n_bytes + 1; /* and a zero byte */
    if (entry->n_bytes > tokenizer->longest_bytes)
        tokenizer->longest_bytes = entry->n_bytes;
    if (id >= tokenizer->n_vocab)
        tokenizer->n_vocab = id + 1;
}

/* Finds the three tables of the file. */
static cf_status find_tables(load_state *loader, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    loader->vocab = json_object_get(model, "vocab");
    loader->merges = json_object_get(model, "merges");
    loader->added = json_object_get(root, "added_tokens");
    if (!json_is_object(loader->vocab))
        return BAD_FILE(loader, "%s: model.vocab is %s, expected an object", loader->path,
                        loader->vocab == NULL ? "missing" : cf_json_kind(loader->vocab));
    if (!json_is_array(loader->merges))
        return BAD_FILE(loader, "%s: model.merges is %s, expected an array", loader->path,
                        loader->merges == NULL ? "missing" : cf_json_kind(loader->merges));
    if (json_is_null(loader->added))
        loader->added = NULL;
    if (loader->added != NULL && !json_is_array(loader->added))
        return BAD_FILE(loader, "%s: added_tokens is %s, expected an array", loader->path,
                        cf_json_kind(loader->added));
    return CF_STATUS_OK;
}

/* The text of added token `index`, checked. */
static cf_status read_content(const load_state *loader, size_t index, const char **content)
{
    const json_t *token = json_array_get(loader->added, index);
    if (!json_is_object(token))
        return BAD_FILE(loader, "%s: added_tokens[%zu] is %s, expected an object", loader->path,
                        index, cf_json_kind(token));
    const json_t *value = json_object_get(token, "content");
    if (!json_is_string(value) || json_string_length(value) == 0)
        return BAD_FILE(loader, "%s: added_tokens[%zu].content is %s, expected a string",
                        loader->path, index,
                        value == NULL           ? "missing"
                        : json_is_string(value) ? "empty"
                                                : cf_json_kind(value));
    *content = json_string_value(value);
    return CF_STATUS_OK;
}

/* The id that added token `index` is given. */
static cf_status read_added_id(const load_state *loader, size_t index, const char *content,
                               size_t *id)
{
    const json_t *value = json_object_get(json_array_get(loader->added, index), "id");
    if (value == NULL)
        return BAD_FILE(loader, "%s: added token \"%.*s\" has no id", loader->path, shown(content),
                        content);
    return read_id(loader, value, content, id);
}

/* Makes room for all entries and their bytes; the latter are never longer than their spelling. */
static cf_status reserve_entries(load_state *loader)
{
    size_t n_added = json_array_size(loader->added);
    loader->max_id = MAX_GAPS - 1 + 4 * (json_object_size(loader->vocab) + n_added);
    size_t n_bytes = 0, largest = 0, id = 0;
    const char *text;
    json_t *value;
    json_object_foreach(loader->vocab, text, value)
    {
        CF_TRY(read_id(loader, value, text, &id));
        largest = id > largest ? id : largest;
        n_bytes += strlen(text) + 1;
    }
    for (size_t i = 0; i < n_added; i++) {
        CF_TRY(read_content(loader, i, &text));
        CF_TRY(read_added_id(loader, i, text, &id));
        largest = id > largest ? id : largest;
        n_bytes += 3 * strlen(text) + 1; /* 3: of its normal form */
    }
    cf_tokenizer *tokenizer = loader->tokenizer;
    CF_TRY(CF_ALLOC(&tokenizer->entries, largest + 1, "token table", loader->error));
    return CF_ALLOC(&tokenizer->bytes, n_bytes, "token table", loader->error);
}

static cf_status load_vocab(load_state *loader)
{
    const cf_tokenizer *tokenizer = loader->tokenizer;
    const char *text;
    json_t *value;
    json_object_foreach(loader->vocab, text, value)
    {
        size_t id = 0, n_text = strlen(text);
        CF_TRY(read_id(loader, value, text, &id));
        if (n_text == 0)
            return BAD_FILE(loader, "%s: token %zu of model.vocab is empty", loader->path, id);
        if (tokenizer->entries[id].present)
            return BAD_FILE(loader, "%s: token \"%.*s\" has the id %zu, which another token has",
                            loader->path, shown(text), text, id);
        set_entry(loader, id, text, n_text);
    }
    return CF_STATUS_OK;
}

/* A boolean of an added token; `absent` if it is not there. */
static cf_status read_flag(const load_state *loader, size_t index, const char *key, bool absent,
                           bool *flag)
{
    const json_t *value = json_object_get(json_array_get(loader->added, index), key);
    if (value != NULL && !json_is_boolean(value))
        return BAD_FILE(loader, "%s: added_tokens[%zu].%s is %s, expected a boolean", loader->path,
                        index, key, cf_json_kind(value));
    *flag = value == NULL ? absent : json_is_true(value);
    return CF_STATUS_OK;
}

/* Options that would make a token match differently. */
static cf_status refuse_flags(const load_state *loader, size_t index, const char *content)
{
    static const char *const keys[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        bool flag = false;
        CF_TRY(read_flag(loader, index, keys[i], false, &flag));
        if (flag)
            return cf_fail(loader->error, CF_STATUS_UNSUPPORTED,
                           "%s: added token \"%.*s\" has the option %s, which is not supported",
                           loader->path, shown(content), content, keys[i]);
    }
    return CF_STATUS_OK;
}

/* An added token has an id of its own, or that of the same text in the vocabulary. */
static cf_status check_added_id(const load_state *loader, const char *content, size_t id)
{
    const json_t *known = json_object_get(loader->vocab, content);
    const cf_token_entry *entry = &loader->tokenizer->entries[id];
    if (known != NULL && json_integer_value(known) != (json_int_t)id)
        return BAD_FILE(
            loader, "%s: added token \"%.*s\" has the id %zu, in model.vocab it is %lld",
            loader->path, shown(content), content, id, (long long)json_integer_value(known));
    if (entry->added || (known == NULL && entry->present))
        return BAD_FILE(loader, "%s: added token \"%.*s\" has the id %zu, which another token has",
                        loader->path, shown(content), content, id);
    return CF_STATUS_OK;
}

/*
 * Enters an added token, and the set that it is looked for in. One that is looked for in normalized
 * text is normalized itself, and that form is its text, as in the reference.
 */
static cf_status enter_added(load_state *loader, const char *content, size_t id, bool normalized)
{
    cf_tokenizer *tokenizer = loader->tokenizer;
    cf_added *set = normalized ? &tokenizer->normalized_tokens : &tokenizer->raw_tokens;
    cf_normalizer normalizer = {0};
    size_t n_bytes = strlen(content);
    cf_status status = CF_STATUS_OK;
    if (normalized && tokenizer->normalize)
        status = cf_normalize(&normalizer, content, n_bytes, &content, &n_bytes, loader->error);
    if (status == CF_STATUS_OK) {
        set_entry(loader, id, content, n_bytes);
        status = cf_added_insert(set, content, n_bytes, (cf_token)id, loader->error);
    }
    cf_normalizer_free(&normalizer);
    return status;
}

static cf_status load_added_token(load_state *loader, size_t index, json_t *seen)
{
    const char *content = "";
    size_t id = 0;
    bool special = false, normalized = false;
    CF_TRY(read_content(loader, index, &content));
    if (strlen(content) > CF_ADDED_MAX_BYTES)
        return cf_fail(loader->error, CF_STATUS_UNSUPPORTED,
                       "%s: added token \"%.*s…\" has %zu bytes, at most %d are supported",
                       loader->path, shown(content), content, strlen(content), CF_ADDED_MAX_BYTES);
    if (json_object_get(seen, content) != NULL)
        return BAD_FILE(loader, "%s: added token \"%.*s\" is listed twice", loader->path,
                        shown(content), content);
    if (json_object_set_new(seen, content, json_true()) != 0)
        return cf_fail(loader->error, CF_STATUS_OUT_OF_MEMORY, "added tokens");
    CF_TRY(refuse_flags(loader, index, content));
    CF_TRY(read_flag(loader, index, "special", false, &special));
    CF_TRY(read_flag(loader, index, "normalized", !special, &normalized));
    CF_TRY(read_added_id(loader, index, content, &id));
    CF_TRY(check_added_id(loader, content, id));
    loader->tokenizer->entries[id].added = true;
    loader->tokenizer->entries[id].special = special;
    return enter_added(loader, content, id, normalized);
}

static cf_status load_added(load_state *loader)
{
    json_t *seen = json_object();
    if (seen == NULL)
        return cf_fail(loader->error, CF_STATUS_OUT_OF_MEMORY, "added tokens");
    cf_status status = CF_STATUS_OK;
    for (size_t i = 0; i < json_array_size(loader->added) && status == CF_STATUS_OK; i++)
        status = load_added_token(loader, i, seen);
    json_decref(seen);
    return status;
}

/* Every token of the vocabulary is made of bytes, unless it is an added one. */
static cf_status check_spelling(const load_state *loader)
{
    const char *text;
    json_t *value;
    json_object_foreach(loader->vocab, text, value)
    {
        const cf_token_entry *entry = &loader->tokenizer->entries[json_integer_value(value)];
        if (!entry->spelled && !entry->added)
            return BAD_FILE(loader,
                            "%s: token \"%.*s\" of model.vocab has a character that is not of the "
                            "byte-level alphabet",
                            loader->path, shown(text), text);
    }
    return CF_STATUS_OK;
}

/* Whether a byte can occur in UTF-8. */
static bool is_utf8_byte(int byte)
{
    return byte < 0xC0 || (byte > 0xC1 && byte < 0xF5);
}

/* Finds the tokens of single bytes; all that occur in UTF-8 must be there. */
static cf_status find_byte_tokens(load_state *loader)
{
    cf_tokenizer *tokenizer = loader->tokenizer;
    for (int byte = 0; byte < 256; byte++) {
        char bytes[1] = {(char)byte};
        tokenizer->bpe.byte_tokens[byte] = cf_tokenizer_find_bytes(tokenizer, bytes, 1);
        if (tokenizer->bpe.byte_tokens[byte] < 0 && is_utf8_byte(byte))
            return cf_fail(loader->error, CF_STATUS_UNSUPPORTED,
                           "%s: model.vocab has no token for the byte 0x%02X, which text can hold",
                           loader->path, (unsigned)byte);
    }
    return CF_STATUS_OK;
}

/* The two parts of merge `index`, "left right" or ["left", "right"]; `left` ends at n_left. */
static cf_status read_merge(const load_state *loader, size_t index, const char **left,
                            size_t *n_left, const char **right)
{
    const json_t *merge = json_array_get(loader->merges, index);
    const char *first = NULL, *second = NULL;
    size_t n_first = 0;
    if (json_is_string(merge)) {
        first = json_string_value(merge);
        const char *space = strchr(first, ' ');
        n_first = space == NULL ? 0 : (size_t)(space - first);
        second = space == NULL || strchr(space + 1, ' ') != NULL ? NULL : space + 1;
    } else if (json_is_array(merge) && json_array_size(merge) == 2) {
        first = json_string_value(json_array_get(merge, 0));
        second = json_string_value(json_array_get(merge, 1));
        n_first = first == NULL ? 0 : strlen(first);
    }
    if (first == NULL || second == NULL || n_first == 0 || *second == 0)
        return BAD_FILE(loader,
                        "%s: model.merges[%zu] is %s, expected \"left right\" or "
                        "[\"left\", \"right\"]",
                        loader->path, index,
                        json_is_string(merge)  ? "another string"
                        : json_is_array(merge) ? "another array"
                                               : cf_json_kind(merge));
    *left = first;
    *n_left = n_first;
    *right = second;
    return CF_STATUS_OK;
}

/* Appends the bytes that a part of a merge spells to `parts`, and finds its token. */
static cf_status read_part(load_state *loader, size_t index, const char *part, size_t n_part,
                           cf_token *id)
{
    cf_buffer *parts = &loader->parts;
    bool spelled;
    CF_TRY(cf_buffer_reserve(parts, parts->n_bytes + n_part, "merges", loader->error));
    char *bytes = (char *)parts->data + parts->n_bytes;
    size_t n_bytes = cf_bytelevel_read(part, n_part, bytes, &spelled);
    parts->n_bytes += n_bytes;
    *id = spelled ? cf_tokenizer_find_bytes(loader->tokenizer, bytes, n_bytes) : -1;
    if (*id < 0)
        return BAD_FILE(loader, "%s: model.merges[%zu]: \"%.*s\" is not in model.vocab",
                        loader->path, index, n_part > 60 ? shown(part) : (int)n_part, part);
    return CF_STATUS_OK;
}

static cf_status load_merge(load_state *loader, size_t index, cf_merge *merge)
{
    const char *left = "", *right = "";
    size_t n_left = 0;
    CF_TRY(read_merge(loader, index, &left, &n_left, &right));
    loader->parts.n_bytes = 0;
    merge->rank = (uint32_t)index;
    CF_TRY(read_part(loader, index, left, n_left, &merge->left));
    CF_TRY(read_part(loader, index, right, strlen(right), &merge->right));
    merge->result =
        cf_tokenizer_find_bytes(loader->tokenizer, loader->parts.data, loader->parts.n_bytes);
    if (merge->result < 0)
        return BAD_FILE(
            loader, "%s: model.merges[%zu]: \"%.*s\" and \"%.*s\" joined are not in model.vocab",
            loader->path, index, n_left > 60 ? shown(left) : (int)n_left, left, shown(right),
            right);
    return CF_STATUS_OK;
}

static cf_status load_merges(load_state *loader)
{
    size_t n_merges = json_array_size(loader->merges);
    cf_merge *merges;
    CF_TRY(CF_ALLOC(&merges, n_merges, "merges", loader->error));
    cf_status status = CF_STATUS_OK;
    for (size_t i = 0; i < n_merges && status == CF_STATUS_OK; i++)
        status = load_merge(loader, i, &merges[i]);
    cf_buffer_free(&loader->parts);
    if (status == CF_STATUS_OK)
        return cf_bpe_init(&loader->tokenizer->bpe, merges, n_merges, loader->tokenizer->n_vocab,
                           loader->error);
    cf_dealloc(merges);
    return status;
}

cf_status cf_tokenizer_load(cf_tokenizer *tokenizer, const json_t *root, const char *path,
                            cf_error *error)
{
    load_state loader = {.tokenizer = tokenizer, .path = path, .error = error};
    CF_TRY(cf_tokenizer_read_options(tokenizer, root, path, error));
    CF_TRY(find_tables(&loader, root));
    CF_TRY(reserve_entries(&loader));
    CF_TRY(load_vocab(&loader));
    CF_TRY(cf_tokenizer_index(tokenizer, error));
    CF_TRY(find_byte_tokens(&loader));
    CF_TRY(load_added(&loader));
    CF_TRY(check_spelling(&loader));
    return load_merges(&loader);
}
