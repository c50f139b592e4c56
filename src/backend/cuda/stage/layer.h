/*
 * What the layer kernel is given, and which block streams what, as plain C. There is no table of
 * tiles: a block works each out from its number, so a launch reads nothing before its first weight.
 *
 * Tiles are a few rows of a matrix, in this order: qkv, up, dense, and with the whole layer down.
 * The tiles of qkv and up are dealt to the blocks in turn. Rows of dense and down come in units,
 * which belong to a block: it makes the whole sum of each. Blocks that own one unit less than the
 * others, the `n_light` last ones, get as many tiles of up more as a unit has.
 */
#ifndef CF_CUDA_STAGE_LAYER_H
#define CF_CUDA_STAGE_LAYER_H

#include "clusterfusion.h"

#ifdef __CUDACC__
#define CF_LAYER_INLINE static __host__ __device__ __forceinline__
#else
#define CF_LAYER_INLINE static inline
#endif

enum {
    CF_LAYER_N_HELPERS = 7, /* warps: 16 in all, for 128 registers a thread */
    CF_LAYER_N_PRODUCERS = 2,
    CF_LAYER_MAX_CONSUMERS = 7,
    CF_LAYER_MAX_SLOTS = 32,
    CF_LAYER_MAX_CHUNKS = 8,     /* of the MLP's inner vector */
    CF_LAYER_MAX_D_MODEL = 6144, /* four pieces of 8 a helper thread; a row is one tile */
    CF_LAYER_MAX_D_HEAD = 256,
    CF_LAYER_MAX_SPLITS = 16,
    CF_LAYER_FIXED_BYTES = 1024, /* of shared memory, for barriers and counters */
    CF_LAYER_COUNTER_STRIDE = 32,
};

typedef enum cf_layer_matrix {
    CF_LAYER_QKV = 0,
    CF_LAYER_UP = 1,
    CF_LAYER_DENSE = 2,
    CF_LAYER_DOWN = 3,
} cf_layer_matrix;

/* What tiles are multiplied with; each lies in shared memory and has a barrier. */
enum {
    CF_LAYER_NORM1 = 0,
    CF_LAYER_NORM2 = 1,
    CF_LAYER_ATTENTION = 2,
    CF_LAYER_FFN = 3, /* and following: chunk k */
    CF_LAYER_N_VECTORS = CF_LAYER_FFN + CF_LAYER_MAX_CHUNKS,
};

/* What blocks count: those done with their rows of qkv, heads done, blocks done with up chunk k. */
enum {
    CF_LAYER_COUNT_QKV = 0,
    CF_LAYER_COUNT_ATTENTION = 1,
    CF_LAYER_COUNT_UP = 2,
    CF_LAYER_N_COUNTS = CF_LAYER_COUNT_UP + CF_LAYER_MAX_CHUNKS,
};

/* Offsets in bytes within a block's shared memory; each a multiple of 128. */
typedef struct cf_layer_layout {
    int32_t vectors[CF_LAYER_N_VECTORS]; /* float16 */
    int32_t attention;                   /* work space of attention */
    int32_t partials;                    /* [n_own_rows][n_parts] float: whole layer */
    int32_t hidden;   /* [own rows] float: of the hidden state, for those who add to it */
    int32_t arrivals; /* [n_own_rows] uint32_t: whole layer */
    int32_t ring;     /* [n_slots][slot_bytes] */
    int32_t total;
} cf_layer_layout;

/* Something dealt to the blocks in turn: each gets `n_each`, the first `n_more` one more. */
typedef struct cf_layer_deal {
    int32_t n_each, n_more;
} cf_layer_deal;

typedef struct cf_layer_plan {
    cf_layer_options options;
    int32_t d_head;
    int32_t n_blocks;
    int32_t tile_rows; /* of qkv, up and dense; also rows of a unit: 2^row_bits */
    int32_t row_bits;
    int32_t n_qkv_tiles;     /* the first of the tiles that are dealt in turn, */
    int32_t n_free_tiles;    /* then those of up */
    int32_t n_units;         /* of dense and down */
    int32_t n_light;         /* blocks that own one unit less */
    cf_layer_deal turns;     /* of the tiles that are dealt in turn, */
    cf_layer_deal units;     /* and of the units */
    int32_t n_extra;         /* tiles of up that the light blocks get more */
    int32_t n_chunks, chunk; /* of the MLP's inner vector: number, elements */
    int32_t own_columns;     /* of a tile of down, which its consumer multiplies, not a helper */
    int32_t n_parts; /* sums of an output row: dense, and two halves of each chunk of down */
    int32_t n_counting[CF_LAYER_N_COUNTS]; /* that count in a launch */
    int32_t n_late[CF_LAYER_N_COUNTS];     /* of these, for which readers do not wait */
    int32_t max_tiles;                     /* of a block */
    int32_t n_consumers, n_slots, slot_bytes, n_window;
    int32_t max_splits; /* of a head's positions among blocks */
    cf_layer_layout layout;
} cf_layer_plan;

/* Device memory that launches leave to each other; zero at first. */
typedef struct cf_layer_scratch {
    unsigned long long *tickets; /* one a block and launch: the launch's epoch follows from it */
    uint32_t *counters;          /* [CF_LAYER_N_COUNTS][CF_LAYER_COUNTER_STRIDE], only growing */
    uint64_t *qkv;               /* [3 d_model] packets, as the next three */
    uint32_t *attention;         /* [d_model] */
    uint32_t *ffn;               /* [d_ffn] */
    uint64_t *partials;          /* [n_heads][max_splits][d_head + 2] */
} cf_layer_scratch;

