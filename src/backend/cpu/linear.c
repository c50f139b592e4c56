/* Matrix products of activations with weights as the checkpoint stores them. */
#include "backend/cpu/cpu.h"

static size_t rows_of(const cf_linear *linear)
{
    return (size_t)linear->terms[0].weight->dims[0];
}

/* Where the outputs of these rows begin: the residual or zero, plus the biases. */
static void start_rows(const cf_linear *linear, size_t first, size_t n_rows, size_t n)
{
    size_t stride = rows_of(linear);
    for (size_t t = 0; t < n; t++)
        for (size_t r = first; r < first + n_rows; r++) {
            float value = linear->add ? linear->output[t * stride + r] : 0;
            for (size_t i = 0; i < linear->n_terms; i++)
                value += linear->terms[i].bias != NULL ? linear->terms[i].bias[r] : 0;
            linear->output[t * stride + r] = value;
        }
}

/* Rows first … first + n_rows - 1, CF_KERNEL_TOKENS tokens at a time. */
static void linear_rows(const cf_backend_session *session, const cf_linear *linear, size_t first,
                        size_t n_rows, size_t n)
{
    size_t stride = rows_of(linear);
    start_rows(linear, first, n_rows, n);
    for (size_t i = 0; i < linear->n_terms; i++) {
        const cf_term *term = &linear->terms[i];
        size_t n_columns = (size_t)term->weight->dims[1];
        const char *weight = (const char *)term->weight->data +
                             first * n_columns * cf_dtype_bytes(term->weight->dtype);
        session->kernels->rows[term->weight->dtype](linear->output + first, stride, weight, n_rows,
                                                    n_columns, term->input, n_columns, n);
    }
    for (size_t t = 0; linear->activated && t < n; t++)
        session->kernels->activate(linear->output + t * stride + first,
                                   session->model->neox->shape.activation, n_rows);
}

void cf_cpu_linear(cf_backend_session *session, cf_worker worker, const cf_linear *linears,
                   size_t n_linears, size_t n)
{
    for (size_t i = 0; i < n_linears; i++) {
        size_t n_rows = rows_of(&linears[i]);
        size_t n_groups = (n_rows + CF_KERNEL_ROWS - 1) / CF_KERNEL_ROWS;
        size_t first = n_groups * worker.index / worker.count * CF_KERNEL_ROWS;
        size_t end = n_groups * (worker.index + 1) / worker.count * CF_KERNEL_ROWS;
        end = end < n_rows ? end : n_rows;
        if (first < end)
            linear_rows(session, &linears[i], first, end - first, n);
    }
}
