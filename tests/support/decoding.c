#include "support/decoding.h"

#include "support/support.h"

#ifdef CF_HAVE_CUDA

#include <stdlib.h>
#include <string.h>

void decoding_set_up_ties(decoding *self, int32_t n_vocab, int32_t n_different)
{
    *self = (decoding){.shape = test_small_shape(64, DECODING_N_HEADS)};
    self->shape.n_vocab = n_vocab;
    test_model_create(&self->model, &self->shape, CF_DTYPE_F16, 21);
    size_t n_row = (size_t)self->shape.d_model, n_ties = (size_t)(n_vocab - n_different);
    uint16_t *head = (uint16_t *)(uintptr_t)self->model.neox.head->data;
    memset(head + (size_t)n_different * n_row, 0, n_ties * n_row * sizeof *head);
    test_make_ids(self->prompt, DECODING_N_PROMPT, n_vocab);
    self->logits = malloc((size_t)n_vocab * sizeof *self->logits);
    test_runner_start(&self->gpu, &cf_cuda_backend, &self->model.neox, DECODING_N_CONTEXT,
                      CF_DTYPE_F16);
    test_runner_advance(&self->gpu, self->prompt, DECODING_N_PROMPT - 1, DECODING_N_PROMPT, NULL);
}

void decoding_set_up(decoding *self, int32_t n_vocab)
{
    decoding_set_up_ties(self, n_vocab, n_vocab);
}

void decoding_tear_down(decoding *self)
{
    test_runner_stop(&self->gpu);
    test_model_free(&self->model);
    free(self->logits);
}

cf_sampling decoding_sampling(float temperature)
{
    return (cf_sampling){.size = sizeof(cf_sampling), .temperature = temperature, .seed = 99};
}

void decoding_sampler(const decoding *self, const cf_sampling *sampling, cf_sampler *sampler)
{
    cf_error error;
    assert_ok(cf_sampler_create(sampling, self->shape.n_vocab, true, sampler, &error), error);
    for (size_t i = 0; i < DECODING_N_PROMPT; i++)
        cf_sampler_see(sampler, self->prompt[i], false);
}

size_t decoding_run(decoding *self, cf_sampler *sampler, decoding_ends ends, size_t n, size_t each,
                    cf_decoded *found)
{
    const cf_backend_interface *cuda = &cf_cuda_backend;
    cf_token last = self->prompt[DECODING_N_PROMPT - 1];
    size_t pos = DECODING_N_PROMPT - 1, n_found = 0;
    bool is_over = false;
    cf_error error;
    while (n_found < n && !is_over) {
        size_t left = n - n_found, n_now = left < each ? left : each;
        cf_decode request = {.token = last,
                             .pos = pos,
                             .n = n_now,
                             .index = n_found,
                             .sampling = &sampler->options,
                             .ends = ends.ids,
                             .n_ends = ends.n,
                             .min_tokens = ends.min_tokens,
                             .seen = sampler->seen,
                             .n_seen = sampler->n_seen,
                             .counts = sampler->counts};
        assert_true(cuda->decode_limit(self->gpu.session, &request) > 0);
        assert_ok(cuda->decode_begin(self->gpu.session, &request, &error), error);
        for (size_t i = 0; i < n_now && !is_over; i++) {
            cf_decoded *one = &found[n_found++];
            assert_ok(cuda->decode_next(self->gpu.session, one, &error), error);
            assert_true(one->id >= 0 && one->id < self->shape.n_vocab);
            cf_sampler_see(sampler, one->id, true);
            last = one->id;
            for (size_t e = 0; e < ends.n; e++)
                is_over = is_over || one->id == ends.ids[e];
        }
        assert_ok(cuda->decode_end(self->gpu.session, &error), error);
        pos += n_now;
    }
    return n_found;
}

void decoding_step_to(decoding *self, const cf_decoded *tokens, size_t i)
{
    cf_error error;
    cf_token id = i == 0 ? self->prompt[DECODING_N_PROMPT - 1] : tokens[i - 1].id;
    cf_step step = {.ids = &id,
                    .n = 1,
                    .pos = DECODING_N_PROMPT - 1 + i,
                    .logits = self->logits,
                    .n_logits = 1};
    assert_ok(cf_cuda_backend.step(self->gpu.session, &step, &error), error);
}

#endif
