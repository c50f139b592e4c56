/* Finding a token of the vocabulary by its bytes. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "text/tokenizer.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static void insert(cf_tokenizer *tokenizer, size_t id)
{
    const cf_token_entry *entry = &tokenizer->entries[id];
    uint64_t hash = XXH3_64bits_withSeed(tokenizer->bytes + entry->offset, entry->n_bytes,
                                         tokenizer->hash_seed);
    size_t i = hash & (tokenizer->n_slots - 1);
    while (tokenizer->slots[i].id_and_1 != 0)
        i = (i + 1) & (tokenizer->n_slots - 1);
    tokenizer->slots[i] =
        (cf_token_slot){.tag = (uint32_t)(hash >> 32), .id_and_1 = (uint32_t)id + 1};
}

cf_status cf_tokenizer_index(cf_tokenizer *tokenizer, cf_error *error)
{
    size_t n_slots = 16;
    while (n_slots < 2 * tokenizer->n_vocab)
        n_slots *= 2;
    tokenizer->n_slots = n_slots;
    CF_TRY(CF_ALLOC(&tokenizer->slots, n_slots, "token table", error));
    /* No file can be made so that its tokens collide: the seed is another one each time. */
    tokenizer->hash_seed = cf_clock_ns() ^ (uintptr_t)tokenizer->slots;
    for (size_t id = 0; id < tokenizer->n_vocab; id++)
        if (tokenizer->entries[id].present && tokenizer->entries[id].spelled)
            insert(tokenizer, id);
    return CF_STATUS_OK;
}

cf_token cf_tokenizer_find_bytes(const cf_tokenizer *tokenizer, const char *bytes, size_t n_bytes)
{
    uint64_t hash = XXH3_64bits_withSeed(bytes, n_bytes, tokenizer->hash_seed);
    size_t i = hash & (tokenizer->n_slots - 1);
    for (; tokenizer->slots[i].id_and_1 != 0; i = (i + 1) & (tokenizer->n_slots - 1)) {
        if (tokenizer->slots[i].tag != (uint32_t)(hash >> 32))
            continue;
        uint32_t id = tokenizer->slots[i].id_and_1 - 1;
        const cf_token_entry *entry = &tokenizer->entries[id];
        if (entry->n_bytes == n_bytes &&
            memcmp(tokenizer->bytes + entry->offset, bytes, n_bytes) == 0)
            return (cf_token)id;
    }
    return -1;
}