typedef struct cf_layer_args {
    cf_layer_tensors tensors;
    cf_layer_plan plan;
    cf_layer_scratch scratch;
    int32_t n_splits;
    bool has_pairs; /* blocks 2 i and 2 i + 1 reach each other's shared memory */
} cf_layer_args;

typedef struct cf_layer_tile {
    cf_layer_matrix matrix;
    int32_t row, n_rows;
    int32_t column, n_columns;
    int32_t own_row; /* dense, down: its first row among those of the block */
} cf_layer_tile;

/* What one block streams: free tiles in turn, extra ones, then its units. */
typedef struct cf_layer_share {
    int32_t turn; /* the block's place when tiles are dealt: light blocks come first */
    int32_t n_in_turn, n_free, n_units, n_tiles;
} cf_layer_share;

CF_LAYER_INLINE int32_t cf_layer_dealt(cf_layer_deal deal, int32_t turn)
{
    return deal.n_each + (turn < deal.n_more ? 1 : 0);
}

/* No division: this is what a launch begins with. */
CF_LAYER_INLINE cf_layer_share cf_layer_share_of(const cf_layer_plan *plan, int32_t block)
{
    int32_t n_heavy = plan->n_blocks - plan->n_light;
    int32_t n_down = plan->options.whole ? plan->n_chunks : 0;
    cf_layer_share share;
    bool is_light = block >= n_heavy;
    share.turn = is_light ? block - n_heavy : block + plan->n_light;
    share.n_in_turn = cf_layer_dealt(plan->turns, share.turn);
    share.n_free = share.n_in_turn + (is_light ? plan->n_extra : 0);
    share.n_units = cf_layer_dealt(plan->units, block);
    share.n_tiles = share.n_free + share.n_units + (share.n_units << plan->row_bits) * n_down;
    return share;
}

CF_LAYER_INLINE cf_layer_tile cf_layer_free_tile(const cf_layer_plan *plan, int32_t index)
{
    cf_layer_tile tile = {CF_LAYER_QKV, 0, plan->tile_rows, 0, plan->options.d_model, 0};
    int32_t n_rows = 3 * plan->options.d_model;
    if (index >= plan->n_qkv_tiles) {
        tile.matrix = CF_LAYER_UP;
        index -= plan->n_qkv_tiles;
        n_rows = plan->options.d_ffn;
    }
    tile.row = index * plan->tile_rows;
    if (tile.n_rows > n_rows - tile.row)
        tile.n_rows = n_rows - tile.row;
    return tile;
}

/* The output row that is the block's own_row-th. */
CF_LAYER_INLINE int32_t cf_layer_own_row_at(const cf_layer_plan *plan, int32_t block,
                                            int32_t own_row)
{
    int32_t unit = own_row >> plan->row_bits;
    return ((unit * (plan->n_blocks - 1) + block) << plan->row_bits) + own_row;
}

/* Tile `t` of a block, 0 … n_tiles - 1, in the order in which they are streamed. */
CF_LAYER_INLINE cf_layer_tile cf_layer_tile_at(const cf_layer_plan *plan,
                                               const cf_layer_share *share, int32_t block,
                                               int32_t t)
{
    int32_t d_model = plan->options.d_model, n_own = share->n_units << plan->row_bits;
    if (t < share->n_in_turn)
        return cf_layer_free_tile(plan, t * plan->n_blocks + share->turn);
    if (t < share->n_free)
        return cf_layer_free_tile(plan, plan->n_free_tiles - plan->n_extra * plan->n_light +
                                            (t - share->n_in_turn) * plan->n_light + share->turn);
    t -= share->n_free;
    if (t < share->n_units) {
        int32_t row = (t * plan->n_blocks + block) * plan->tile_rows;
        return (cf_layer_tile){CF_LAYER_DENSE,     row, plan->tile_rows, 0, d_model,
                               t * plan->tile_rows};
    }
    t -= share->n_units;
    int32_t column = 0, own_row = t;
    for (; own_row >= n_own; own_row -= n_own) /* there are few chunks */
        column += plan->chunk;
    int32_t row = cf_layer_own_row_at(plan, block, own_row), left = plan->options.d_ffn - column;
    return (cf_layer_tile){CF_LAYER_DOWN, row, 1, column, left < plan->chunk ? left : plan->chunk,
                           own_row};
}

/* The chunk of the MLP's inner vector that element `at` is in. There are few: no division. */
CF_LAYER_INLINE int32_t cf_layer_chunk_of(const cf_layer_plan *plan, int32_t at)
{
    int32_t chunk = 0;
    for (; at >= plan->chunk; at -= plan->chunk)
        chunk++;
    return chunk;
}

/* Columns of a tile that its consumer multiplies; those after them are a helper's. */
CF_LAYER_INLINE int32_t cf_layer_own_columns(const cf_layer_plan *plan, const cf_layer_tile *tile)
{
    bool is_helped = tile->matrix == CF_LAYER_DOWN && tile->n_columns > plan->own_columns;
    return is_helped ? plan->own_columns : tile->n_columns;
}

/* The counter that a tile of qkv or up counts for. */
CF_LAYER_INLINE int32_t cf_layer_count_of(const cf_layer_plan *plan, const cf_layer_tile *tile)
{
    return tile->matrix == CF_LAYER_QKV ? CF_LAYER_COUNT_QKV
                                        : CF_LAYER_COUNT_UP + cf_layer_chunk_of(plan, tile->row);
}

#endif
