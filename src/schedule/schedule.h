/*
 * A token as streams of bytes: which block of a GPU reads which rows of which matrix, in which
 * order, and where everything lies in its shared memory. Plain data, made from a model's shape and
 * a GPU's limits; the kernel walks it, and so can a test without a GPU.
 *
 * One block runs on each multiprocessor for a whole token. It streams its tiles, a few rows of a
 * matrix each, through a ring of slots in shared memory: those of one layer, for every layer alike,
 * then those of the LM head. The tiles of a layer come in phases, the same order in every block:
 *
 *     parallel residual      qkv   up 0 … up n   down 0 … down n   dense
 *     sequential residual    qkv   dense   up 0 … up n   down 0 … down n
 *
 * so that what a phase waits for was streamed in an earlier one, by all blocks, and other weights
 * flow meanwhile. Phase `up k` makes the columns that phase `down k` reads. Each row of the
 * residual (a row of dense and of down) belongs to one block, which sums it in a fixed order: the
 * same model, GPU and prompt give the same bits.
 */
#ifndef CF_SCHEDULE_SCHEDULE_H
#define CF_SCHEDULE_SCHEDULE_H

#include "clusterfusion.h"

enum {
    CF_SCHEDULE_MAX_LAYERS = 64,
    CF_SCHEDULE_MAX_D_MODEL = 6144, /* a row is one tile */
    CF_SCHEDULE_MAX_CHUNKS = 8,
    CF_SCHEDULE_MAX_PHASES = 3 + 2 * CF_SCHEDULE_MAX_CHUNKS,
    CF_SCHEDULE_MAX_SLOTS = 32,
    CF_SCHEDULE_MAX_SPLITS = 16,
    CF_SCHEDULE_MAX_WARPS = 20, /* of a block: then a thread has 96 registers */
    CF_SCHEDULE_N_VECTOR_WARPS = 8,
    CF_SCHEDULE_MAX_PRODUCERS = 2,
    CF_SCHEDULE_FEW_TURNS = 3,        /* of the consumers' with tiles of qkv and up */
    CF_SCHEDULE_FIXED_BYTES = 1280,   /* of shared memory, for barriers and counters, */
    CF_SCHEDULE_COUNTER_BYTES = 16,   /* for each count of warps, */
    CF_SCHEDULE_CHOICE_BYTES = 256,   /* for choosing the next token, */
    CF_SCHEDULE_SAMPLE_BYTES = 16384, /* and for drawing it */
};

/*
 * Warps of a block, by the width of its heads: those that attend, a lane an element, so that three
 * are enough for 96; those that are left to stream and to multiply; the most that multiply.
 */
#define CF_SCHEDULE_N_ATTENTION_WARPS(d_head) ((d_head) <= 96 ? 3 : 4)
#define CF_SCHEDULE_N_STREAM_WARPS(d_head)                                                         \
    (CF_SCHEDULE_MAX_WARPS - CF_SCHEDULE_N_VECTOR_WARPS - CF_SCHEDULE_N_ATTENTION_WARPS(d_head))
#define CF_SCHEDULE_MOST_CONSUMERS(d_head) (CF_SCHEDULE_N_STREAM_WARPS(d_head) - 1)

/* What a GPU allows. */
typedef struct cf_gpu_limits {
    int32_t n_multiprocessors;
    int32_t shared_bytes;    /* shared memory that one block can have */
    int32_t memory_gb_per_s; /* by its clock and width; 0: unknown */
} cf_gpu_limits;

typedef enum cf_matrix {
    CF_MATRIX_QKV = 0,
    CF_MATRIX_UP = 1,
    CF_MATRIX_DOWN = 2,
    CF_MATRIX_DENSE = 3,
    CF_MATRIX_HEAD = 4,
} cf_matrix;

enum { CF_N_LAYER_MATRICES = 4 };

/* The vectors that tiles are multiplied with; each lies in shared memory and has a barrier. */
typedef enum cf_vector {
    CF_VECTOR_NORM1 = 0, /* LayerNorm before attention; before the LM head, the final one */
    CF_VECTOR_NORM2 = 1, /* LayerNorm before the MLP */
    CF_VECTOR_ATTENTION = 2,
    CF_VECTOR_FFN = 3, /* and following: chunk k of the activated up projection */
    CF_N_VECTORS = CF_VECTOR_FFN + CF_SCHEDULE_MAX_CHUNKS,
} cf_vector;

/* Tiles of one kind: rows row … row + n_rows - 1 and columns column … of a matrix. */
typedef struct cf_phase {
    cf_matrix matrix;
    int32_t input; /* cf_vector; its first element meets the phase's first column */
    int32_t row, n_rows;
    int32_t column, n_columns;
    int32_t row_bytes; /* from one row of the matrix to the next */
    int32_t tile_rows; /* rows of a tile; the last one may have fewer */
    int32_t part;      /* down, dense: which of the partial sums of a residual row */
    int32_t n_blocks;  /* that have tiles of it */
} cf_phase;

/* A piece of the stream. `unit` counts the tiles of a phase within the block. */
typedef struct cf_tile {
    int32_t row;
    uint8_t phase;
    uint8_t n_rows;
    uint16_t unit;
} cf_tile;

