#include "engine/hash.h"

#include "base/status.h"
#include "model/neox.h"

#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Between two reports of progress: some milliseconds of reading. */
#define BLOCK_BYTES ((uint64_t)32 << 20)

typedef struct hashing {
    XXH3_state_t state;
    cf_progress_fn progress;
    void *progress_user;
    uint64_t done, total; /* bytes of weights */
} hashing;

uint64_t cf_tensor_elements(const cf_tensor *tensor)
{
    uint64_t n = 1;
    for (int32_t i = 0; i < tensor->n_dims; i++)
        n *= (uint64_t)tensor->dims[i];
    return n;
}

uint64_t cf_floats_hash(const float *values, size_t n)
{
    return XXH3_64bits(values, n * sizeof *values);
}

/* Name with its zero byte, dtype's name with its zero byte, dimensions as little-endian 64 bits. */
static void hash_description(hashing *work, const cf_tensor *tensor)
{
    const char *name = cf_neox_plain_name(tensor->name), *dtype = cf_dtype_name(tensor->dtype);
    XXH3_128bits_update(&work->state, name, strlen(name) + 1);
    XXH3_128bits_update(&work->state, dtype, strlen(dtype) + 1);
    for (int32_t i = 0; i < tensor->n_dims; i++) {
        unsigned char bytes[8];
        for (int j = 0; j < 8; j++)
            bytes[j] = (unsigned char)((uint64_t)tensor->dims[i] >> (8 * j));
        XXH3_128bits_update(&work->state, bytes, sizeof bytes);
    }
}

static cf_status hash_data(hashing *work, const cf_tensor *tensor, cf_error *error)
{
    const unsigned char *data = tensor->data;
    uint64_t n_bytes = cf_tensor_elements(tensor) * cf_dtype_bytes(tensor->dtype);
    for (uint64_t at = 0; at < n_bytes;) {
        uint64_t n = n_bytes - at < BLOCK_BYTES ? n_bytes - at : BLOCK_BYTES;
        XXH3_128bits_update(&work->state, data + at, n);
        at += n;
        work->done += n;
        if (work->progress != NULL &&
            !work->progress(work->progress_user, "hash", work->done, work->total))
            return cf_fail(error, CF_STATUS_CANCELLED, "hash: cancelled after %llu of %llu bytes",
                           (unsigned long long)work->done, (unsigned long long)work->total);
    }
    return CF_STATUS_OK;
}

cf_status cf_tensors_hash(const cf_tensor *const *tensors, size_t n_tensors,
                          cf_progress_fn progress, void *progress_user, char hash[33],
                          cf_error *error)
{
    hashing work = {.progress = progress, .progress_user = progress_user};
    XXH3_128bits_reset(&work.state);
    for (size_t i = 0; i < n_tensors; i++) {
        if (tensors[i]->device != -1)
            return cf_fail(error, CF_STATUS_UNSUPPORTED,
                           "hash: %s is on device %d, only host memory is hashed", tensors[i]->name,
                           tensors[i]->device);
        work.total += cf_tensor_elements(tensors[i]) * cf_dtype_bytes(tensors[i]->dtype);
    }
    for (size_t i = 0; i < n_tensors; i++) {
        hash_description(&work, tensors[i]);
        CF_TRY(hash_data(&work, tensors[i], error));
    }
    XXH128_hash_t digest = XXH3_128bits_digest(&work.state);
    snprintf(hash, 33, "%016llx%016llx", (unsigned long long)digest.high64,
             (unsigned long long)digest.low64);
    return CF_STATUS_OK;
}
