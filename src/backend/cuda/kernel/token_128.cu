#include "backend/cuda/kernel/token.cuh"

TOKEN_KERNELS(128)
