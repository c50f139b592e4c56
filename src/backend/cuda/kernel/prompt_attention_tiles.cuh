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

/* Keys and values are in parts of `part` columns, as device/wgmma.cuh has it, and what is left over
 * in one that is narrower. Of the queries, `kept` times 16 columns are kept in registers. */
template <int width, int groups, int keys, int blocks, int stages, int part, int kept, bool ordered>
struct group_shape {
    static constexpr int n_blocks = blocks; /* of a multiprocessor */
    static constexpr int n_threads = groups * N_GROUP_THREADS;
    static constexpr int d_head = width;
    static constexpr int d_part = part;
    static constexpr int d_rest = width % part;
    static constexpr int d_parts = width - d_rest; /* all of them */
    static constexpr int n_queries = groups * N_GROUP_ROWS;
    static constexpr int n_keys = keys;
    static constexpr int n_stages = stages; /* of the ring */
    static constexpr int n_kept = kept;
    static constexpr bool is_ordered = ordered && groups > 1; /* see order_await() */
    static constexpr int n_groups = groups;
    static constexpr int tile = keys * width;
    static constexpr int n_pieces = width / 8;
    /* Queries, and later what they found, are columns of pieces of 16 bytes, an odd number of
     * pieces apart: eight pieces of a row lie in different banks. */
    static constexpr int query_column = 8 * (n_queries + 1);
    static constexpr int ring_bytes = 2 * 2 * stages * tile;
    static constexpr int barriers_at = ring_bytes + 2 * n_pieces * query_column;
    static constexpr int shared_bytes = barriers_at + (2 * 8 + 4) * stages;
    static_assert(shared_bytes <= 227 * 1024, "as much as Hopper has");
    static_assert(2 * tile % (16 * part) == 0, "permutations begin with a tile");
};

/* What a launch is told. A tensor's second description is of what is left over, where it is. */
typedef struct group_launch {
    cf_prompt_attention args;
    CUtensorMap tensors[2][2]; /* [keys, values] */
} group_launch;

enum { TILE_KEYS = 0, TILE_VALUES = 1 };

/* Named barriers, from here on one a group. */
enum { GROUP_BARRIERS_ORDER = 1, GROUP_BARRIERS_STORE = 5 };

/* False: see tensor_describe(). */
template <class shape>
static bool group_describe(const cf_prompt_attention *args, group_launch *launch)
{
    launch->args = *args;
    for (int which = TILE_KEYS; which <= TILE_VALUES; which++) {
        tensor_parts parts = {which == TILE_KEYS ? args->keys : args->values,
                              shape::d_part,
                              shape::d_parts / shape::d_part,
                              shape::d_head,
                              args->n_context,
                              args->n_heads,
                              shape::n_keys};
        if (!tensor_describe(&parts, &launch->tensors[which][0]))
            return false;
        parts.at += shape::d_parts;
        parts.width = shape::d_rest;
        parts.n_parts = 1;
        if (shape::d_rest > 0 && !tensor_describe(&parts, &launch->tensors[which][1]))
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
    int group; /* this warp's */
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
    const CUtensorMap *tensors = walk.launch->tensors[which];
    int32_t key = walk.first_key + tile * shape::n_keys;
    if (tile >= walk.n_tiles)
        return;
    barrier_expect(come, 2 * shape::tile);
    tensor_copy(to, &tensors[0], key, walk.head, come);
    if (shape::d_rest > 0)
        tensor_copy(to + shape::n_keys * shape::d_parts, &tensors[1], key, walk.head, come);
}

/* Begins to fetch the descriptions, while it is not yet known what to ask for; by one thread. */
template <class shape>
static __device__ __forceinline__ void tensors_prefetch(const group_launch &launch)
{
    for (int which = TILE_KEYS; which <= TILE_VALUES; which++) {
        tensor_prefetch(&launch.tensors[which][0]);
        if (shape::d_rest > 0)
            tensor_prefetch(&launch.tensors[which][1]);
    }
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

/*
 * Groups begin the products of a turn one after the other: else tensor cores take turns with all of
 * them, all have their scores late and at once, and nothing is left to multiply while they become
 * weights. Each group goes through all of the block's turns.
 */
template <class shape>
static __device__ __forceinline__ void order_await(const tile_walk<shape> &walk)
{
    if (shape::is_ordered)
        role_sync(GROUP_BARRIERS_ORDER + walk.group, 2 * N_GROUP_THREADS);
}

/* It is the next group's turn; at the very end nobody's. */
template <class shape>
static __device__ __forceinline__ void order_pass(const tile_walk<shape> &walk, bool is_last)
{
    if (shape::is_ordered && !(is_last && walk.group == shape::n_groups - 1))
        role_arrive(GROUP_BARRIERS_ORDER + (walk.group + 1) % shape::n_groups, 2 * N_GROUP_THREADS);
}

/* The turns from number `turn` on, for which a group has no use. */
template <class shape>
static __device__ __forceinline__ void group_sit_out(const tile_walk<shape> &walk, int32_t turn)
{
    for (; turn < walk.n_tiles; turn++) {
        order_await(walk);
        order_pass(walk, turn + 1 == walk.n_tiles);
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
