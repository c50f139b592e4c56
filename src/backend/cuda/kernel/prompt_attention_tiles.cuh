/*
 * How a block of warpgroups gets tiles of keys and values, for prompt_attention_wgmma.cuh: the copy
 * engine brings them into a ring in shared memory. No warp has only that to do: whoever is the last
 * to leave a tile asks for the one that takes its place.
 *
 * Tiles end where the block's last query is, and the first may begin before the cache does, where
 * zeros come: so nothing is read that lies beyond, which was never written or is of another session
 * and, were it no number, would stay none under a weight of zero.
 */
#ifndef CF_CUDA_KERNEL_PROMPT_ATTENTION_TILES_CUH
#define CF_CUDA_KERNEL_PROMPT_ATTENTION_TILES_CUH

#include "backend/cuda/device/copy.cuh"
#include "backend/cuda/device/mma.cuh"
#include "backend/cuda/device/tensor.cuh"
#include "backend/cuda/device/wgmma.cuh"
#include "backend/cuda/kernel/prompt.h"

/* Keys and values are in parts of `part` columns, as device/wgmma.cuh has it. Of the queries,
 * `kept` times 16 columns are kept in registers. */
template <int width, int groups, int keys, int blocks, int stages, int part, int kept>
struct group_shape {
    static constexpr int n_blocks = blocks; /* of a multiprocessor */
    static constexpr int n_threads = groups * N_GROUP_THREADS;
    static constexpr int d_head = width;
    static constexpr int d_part = part;
    static constexpr int n_queries = groups * N_GROUP_ROWS;
    static constexpr int n_keys = keys;
    static constexpr int n_stages = stages; /* of the ring */
    static constexpr int n_kept = kept;
    static constexpr int tile = keys * width;
    static constexpr int n_pieces = width / 8;
    /* Queries, and later what they found, are columns of pieces of 16 bytes, an odd number of
     * pieces apart: eight pieces of a row lie in different banks. */
    static constexpr int query_column = 8 * (n_queries + 1);
    static constexpr int ring_bytes = 2 * 2 * stages * tile;
    static constexpr int barriers_at = ring_bytes + 2 * n_pieces * query_column;
    static constexpr int shared_bytes = barriers_at + (2 * 8 + 4) * stages;
    static_assert(shared_bytes <= 227 * 1024, "as much as Hopper has");
    static_assert(width % part == 0, "whole parts");
    static_assert(2 * tile % (16 * part) == 0, "permutations begin with a tile");
};

/* What a launch is told. */
typedef struct group_launch {
    cf_prompt_attention args;
    CUtensorMap tensors[2]; /* keys, values */
} group_launch;

enum { TILE_KEYS = 0, TILE_VALUES = 1 };

/* The named barriers from here on are of the groups. */
#define GROUP_BARRIERS 1

