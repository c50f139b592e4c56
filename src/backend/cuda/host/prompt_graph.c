/*
 * Steps that are recorded. A layer is some ten launches of a few microseconds each, which the host
 * puts into streams hardly faster than a GPU takes them out; a recorded step is one launch. Where a
 * step is in its session lies in device memory, so that one record serves all of its size.
 */
#include "backend/cuda/host/cuda.h"

#include "base/status.h"

static cf_prompt_graph *find(cf_prompt *prompt, size_t n_rows, bool is_trimmed)
{
    for (int i = 0; i < CF_PROMPT_N_GRAPHS; i++)
        if (prompt->graphs[i].n_rows == n_rows && prompt->graphs[i].is_trimmed == is_trimmed)
            return &prompt->graphs[i];
    cf_prompt_graph *graph = &prompt->graphs[prompt->next_graph];
    prompt->next_graph = (prompt->next_graph + 1) % CF_PROMPT_N_GRAPHS;
    if (graph->recorded != NULL)
        cudaGraphExecDestroy(graph->recorded);
    *graph = (cf_prompt_graph){.n_rows = n_rows, .is_trimmed = is_trimmed};
    return graph;
}

/* Where that fails, steps of this size go on unrecorded. */
static void record(cf_prompt_graph *graph, cf_prompt_launches launches, const void *user,
                   cudaStream_t stream)
{
    cudaGraph_t sequence = NULL;
    if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess)
        return;
    cf_status status = launches(user, NULL);
    if (cudaStreamEndCapture(stream, &sequence) == cudaSuccess && status == CF_STATUS_OK &&
        cudaGraphInstantiate(&graph->recorded, sequence, 0) != cudaSuccess)
        graph->recorded = NULL;
    if (sequence != NULL)
        cudaGraphDestroy(sequence);
    cudaGetLastError(); /* whatever failed was nobody's request */
}

cf_status cf_prompt_replay(cf_prompt *prompt, size_t n_rows, bool is_trimmed,
                           cf_prompt_launches launches, const void *user, cudaStream_t stream,
                           cf_error *error)
{
    cf_prompt_graph *graph = find(prompt, n_rows, is_trimmed);
    /* The first of its size may be the last; and what a library loads late, it loads then. */
    if (graph->n_uses++ == 1)
        record(graph, launches, user, stream);
    if (graph->recorded == NULL)
        return launches(user, error);
    CF_CUDA_TRY(cudaGraphLaunch(graph->recorded, stream), "a recorded prompt", error);
    return CF_STATUS_OK;
}

void cf_prompt_forget(cf_prompt *prompt)
{
    for (int i = 0; i < CF_PROMPT_N_GRAPHS; i++)
        if (prompt->graphs[i].recorded != NULL)
            cudaGraphExecDestroy(prompt->graphs[i].recorded);
}