/*
 * What one block does: tiles[0 … n_layer_tiles - 1] in each layer, then n_head_tiles more. It has a
 * tile of every matrix of a layer: so whatever it reads, something that all blocks wait for is made
 * of it, and nobody can overwrite it too early.
 */
typedef struct cf_share {
    int32_t n_layer_tiles;
    int32_t n_head_tiles;
    int32_t n_units; /* tiles of residual rows that it owns */
    int32_t n_phase_tiles[CF_SCHEDULE_MAX_PHASES];
    int32_t kv_place; /* layer tiles that come before the KV cache's */
} cf_share;

/* Offsets in bytes within a block's shared memory; multiples of 16, the ring's of 128. */
typedef struct cf_shared_layout {
    int32_t tiles;     /* [max_tiles] cf_tile */
    int32_t residual;  /* [max_units][unit_rows] float: the block's rows of the residual */
    int32_t partials;  /* [max_units][n_parts][unit_rows] float */
    int32_t arrivals;  /* [max_units] counters of the partial sums that are there */
    int32_t choice;    /* CF_SCHEDULE_CHOICE_BYTES */
    int32_t sample;    /* CF_SCHEDULE_SAMPLE_BYTES, where vectors lie */
    int32_t attention; /* work space of the attention warps: see attention_bytes() */
    int32_t vectors[CF_N_VECTORS]; /* 16-bit floats */
    int32_t norm;                  /* [d_model] float: the residual while it is normalised */
    int32_t norm_weights;          /* [d_model] 16-bit floats: those of the next LayerNorm */
    int32_t norm2_weights;         /* the same, of the one after it; 0: no place */
    int32_t ring;                  /* [n_slots][slot_bytes] */
    int32_t total;
} cf_shared_layout;

typedef struct cf_schedule {
    cf_shape shape;
    int32_t n_blocks;
    int32_t n_consumers; /* warps that multiply: tile i of a block is drained by warp i mod n */
    int32_t n_producers; /* warps that stream: tile i of a block is brought by warp i mod n */
    int32_t n_slots;     /* a multiple of both, so that each slot has one of each */
    int32_t n_window;    /* tiles that may be in flight; a multiple of n_producers */
    int32_t n_ahead;     /* the same of a layer's first n_slots tiles, which come ahead of need */
    int32_t slot_bytes;  /* of the largest tile */
    int32_t bias_rows;   /* rows of the largest tile */
    int32_t tile_rows;   /* rows of a tile: of qkv and up, */
    int32_t unit_rows;   /* of down and dense, */
    int32_t head_tile_rows;
    int32_t n_chunks;        /* of the MLP's inner vector */
    int32_t chunk;           /* its elements; the last chunk may have fewer */
    int32_t n_parts;         /* partial sums of a residual row: dense and each down chunk */
    int32_t max_splits;      /* of a head's KV cache among blocks, */
    int32_t split_positions; /* as soon as each has this many */
    int32_t kv_positions;    /* of a head that a slot holds: their keys, then their values */
    int32_t kv_least;        /* positions of a tile of the KV cache, where there are as many */
    int32_t n_late_blocks;   /* readers begin when all have counted but so many blocks, */
    int32_t n_late_heads;    /* or heads: what is late they look at until it is there */
    bool chain_bound;        /* a layer is a chain of waits: see choose_late() */
    int32_t n_phases;        /* the LM head is the last */
    cf_phase phases[CF_SCHEDULE_MAX_PHASES];
    cf_shared_layout shared;
    int32_t max_units;
    int32_t max_tiles; /* slots of a block in `tiles` */
    cf_tile *tiles;    /* [n_blocks][max_tiles] */
    cf_share *shares;  /* [n_blocks] */
} cf_schedule;

/*
 * Makes the schedule of a model with 16-bit weights. UNSUPPORTED names what this kind of kernel
 * cannot run (a head width, a size that no bulk copy can carry, more shared memory than there is),
 * before anything is allocated. Free it with cf_schedule_free(). Any thread; milliseconds.
 */
cf_status cf_schedule_create(const cf_shape *shape, const cf_gpu_limits *limits,
                             cf_schedule *schedule, cf_error *error);
void cf_schedule_free(cf_schedule *schedule);

/*
 * Of a ring of which n_fitting slots fit: how many warps, to `most`, drain it, and in *n_slots how
 * many slots it then has. Each slot belongs to one consumer and to one producer: by a barrier's
 * parity a use of a slot is told from the next only by who waited for every one before. Of the
 * numbers that leave at most a fifth of the slots unused that another would use, the largest.
 */
int32_t cf_ring_consumers(int32_t n_fitting, int32_t most, int32_t n_producers, int32_t *n_slots);

/* Blocks that share a head's KV cache when `n_pos` positions are in it, the new one included. */
int32_t cf_schedule_splits(const cf_schedule *schedule, int32_t n_pos);

/* Bytes of weights and biases that one token streams. */
uint64_t cf_schedule_token_bytes(const cf_schedule *schedule);

#endif
