#include "backend/cuda/kernel/token.cuh"

TOKEN_KERNELS(64_joined, CF_SCHEDULE_JOINED_D_HEAD, true)
