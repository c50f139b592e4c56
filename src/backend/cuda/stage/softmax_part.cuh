/*
 * Parts of a softmax, and their way from block to block where several share a head. A block whose
 * split of the head is not the first gives its part on: to the other block of its pair, or to the
 * head's first block through L2.
 */
#ifndef CF_CUDA_STAGE_SOFTMAX_PART_CUH
#define CF_CUDA_STAGE_SOFTMAX_PART_CUH

#include "backend/cuda/device/cluster.cuh"
#include "backend/cuda/device/packet.cuh"

/* Of one warp, one block or all so far: the largest exponent, the sum, an element of the output. */
struct softmax_part {
    float maximum, sum, output;
};

static __device__ __forceinline__ softmax_part merged(softmax_part a, softmax_part b)
{
    float maximum = fmaxf(a.maximum, b.maximum);
    float of_a = exp2f(a.maximum - maximum), of_b = exp2f(b.maximum - maximum);
    return {maximum, a.sum * of_a + b.sum * of_b, a.output * of_a + b.output * of_b};
}

/*
 * With a pair's two splits of one head, the later block leaves its part in the earlier one's shared
 * memory, and the two go on as one. The even block is the earlier. (`n_splits` is a reference so
 * that only blocks which may take read it.)
 */
static __device__ __forceinline__ bool gives_part(bool has_pairs, int32_t split)
{
    return has_pairs && blockIdx.x % 2 == 1 && split > 0;
}

static __device__ __forceinline__ bool takes_part(bool has_pairs, int32_t split,
                                                  const int32_t &n_splits)
{
    return has_pairs && blockIdx.x % 2 == 0 && split + 1 < n_splits;
}

/* Of the splits whose parts come to a head's first block through L2: of pairs, even blocks'. */
static __device__ __forceinline__ int32_t first_published(bool has_pairs)
{
    return has_pairs ? 2 - blockIdx.x % 2 : 1;
}

static __device__ __forceinline__ int32_t published_step(bool has_pairs)
{
    return has_pairs ? 2 : 1;
}

/* Bytes that one block of a pair writes for the other: d_head elements, maximum, sum. */
static __device__ __forceinline__ uint32_t part_bytes(int32_t d_head)
{
    return (d_head + 2) * (uint32_t)sizeof(float);
}

/* Element i of this block's part to the other's `place`; both blocks name their own addresses. */
static __device__ __forceinline__ void give_part(const float *place, const uint64_t *barrier,
                                                 int32_t d_head, softmax_part part, int i)
{
    uint32_t counting = pair_address(barrier);
    pair_store(pair_address(place + i), part.output, counting);
    if (i == 0) {
        pair_store(pair_address(place + d_head), part.maximum, counting);
        pair_store(pair_address(place + d_head + 1), part.sum, counting);
    }
}

static __device__ __forceinline__ softmax_part given_part(const float *place, int32_t d_head, int i)
{
    return {place[d_head], place[d_head + 1], place[i]};
}

/* Element i of this block's part into packets that the head's first block reads. */
static __device__ __forceinline__ void publish_part(uint64_t *packets, int32_t d_head,
                                                    softmax_part part, uint32_t epoch, int i)
{
    partial_store(packets + i, part.output, epoch);
    if (i == 0) {
        partial_store(packets + d_head, part.maximum, epoch);
        partial_store(packets + d_head + 1, part.sum, epoch);
    }
}

#endif
