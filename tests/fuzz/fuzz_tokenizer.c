/* tokenizer.json of any bytes: refused or opened; what opens encodes and decodes. */
#include "base/json.h"
#include "base/memory.h"
#include "text/tokenizer.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void use(const cf_tokenizer *tokenizer, const char *text, size_t n_bytes)
{
    cf_token *ids = malloc((3 * n_bytes + 1) * sizeof *ids);
    size_t n_ids, n_text;
    if (cf_tokenizer_encode(tokenizer, text, n_bytes, 0, ids, 3 * n_bytes, &n_ids, NULL) !=
        CF_STATUS_OK)
        abort();
    cf_status status = cf_tokenizer_decode(tokenizer, ids, n_ids, 0, NULL, 0, &n_text, NULL);
    if (status != CF_STATUS_OK && status != CF_STATUS_BUFFER_TOO_SMALL)
        abort();
    free(ids);
    for (size_t id = 0; id < cf_tokenizer_n_vocab(tokenizer); id++)
        if (cf_tokenizer_bytes(tokenizer, (cf_token)id, &n_text)[n_text] != 0)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    cf_error error;
    json_t *root;
    if (cf_json_parse(data, n_bytes, "input", &root, &error) != CF_STATUS_OK)
        return 0;
    cf_tokenizer *tokenizer;
    if (CF_ALLOC(&tokenizer, 1, "tokenizer", &error) != CF_STATUS_OK)
        abort();
    if (cf_tokenizer_load(tokenizer, root, "input", &error) == CF_STATUS_OK)
        use(tokenizer, (const char *)data, n_bytes);
    cf_tokenizer_close(tokenizer);
    json_decref(root);
    return 0;
}
