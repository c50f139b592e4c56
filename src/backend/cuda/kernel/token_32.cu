#include "backend/cuda/kernel/token.cuh"

TOKEN_KERNELS(32, 32, false)
