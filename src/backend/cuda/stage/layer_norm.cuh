/* The helpers' beginning: the launch's epoch, and both LayerNorms of the hidden state. */
#ifndef CF_CUDA_STAGE_LAYER_NORM_CUH
#define CF_CUDA_STAGE_LAYER_NORM_CUH

#include "backend/cuda/stage/layer_block.cuh"

#define NORM_PIECE 8
#define NORM_MAX_PIECES 4
static_assert(NORM_MAX_PIECES * NORM_PIECE * N_HELPER_THREADS >= CF_LAYER_MAX_D_MODEL, "");

/* A thread's pieces of the hidden state, and of a LayerNorm's parameters. */
struct norm_input {
    uint4 hidden[NORM_MAX_PIECES];
};

struct norm_parameters {
    uint4 weight[NORM_MAX_PIECES], bias[NORM_MAX_PIECES];
};

static __device__ __forceinline__ uint4 load_piece(const void *vector, int32_t n_pieces,
                                                   int32_t piece)
{
    return piece < n_pieces ? static_cast<const uint4 *>(vector)[piece] : make_uint4(0, 0, 0, 0);
}

static __device__ __forceinline__ norm_parameters load_parameters(const void *weight,
                                                                  const void *bias,
                                                                  int32_t n_pieces, int thread)
{
    norm_parameters found;
#pragma unroll
    for (int k = 0; k < NORM_MAX_PIECES; k++) {
        found.weight[k] = load_piece(weight, n_pieces, thread + k * N_HELPER_THREADS);
        found.bias[k] = load_piece(bias, n_pieces, thread + k * N_HELPER_THREADS);
    }
    return found;
}

/* The sum over all helpers, in a fixed order; the same bits in each thread. Each `turn` is its own.
 */
static __device__ __forceinline__ float helpers_sum(float value, int turn, int thread)
{
    float *sums = layer_shared().sums[turn], total = 0;
    value = warp_sum(value);
    if (thread % 32 == 0)
        sums[thread / 32] = value;
    helpers_sync(); /* publishes `sums` */
#pragma unroll
    for (int w = 0; w < CF_LAYER_N_HELPERS; w++)
        total += sums[w];
    return total;
}

template <class format>
static __device__ __forceinline__ float sum_about(const norm_input &input, float centre,
                                                  bool squared, int32_t n_pieces, int thread)
{
    float sum = 0;
#pragma unroll
    for (int k = 0; k < NORM_MAX_PIECES; k++) {
        float x[NORM_PIECE];
        unpack8<format>(x, input.hidden[k]);
        if (thread + k * N_HELPER_THREADS < n_pieces)
#pragma unroll
            for (int i = 0; i < NORM_PIECE; i++)
                sum += squared ? (x[i] - centre) * (x[i] - centre) : x[i];
    }
    return sum;
}

template <class format>
static __device__ __forceinline__ void store_norm(const cf_layer_args &args, int32_t vector,
                                                  const norm_input &input,
                                                  const norm_parameters &parameters, float mean,
                                                  float factor, int thread)
{
    uint4 *destination = layer_at<uint4>(args.plan.layout.vectors[vector]);
    int32_t n_pieces = args.plan.options.d_model / NORM_PIECE;
#pragma unroll
    for (int k = 0; k < NORM_MAX_PIECES; k++) {
        float x[NORM_PIECE], weight[NORM_PIECE], bias[NORM_PIECE];
        unpack8<format>(x, input.hidden[k]);
        unpack8<format>(weight, parameters.weight[k]);
        unpack8<format>(bias, parameters.bias[k]);
#pragma unroll
        for (int i = 0; i < NORM_PIECE; i++)
            x[i] = (x[i] - mean) * factor * weight[i] + bias[i];
        int32_t piece = thread + k * N_HELPER_THREADS;
        if (piece < n_pieces)
            destination[piece] = make_uint4(pack_f16(x[0], x[1]), pack_f16(x[2], x[3]),
                                            pack_f16(x[4], x[5]), pack_f16(x[6], x[7]));
    }
    layer_vector_ready(vector, thread);
}

/* The LayerNorms' parameters into L2, each line by one block, before the stream of weights begins.
 */
