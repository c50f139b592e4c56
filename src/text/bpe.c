#include "text/bpe.h"

#include "base/memory.h"
#include "base/status.h"

#include <stdlib.h>

/* A token of the word so far, in a list that is linked both ways. */
typedef struct symbol {
    cf_token id; /* ABSORBED: has become part of the symbol before it */
    size_t previous, next;
} symbol;

#define ABSORBED (-2)
#define NONE SIZE_MAX

/* A merge that was possible when it was queued. */
typedef struct candidate {
    uint32_t rank;
    cf_token right;
    size_t left; /* index of the left symbol */
} candidate;

typedef struct word_state {
    const cf_bpe *bpe;
    symbol *symbols;
    candidate *queue; /* binary heap, the best candidate first */
    size_t n_queued;
} word_state;

static int compare_merges(const void *a, const void *b)
{
    const cf_merge *x = a, *y = b;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    if (x->right != y->right)
        return x->right < y->right ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

cf_status cf_bpe_init(cf_bpe *bpe, cf_merge *merges, size_t n_merges, size_t n_ids, cf_error *error)
{
    bpe->merges = merges;
    bpe->n_ids = n_ids;
    CF_TRY(CF_ALLOC(&bpe->first_merge, n_ids + 1, "merges", error));
    qsort(merges, n_merges, sizeof *merges, compare_merges);
    size_t n = 0;
    for (size_t i = 0; i < n_merges; i++) {
        bool same =
            n > 0 && merges[n - 1].left == merges[i].left && merges[n - 1].right == merges[i].right;
        if (!same)
            n++;
        merges[n - 1] = merges[i];
    }
    bpe->n_merges = n;
    for (size_t i = 0, id = 0; id <= n_ids; id++) {
        while (i < n && (size_t)merges[i].left < id)
            i++;
        bpe->first_merge[id] = (uint32_t)i;
    }
    return CF_STATUS_OK;
}

void cf_bpe_free(cf_bpe *bpe)
{
    cf_dealloc(bpe->merges);
    cf_dealloc(bpe->first_merge);
}

static const cf_merge *find_merge(const cf_bpe *bpe, cf_token left, cf_token right)
{
    size_t low = bpe->first_merge[left], high = bpe->first_merge[left + 1], end = high;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (bpe->merges[middle].right < right)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && bpe->merges[low].right == right ? &bpe->merges[low] : NULL;
}

/* The lower rank first; within a rank, from left to right. */
static bool is_before(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void queue_push(word_state *word, candidate item)
{
    size_t i = word->n_queued++;
    for (; i > 0 && is_before(&item, &word->queue[(i - 1) / 2]); i = (i - 1) / 2)
        word->queue[i] = word->queue[(i - 1) / 2];
    word->queue[i] = item;
}

static candidate queue_pop(word_state *word)
{
    candidate *queue = word->queue, best = queue[0], item = queue[--word->n_queued];
    size_t i = 0, n = word->n_queued;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && is_before(&queue[child + 1], &queue[child]))
            child++;
        if (!is_before(&queue[child], &item))
            break;
        queue[i] = queue[child];
        i = child;
    }
    queue[i] = item;
    return best;
}

/* Queues the merge of symbol `left` with the one behind it, if there is such a merge. */
static void consider(word_state *word, size_t left)
{
    if (left == NONE || word->symbols[left].next == NONE)
        return;
    cf_token right_id = word->symbols[word->symbols[left].next].id;
    const cf_merge *merge = find_merge(word->bpe, word->symbols[left].id, right_id);
    if (merge != NULL)
        queue_push(word, (candidate){.rank = merge->rank, .right = right_id, .left = left});
}

/* Carries out a candidate, unless one of its two symbols has changed since it was queued. */
static void merge_candidate(word_state *word, const candidate *item)
{
    symbol *symbols = word->symbols, *left = &symbols[item->left];
    if (left->id == ABSORBED || left->next == NONE || symbols[left->next].id != item->right)
        return;
    const cf_merge *merge = find_merge(word->bpe, left->id, item->right);
    if (merge == NULL || merge->rank != item->rank)
        return;
    symbol *right = &symbols[left->next];
    left->id = merge->result;
    left->next = right->next;
    right->id = ABSORBED;
    if (left->next != NONE)
        symbols[left->next].previous = item->left;
    consider(word, left->previous);
    consider(word, item->left);
}

/* One symbol for each byte that has a token; returns their number. */
static size_t spell_word(const cf_bpe *bpe, symbol *symbols, const char *word, size_t n_bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        cf_token id = bpe->byte_tokens[(unsigned char)word[i]];
        if (id < 0)
            continue;
        symbols[n] = (symbol){.id = id, .previous = n - 1, .next = n + 1};
        n++;
    }
    if (n > 0)
        symbols[n - 1].next = NONE;
    return n;
}

cf_status cf_bpe_encode(const cf_bpe *bpe, cf_bpe_scratch *scratch, const char *word,
                        size_t n_bytes, const cf_token **ids, size_t *n_ids, cf_error *error)
{
    size_t n_symbols_bytes, n_queue_bytes;
    /* Less than n candidates at first, then less than n merges that queue at most two each. */
    if (__builtin_mul_overflow(n_bytes, sizeof(symbol), &n_symbols_bytes) ||
        __builtin_mul_overflow(n_bytes, 3 * sizeof(candidate), &n_queue_bytes))
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "encoding a word of %zu bytes", n_bytes);
    CF_TRY(cf_buffer_reserve(&scratch->symbols, n_symbols_bytes, "encoding", error));
    CF_TRY(cf_buffer_reserve(&scratch->queue, n_queue_bytes, "encoding", error));
    word_state state = {.bpe = bpe, .symbols = scratch->symbols.data, .queue = scratch->queue.data};
    size_t n = spell_word(bpe, state.symbols, word, n_bytes);
    for (size_t i = 0; i + 1 < n; i++)
        consider(&state, i);
    while (state.n_queued > 0) {
        candidate best = queue_pop(&state);
        merge_candidate(&state, &best);
    }
    /* The queue is empty: its memory takes the tokens. */
    cf_token *out = scratch->queue.data;
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++)
        if (state.symbols[i].id != ABSORBED)
            out[n_out++] = state.symbols[i].id;
    *ids = out;
    *n_ids = n_out;
    return CF_STATUS_OK;
}

void cf_bpe_scratch_free(cf_bpe_scratch *scratch)
{
    cf_buffer_free(&scratch->symbols);
    cf_buffer_free(&scratch->queue);
}
