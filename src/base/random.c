#include "base/random.h"

#define PHILOX_ROUNDS 10

void cf_philox(uint64_t key, const uint32_t counter[4], uint32_t words[4])
{
    uint32_t key_low = (uint32_t)key, key_high = (uint32_t)(key >> 32);
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * c0;
        uint64_t product1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(product1 >> 32) ^ c1 ^ key_low;
        c1 = (uint32_t)product1;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ key_high;
        c3 = (uint32_t)product0;
        key_low += 0x9E3779B9u;
        key_high += 0xBB67AE85u;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

double cf_random_uniform(uint64_t seed, uint64_t index)
{
    uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), 0, 0};
    uint32_t words[4];
    cf_philox(seed, counter, words);
    uint64_t bits = ((uint64_t)words[1] << 32 | words[0]) >> 11;
    return (double)bits * 0x1p-53;
}