static __device__ __forceinline__ void prefetch_parameters(const cf_layer_args &args, int thread)
{
    const cf_layer_tensors &tensors = args.tensors;
    const void *vectors[] = {tensors.norm1_weight, tensors.norm1_bias, tensors.norm2_weight,
                             tensors.norm2_bias};
    int32_t line = thread * gridDim.x + blockIdx.x;
    if (128 * line < 2 * args.plan.options.d_model)
#pragma unroll
        for (int v = 0; v < 4; v++)
            prefetch_line(static_cast<const char *>(vectors[v]) + 128 * line);
}

/* Each launch takes a ticket a block, and no two launches overlap behind grid_await_previous(). */
static __device__ __forceinline__ uint32_t epoch_of(const cf_layer_args &args,
                                                    unsigned long long ticket)
{
    return (uint32_t)(ticket / (uint32_t)args.plan.n_blocks) + 1;
}

/* Counts the tiles that the block will count for others; published with the first vector. */
static __device__ __forceinline__ void count_own_tiles(const cf_layer_args &args, int thread)
{
    const cf_layer_share &share = layer_shared().share;
    for (int32_t t = thread; t < share.n_free; t += N_HELPER_THREADS) {
        cf_layer_tile tile = cf_layer_tile_at(&args.plan, &share, blockIdx.x, t);
        atomicAdd_block(&layer_shared().n_left[cf_layer_count_of(&args.plan, &tile)], 1);
    }
}

/* The block's own rows of the hidden state; published with the first vector. */
template <class format>
static __device__ __forceinline__ void fetch_own_rows(const cf_layer_args &args, int thread)
{
    const cf_layer_plan &plan = args.plan;
    int32_t n_own = plan.options.whole ? layer_shared().share.n_units << plan.row_bits : 0;
    for (int32_t r = thread; r < n_own; r += N_HELPER_THREADS)
        layer_at<float>(plan.layout.hidden)[r] =
            widened<format>(args.tensors.hidden, cf_layer_own_row_at(&plan, blockIdx.x, r));
}

template <class format>
static __device__ __forceinline__ void stage_layer_norms(const cf_layer_args &args, int thread)
{
    const cf_layer_tensors &tensors = args.tensors;
    int32_t d_model = args.plan.options.d_model, n_pieces = d_model / NORM_PIECE;
    bool takes_ticket = thread == N_HELPER_THREADS - 1;
    unsigned long long ticket = 0;
    norm_input input;
#pragma unroll
    for (int k = 0; k < NORM_MAX_PIECES; k++)
        input.hidden[k] = load_piece(tensors.hidden, n_pieces, thread + k * N_HELPER_THREADS);
    norm_parameters parameters =
        load_parameters(tensors.norm1_weight, tensors.norm1_bias, n_pieces, thread);
    if (takes_ticket)
        ticket = atomicAdd(args.scratch.tickets, 1ull);
    count_own_tiles(args, thread); /* while the loads are under way */
    fetch_own_rows<format>(args, thread);
    float sum = sum_about<format>(input, 0, false, n_pieces, thread);
    float mean = helpers_sum(sum, 0, thread) / (float)d_model;
    float squares = sum_about<format>(input, mean, true, n_pieces, thread);
    float variance = helpers_sum(squares, 1, thread) / (float)d_model;
    if (takes_ticket)
        layer_shared().epoch = epoch_of(args, ticket); /* published with the first vector */
    float factor = rsqrtf(variance + args.plan.options.layer_norm_eps);
    store_norm<format>(args, CF_LAYER_NORM1, input, parameters, mean, factor, thread);
    parameters = load_parameters(tensors.norm2_weight, tensors.norm2_bias, n_pieces, thread);
    store_norm<format>(args, CF_LAYER_NORM2, input, parameters, mean, factor, thread);
    helpers_sync(); /* publishes the epoch to the helpers */
}

/* Brings n activations of this launch, as other blocks made them, to the place of `vector`. */
static __device__ __forceinline__ void gather_activations(const cf_layer_args &args, int32_t vector,
                                                          const uint32_t *packets, int32_t n,
                                                          int thread)
{
    uint2 *destination = layer_at<uint2>(args.plan.layout.vectors[vector]);
    uint32_t epoch = layer_shared().epoch;
    for (int32_t first = 0; first < n; first += 4 * 4 * N_HELPER_THREADS) {
        uint4 loaded[4];
        auto place_of = [&](int k) { return first + 4 * (thread + k * N_HELPER_THREADS); };
        packets_load<activation_packets>(loaded, packets, place_of, n, epoch);
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (place_of(k) < n)
                destination[place_of(k) / 4] = activation_packets::values(loaded[k]);
    }
    layer_vector_ready(vector, thread);
}

#endif
