/* What the clock in the GPU's kernel says of one token: summed up, and as a file for Perfetto. */
#include "base/status.h"
#include "cli/bench.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The launch disturbs the first layers. */
#define N_DISTURBED 2

static void add_span(void *user, const cf_span *span)
{
    cf_stages *stages = user;
    if (stages->n_spans == stages->n_room) {
        size_t n_room = stages->n_room > 0 ? 2 * stages->n_room : 4096;
        cf_span *more = realloc(stages->spans, n_room * sizeof *more);
        stages->is_incomplete = stages->is_incomplete || more == NULL;
        if (more == NULL)
            return;
        stages->spans = more;
        stages->n_room = n_room;
    }
    stages->spans[stages->n_spans++] = *span;
}

cf_status cf_stages_trace(cf_session *session, const cf_model *model, cf_token token,
                          cf_stages *stages, cf_error *error)
{
    stages->n_layers = cf_model_shape(model)->n_layers;
    CF_TRY(cf_session_trace(session, token, add_span, stages, error));
    if (stages->is_incomplete)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "no memory for what the clock says");
    return CF_STATUS_OK;
}

void cf_stages_free(cf_stages *stages)
{
    free(stages->spans);
    *stages = (cf_stages){0};
}

/* Sums of one stage in one layer. */
typedef struct layer_sum {
    double sum, min, max;
    size_t n;
} layer_sum;

/* Adds a layer's mean, minimum and maximum over blocks. */
static void close_layer(const layer_sum *layer, cf_stage_times *times, size_t *n_layers)
{
    if (layer->n == 0)
        return;
    times->mean_us += layer->sum / (double)layer->n;
    times->min_us += layer->min;
    times->max_us += layer->max;
    ++*n_layers;
}

static bool is_same(const cf_span *span, const cf_stage_times *times)
{
    return strcmp(span->stage, times->stage) == 0 && strcmp(span->role, times->role) == 0;
}

static void sum_up_layer(const cf_stages *stages, cf_stage_times *times, int32_t layer,
                         size_t *n_layers)
{
    layer_sum sum = {0};
    for (size_t i = 0; i < stages->n_spans; i++) {
        const cf_span *span = &stages->spans[i];
        if (span->layer != layer || !is_same(span, times))
            continue;
        double us = span->end_us - span->begin_us;
        sum.sum += us;
        sum.min = sum.n == 0 || us < sum.min ? us : sum.min;
        sum.max = sum.n == 0 || us > sum.max ? us : sum.max;
        sum.n++;
    }
    close_layer(&sum, times, n_layers);
}

/* The mean over the layers; what only the LM head has, of that. */
static void sum_up_stage(const cf_stages *stages, cf_stage_times *times)
{
    size_t n_layers = 0;
    int32_t first = stages->n_layers > 2 * N_DISTURBED ? N_DISTURBED : 0;
    for (int32_t layer = first; layer < stages->n_layers; layer++)
        sum_up_layer(stages, times, layer, &n_layers);
    if (n_layers == 0)
        sum_up_layer(stages, times, stages->n_layers, &n_layers);
    if (n_layers == 0)
        return;
    times->mean_us /= (double)n_layers;
    times->min_us /= (double)n_layers;
    times->max_us /= (double)n_layers;
}

size_t cf_stages_sum_up(const cf_stages *stages, cf_stage_times *times)
{
    size_t n = 0;
    for (size_t i = 0; i < stages->n_spans; i++) {
        const cf_span *span = &stages->spans[i];
        size_t known = 0;
        while (known < n && !is_same(span, &times[known]))
            known++;
        if (known == n && n < CF_MAX_STAGES)
            times[n++] = (cf_stage_times){.stage = span->stage, .role = span->role};
    }
    for (size_t i = 0; i < n; i++)
        sum_up_stage(stages, &times[i]);
    return n;
}

/* Roles are threads of their block's process; `roles` collects their names. */
static size_t role_index(const char *role, const char **roles, size_t *n_roles)
{
    size_t i = 0;
    while (i < *n_roles && strcmp(role, roles[i]) != 0)
        i++;
    if (i == *n_roles && i < CF_MAX_STAGES)
        roles[(*n_roles)++] = role;
    return i;
}

static void write_names(FILE *file, int32_t n_blocks, const char *const *roles, size_t n_roles)
{
    for (int32_t block = 0; block < n_blocks; block++) {
        fprintf(file,
                ",\n{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\","
                "\"args\":{\"name\":\"block %d\"}}",
                block, block);
        for (size_t r = 0; r < n_roles; r++)
            fprintf(file,
                    ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%zu,\"name\":\"thread_name\","
                    "\"args\":{\"name\":\"%s\"}}",
                    block, r, roles[r]);
    }
}

/* Times are µs; about 110 bytes a span, below 20 MB for the largest model and GPU. */
static void write_events(FILE *file, const cf_stages *stages, const char *title)
{
    const char *roles[CF_MAX_STAGES];
    size_t n_roles = 0;
    int32_t n_blocks = 0;
    fprintf(file, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"title\":%s},\n\"traceEvents\":[\n",
            title);
    for (size_t i = 0; i < stages->n_spans; i++) {
        const cf_span *span = &stages->spans[i];
        size_t role = role_index(span->role, roles, &n_roles);
        n_blocks = span->block >= n_blocks ? span->block + 1 : n_blocks;
        fprintf(file,
                "%s{\"ph\":\"X\",\"pid\":%d,\"tid\":%zu,\"name\":\"%s\",\"ts\":%.3f,"
                "\"dur\":%.3f,\"args\":{\"layer\":%d}}",
                i == 0 ? "" : ",\n", span->block, role, span->stage, span->begin_us,
                span->end_us - span->begin_us, span->layer);
    }
    write_names(file, n_blocks, roles, n_roles);
    fprintf(file, "\n]}\n");
}

cf_status cf_stages_write(const cf_stages *stages, const char *path, const char *title,
                          cf_error *error)
{
    json_t *string = json_string(title);
    char *quoted = string == NULL ? NULL : json_dumps(string, JSON_ENCODE_ANY);
    json_decref(string);
    if (quoted == NULL)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "%s: no memory for a title", path);
    FILE *file = fopen(path, "w");
    if (file != NULL)
        write_events(file, stages, quoted);
    free(quoted);
    bool written = file != NULL && ferror(file) == 0;
    if (file != NULL && fclose(file) != 0)
        written = false;
    if (!written)
        return cf_fail(error, CF_STATUS_IO, "%s: cannot be written: %s", path, strerror(errno));
    return CF_STATUS_OK;
}
