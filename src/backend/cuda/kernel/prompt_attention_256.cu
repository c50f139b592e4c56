#include "backend/cuda/kernel/prompt_attention.cuh"

PROMPT_ATTENTION(256)
