/* Where a warp is in a ring of slots in shared memory, in which tile t lies in slot t mod n_slots.
 */
#ifndef CF_CUDA_DEVICE_RING_CUH
#define CF_CUDA_DEVICE_RING_CUH

#include <stdint.h>

/* A place in the ring and the parity of the phase that its barriers are in. */
struct ring_place {
    int32_t slot;
    uint32_t parity;
};

/* `step` is at most n_slots. */
static __device__ __forceinline__ void ring_advance(ring_place &place, int32_t step,
                                                    int32_t n_slots)
{
    place.slot += step;
    if (place.slot >= n_slots) {
        place.slot -= n_slots;
        place.parity ^= 1;
    }
}

#endif