/* False: see tensor_describe(). */
template <class shape>
static bool group_describe(const cf_prompt_attention *args, group_launch *launch)
{
    launch->args = *args;
    for (int which = TILE_KEYS; which <= TILE_VALUES; which++) {
        tensor_parts parts = {which == TILE_KEYS ? args->keys : args->values,
                              shape::d_part,
                              shape::d_head / shape::d_part,
                              shape::d_head,
                              args->n_context,
                              args->n_heads,
                              shape::n_keys};
        if (!tensor_describe(&parts, &launch->tensors[which]))
            return false;
    }
    return true;
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* A block's way through the cache. Turn t is over the values of tile t and the keys of tile t + 1;
 * with turn -1 it begins. */
template <class shape> struct tile_walk {
    const group_launch *launch; /* the kernel's parameter */
    uint16_t *shared;
    int32_t head;
    int32_t first_key; /* of tile 0, not above 0 */
    int32_t n_tiles;
};

/* The ring's barriers: of which tile has come, and of turns, how many warps have left them. */
template <class shape> struct tile_barriers {
    uint64_t come[2][shape::n_stages];
    uint32_t n_left[shape::n_stages];
};

template <class shape>
static __device__ __forceinline__ tile_barriers<shape> *tile_barriers_of(uint16_t *shared)
{
    return reinterpret_cast<tile_barriers<shape> *>(shared + shape::barriers_at / 2);
}

/* Where a tile of keys or values lies. */
template <class shape>
static __device__ __forceinline__ uint16_t *tile_place(uint16_t *shared, int which, int32_t tile)
{
    return shared + (which * shape::n_stages + tile % shape::n_stages) * shape::tile;
}

/* Asks for a tile, if there is one; by one thread. */
template <class shape>
static __device__ __forceinline__ void tile_bring(const tile_walk<shape> &walk, int which,
                                                  int32_t tile)
{
    uint64_t *come = &tile_barriers_of<shape>(walk.shared)->come[which][tile % shape::n_stages];
    uint16_t *to = tile_place<shape>(walk.shared, which, tile);
    int32_t key = walk.first_key + tile * shape::n_keys;
    if (tile >= walk.n_tiles)
        return;
    barrier_expect(come, 2 * shape::tile);
    tensor_copy(to, &walk.launch->tensors[which], key, walk.head, come);
}

/* Sets up the ring, and asks for what it holds; by one thread. The last tile of values comes with
 * the end of turn -1, as with that of every turn a tile of keys and one of values. */
template <class shape>
static __device__ __forceinline__ void tiles_begin(const tile_walk<shape> &walk)
{
    tile_barriers<shape> *barriers = tile_barriers_of<shape>(walk.shared);
    for (int i = 0; i < shape::n_stages; i++) {
        barrier_init(&barriers->come[TILE_KEYS][i], COPY_ARRIVALS);
        barrier_init(&barriers->come[TILE_VALUES][i], COPY_ARRIVALS);
        barriers->n_left[i] = 0;
    }
    barriers_publish();
    for (int i = 0; i < shape::n_stages; i++) {
        tile_bring(walk, TILE_KEYS, i);
        if (i + 1 < shape::n_stages)
            tile_bring(walk, TILE_VALUES, i);
    }
}

/* Returns when a tile is there. */
template <class shape>
static __device__ __forceinline__ void tile_await(const tile_walk<shape> &walk, int which,
                                                  int32_t tile)
{
    barrier_wait(&tile_barriers_of<shape>(walk.shared)->come[which][tile % shape::n_stages],
                 tile / shape::n_stages % 2);
}

/*
 * A warp is done with a turn, or has no use for it but has seen its values come; each warp goes
 * through all of the block's turns. The last one asks for the tiles that take the places.
 */
template <class shape>
static __device__ __forceinline__ void tile_leave(const tile_walk<shape> &walk, int32_t turn)
{
    constexpr int n_warps = shape::n_threads / 32;
    int32_t next = turn + shape::n_stages;
    uint32_t *n_left = &tile_barriers_of<shape>(walk.shared)->n_left[next % shape::n_stages];
    if (warp_elect() && block_count_round(n_left, n_warps)) {
        tile_bring(walk, TILE_KEYS, next + 1);
        tile_bring(walk, TILE_VALUES, next);
    }
}

/* The turns from number `turn` on, for which a group has no use. */
template <class shape>
static __device__ __forceinline__ void group_sit_out(const tile_walk<shape> &walk, int32_t turn)
{
    for (; turn < walk.n_tiles; turn++) {
        if (turn >= 0)
            tile_await(walk, TILE_VALUES, turn);
        tile_leave(walk, turn);
    }
}

/* Copies the block's queries; those from `n_there` on become zeros. */
template <class shape>
static __device__ __forceinline__ void block_copy_queries(uint16_t *to, const uint16_t *from,
                                                          int64_t from_stride, int32_t n_there)
{
    for (int piece = (int)threadIdx.x; piece < shape::n_queries * shape::n_pieces;
         piece += shape::n_threads) {
        int row = piece / shape::n_pieces, column = piece % shape::n_pieces;
        bool is_there = row < n_there;
        thread_copy_16(to + row * 8 + column * shape::query_column,
                       from + (is_there ? row : 0) * from_stride + column * 8, is_there);
    }
}

#endif

#endif
