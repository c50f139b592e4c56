#include "text/tokenizer.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"

#include <limits.h>
#include <string.h>

/* The largest known tokenizer.json of a model has 35 MB. */
#define MAX_FILE_BYTES ((size_t)256 << 20)

cf_status cf_tokenizer_open(const char *path, cf_tokenizer **tokenizer, cf_error *error)
{
    if (tokenizer != NULL)
        *tokenizer = NULL;
    if (path == NULL || tokenizer == NULL)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "cf_tokenizer_open: %s is NULL",
                       path == NULL ? "path" : "tokenizer");
    char joined[PATH_MAX];
    if (cf_path_is_folder(path)) {
        CF_TRY(cf_path_join(joined, sizeof joined, path, "tokenizer.json", error));
        path = joined;
    }
    json_t *root;
    CF_TRY(cf_json_load(path, MAX_FILE_BYTES, &root, error));
    cf_tokenizer *opened;
    cf_status status = CF_ALLOC(&opened, 1, "tokenizer", error);
    if (status == CF_STATUS_OK)
        status = cf_tokenizer_load(opened, root, path, error);
    json_decref(root);
    if (status == CF_STATUS_OK)
        *tokenizer = opened;
    else
        cf_tokenizer_close(opened);
    return status;
}

void cf_tokenizer_close(cf_tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    cf_dealloc(tokenizer->entries);
    cf_dealloc(tokenizer->bytes);
    cf_dealloc(tokenizer->slots);
    cf_bpe_free(&tokenizer->bpe);
    cf_added_free(&tokenizer->raw_tokens);
    cf_added_free(&tokenizer->normalized_tokens);
    cf_dealloc(tokenizer);
}

size_t cf_tokenizer_n_vocab(const cf_tokenizer *tokenizer)
{
    return tokenizer == NULL ? 0 : tokenizer->n_vocab;
}

/* NULL for ids without text. */
static const cf_token_entry *find_entry(const cf_tokenizer *tokenizer, cf_token id)
{
    if (tokenizer == NULL || id < 0 || (size_t)id >= tokenizer->n_vocab ||
        !tokenizer->entries[id].present)
        return NULL;
    return &tokenizer->entries[id];
}

const char *cf_tokenizer_bytes(const cf_tokenizer *tokenizer, cf_token id, size_t *n_bytes)
{
    const cf_token_entry *entry = find_entry(tokenizer, id);
    if (n_bytes != NULL)
        *n_bytes = entry == NULL ? 0 : entry->n_bytes;
    return entry == NULL ? "" : tokenizer->bytes + entry->offset;
}

bool cf_tokenizer_is_special(const cf_tokenizer *tokenizer, cf_token id)
{
    const cf_token_entry *entry = find_entry(tokenizer, id);
    return entry != NULL && entry->special;
}

cf_token cf_tokenizer_find(const cf_tokenizer *tokenizer, const char *text)
{
    if (tokenizer == NULL || text == NULL)
        return -1;
    size_t n_bytes = strlen(text);
    for (size_t id = 0; id < tokenizer->n_vocab; id++) {
        const cf_token_entry *entry = &tokenizer->entries[id];
        if (entry->added && entry->n_bytes == n_bytes &&
            memcmp(tokenizer->bytes + entry->offset, text, n_bytes) == 0)
            return (cf_token)id;
    }
    return cf_tokenizer_find_bytes(tokenizer, text, n_bytes);
}
