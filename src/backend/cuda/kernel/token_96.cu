#include "backend/cuda/kernel/token.cuh"

TOKEN_KERNELS(96, 96, false)
