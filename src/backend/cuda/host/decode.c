/* Decoding: one launch chooses many tokens; the host reads them from its own memory meanwhile. */
#include "backend/cuda/host/cuda.h"

#include "base/clock.h"
#include "base/status.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* What a launch may take, so that nobody else waits long for the GPU; and how fast it reads. */
#define LAUNCH_SECONDS 0.2
#define BYTES_PER_SECOND 4e12

/* Between two looks for the next token, and at the launch itself. */
#define LOOK_NS 20000
#define CHECK_NS 20000000u

static bool has_penalties(const cf_sampling *sampling)
{
    return sampling->repetition_penalty != 1 || sampling->presence_penalty != 0 ||
           sampling->frequency_penalty != 0;
}

size_t cf_cuda_decode_limit(const cf_backend_session *session, const cf_decode *decode)
{
    const cf_sampling *sampling = decode->sampling;
    const cf_schedule *schedule = &session->model->schedule;
    bool can_draw = sampling->temperature == 0 || (isfinite(1 / sampling->temperature) &&
                                                   schedule->shape.n_vocab <= CF_DRAW_MAX_VOCAB);
    bool has_others = decode->n_ends < (size_t)schedule->shape.n_vocab;
    if (schedule->n_blocks > CF_DRAW_MAX_BLOCKS || sampling->n_bias > 0 ||
        decode->n_ends > CF_MAX_ENDS || !can_draw || !has_others)
        return 0;
    double seconds = (double)cf_schedule_token_bytes(schedule) / BYTES_PER_SECOND;
    double n = LAUNCH_SECONDS / seconds;
    return n < 1 ? 1 : n > CF_MAX_LAUNCH ? CF_MAX_LAUNCH : (size_t)n;
}

/* The counts of the caller's tokens, which the launch goes on counting. */
static cf_status send_seen(cf_backend_session *session, const cf_decode *decode, cf_error *error)
{
    size_t n_vocab = (size_t)session->model->neox->shape.n_vocab;
    uint32_t *seen = session->seen_staging;
    memset(seen, 0, n_vocab * sizeof *seen);
    for (size_t i = 0; i < decode->n_seen; i++)
        seen[decode->seen[i]] = decode->counts[decode->seen[i]] | CF_SEEN;
    CF_CUDA_TRY(cudaMemcpyAsync(session->seen, seen, n_vocab * sizeof *seen, cudaMemcpyHostToDevice,
                                session->stream),
                "seen tokens", error);
    return CF_STATUS_OK;
}

static void set_choice(cf_backend_session *session, const cf_decode *decode)
{
    cf_token_choice *choice = &session->args.choice;
    const cf_sampling *sampling = decode->sampling;
    choice->is_wanted = true;
    choice->inverse_temperature = sampling->temperature > 0 ? 1 / sampling->temperature : 0;
    choice->top_k = sampling->top_k;
    choice->top_p = sampling->top_p;
    choice->min_p = sampling->min_p;
    choice->repetition_penalty = sampling->repetition_penalty;
    choice->presence_penalty = sampling->presence_penalty;
    choice->frequency_penalty = sampling->frequency_penalty;
    choice->seed = sampling->seed;
    choice->index = decode->index;
    choice->min_tokens = decode->min_tokens;
    choice->n_ends = (int32_t)decode->n_ends;
    for (size_t i = 0; i < decode->n_ends; i++)
        choice->ends[i] = decode->ends[i];
    choice->seen = has_penalties(sampling) ? session->seen : NULL;
    choice->wish = &session->mailbox->wish;
    choice->results = session->mailbox->results;
}

static cf_status begin(cf_backend_session *session, const cf_decode *decode, cf_error *error)
{
    cf_mailbox *mailbox = session->mailbox;
    CF_CUDA_TRY(cudaSetDevice(session->model->device.index), "device", error);
    set_choice(session, decode);
    if (session->args.choice.seen != NULL)
        CF_TRY(send_seen(session, decode, error));
    if (session->args.choice.inverse_temperature > 0)
        CF_CUDA_TRY(
            cudaMemsetAsync(session->args.session.draw, 0, sizeof(cf_draw_table), session->stream),
            "sampling", error);
    mailbox->wish = 0;
    for (size_t i = 0; i < decode->n; i++)
        mailbox->results[i] = CF_NO_RESULT;
    session->n_launched = decode->n;
    session->n_read = 0;
    return cf_cuda_launch_choice(session, decode->token, decode->n, decode->pos, error);
}

static cf_status fail(cf_backend_session *session, cf_status status)
{
    session->dead = session->dead || status != CF_STATUS_OK;
    return status;
}

cf_status cf_cuda_decode_begin(cf_backend_session *session, const cf_decode *decode,
                               cf_error *error)
{
    CF_TRY(cf_cuda_check(session, error));
    return fail(session, begin(session, decode, error));
}

/* Waits for a result, and now and then looks whether the launch still runs. */
static cf_status await_result(cf_backend_session *session, uint64_t *result, cf_error *error)
{
    const volatile uint64_t *place = &session->mailbox->results[session->n_read];
    const struct timespec pause = {.tv_nsec = LOOK_NS};
    uint64_t checked_ns = cf_clock_ns();
    while ((*result = *place) == CF_NO_RESULT) {
        nanosleep(&pause, NULL);
        if (cf_clock_ns() - checked_ns < CHECK_NS)
            continue;
        checked_ns = cf_clock_ns();
        cudaError_t code = cudaStreamQuery(session->stream);
        if (code == cudaErrorNotReady)
            continue;
        CF_CUDA_TRY(code, "the token kernel", error);
        if (*place == CF_NO_RESULT)
            return cf_fail(error, CF_STATUS_DEVICE, "CUDA: the token kernel ended early");
    }
    return CF_STATUS_OK;
}

cf_status cf_cuda_decode_next(cf_backend_session *session, cf_decoded *decoded, cf_error *error)
{
    uint64_t result = 0;
    CF_TRY(cf_cuda_check(session, error));
    CF_TRY(fail(session, await_result(session, &result, error)));
    uint32_t logprob = (uint32_t)(result >> 32), id = (uint32_t)result;
    session->n_read++;
    decoded->id = id == CF_NOT_FINITE ? -1 : (cf_token)id;
    memcpy(&decoded->logprob, &logprob, sizeof logprob);
    return CF_STATUS_OK;
}

/* What the launch has evaluated, whether it was read or not. */
static void settle(cf_backend_session *session)
{
    size_t n = 0;
    while (n < session->n_launched && session->mailbox->results[n] != CF_NO_RESULT)
        n++;
    cf_cuda_count_tokens(session, n);
    session->args.choice.n_before += (uint32_t)n;
    session->args.choice.is_wanted = false;
    session->n_launched = 0;
}

cf_status cf_cuda_decode_end(cf_backend_session *session, cf_error *error)
{
    CF_TRY(cf_cuda_check(session, error));
    __atomic_store_n(&session->mailbox->wish, 1, __ATOMIC_RELAXED);
    cudaError_t code = cudaStreamSynchronize(session->stream);
    if (code != cudaSuccess)
        return fail(session, cf_cuda_fail(error, code, "the token kernel"));
    settle(session);
    return CF_STATUS_OK;
}

cf_status cf_cuda_decode_logits(cf_backend_session *session, float *logits, cf_error *error)
{
    CF_TRY(cf_cuda_check(session, error));
    return fail(session, cf_cuda_fetch_logits(session, logits, error));
}
