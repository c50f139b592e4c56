/*
 * Matrix products of float32 precision on the processor's bfloat16 tiles (Intel's AMX).
 *
 * A bfloat16 has 8 significant bits. A float32 is the exact sum of three of them, a float16 of two:
 * its leading bits, the next, the last. Products of parts are exact in float32, in which the tiles
 * add; only that of the input's last part and the weight's second is left out (docs/numerics.md).
 */
#ifndef CF_BACKEND_CPU_TILES_H
#define CF_BACKEND_CPU_TILES_H

#include "clusterfusion.h"

/* A tile of weights has so many rows, one of the input so many tokens, both so many columns. */
#define CF_TILE_ROWS ((size_t)16)
#define CF_TILE_COLUMNS ((size_t)32)
#define CF_TILE_ELEMENTS (CF_TILE_ROWS * CF_TILE_COLUMNS)

/* Parts of an input. */
#define CF_TILE_PARTS ((size_t)3)

/* Parts of a weight of this dtype; 0: tiles cannot multiply it. */
size_t cf_tiles_weight_parts(cf_dtype dtype);

/*
 * Whether processor and kernel have tiles and grant them to this process: not where a thread's
 * alternative signal stack is too small to hold their state, and smaller ones cannot be set after.
 */
bool cf_tiles_granted(void);

/* Between these the calling thread may multiply; other work costs more meanwhile. */
void cf_tiles_begin(void);
void cf_tiles_end(void);

/*
 * A tile's 16 rows of weights, `row_bytes` from one to the next, n_columns of each (a multiple of
 * CF_TILE_COLUMNS), into to [n_columns / 32][parts][16 rows][32].
 */
void cf_tiles_split_weights(uint16_t *to, const void *from, size_t row_bytes, cf_dtype dtype,
                            size_t n_columns);

/*
 * CF_TILE_COLUMNS columns of n tokens, from [32][stride of floats], into to [tiles of
 * tokens][parts] [32 / 2][16 tokens][2]; tiles of tokens are `apart` elements from each other. The
 * last tile is filled from what lies beyond n: up to 15 floats a row.
 */
void cf_tiles_split_input(uint16_t *to, size_t apart, const float *from, size_t stride, size_t n);

/* product [16 n_row_tiles][stride] += weights × inputs, for whole tiles of tokens. */
typedef struct cf_tiles_product {
    float *product;
    size_t stride;
    const uint16_t *weights; /* [n_row_tiles][n_steps][n_parts][16][32] */
    size_t n_row_tiles, n_parts;
    const uint16_t *inputs; /* [n_token_tiles][at least n_steps][3][16][16][2] */
    size_t n_token_tiles, inputs_apart;
    size_t n_steps; /* columns / CF_TILE_COLUMNS */
} cf_tiles_product;

void cf_tiles_multiply(const cf_tiles_product *product);

#endif
