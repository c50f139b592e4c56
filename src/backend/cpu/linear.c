/*
 * Matrix products of activations with weights as the checkpoint stores them.
 *
 * Few tokens: rows of weights stream from memory, once for all tokens. Many: panels of rows are
 * widened into the cache and multiplied by the BLAS. Either way each output element is added up in
 * an order that depends on the sizes alone, whoever computes it.
 */
#include "backend/cpu/blas.h"
#include "backend/cpu/cpu.h"

/* Rows first … end - 1 of a product. */
typedef struct range {
    size_t first, end;
} range;

static size_t rows_of(const cf_linear *linear)
{
    return (size_t)linear->terms[0].weight->dims[0];
}

static size_t columns_of(const cf_term *term)
{
    return (size_t)term->weight->dims[1];
}

static const void *weight_at(const cf_term *term, size_t row, size_t column)
{
    size_t element = row * columns_of(term) + column;
    return (const char *)term->weight->data + element * cf_dtype_bytes(term->weight->dtype);
}

/* What the products are added to: the residual or zero, plus the biases. */
static void start(const cf_linear *linear, range rows, size_t n)
{
    size_t stride = rows_of(linear), count = rows.end - rows.first;
    for (size_t t = 0; t < n; t++) {
        float *output = linear->output + t * stride + rows.first;
        for (size_t r = 0; r < count && !linear->add; r++)
            output[r] = 0;
        for (size_t i = 0; i < linear->n_terms; i++) {
            if (linear->terms[i].bias == NULL)
                continue;
            const float *bias = linear->terms[i].bias + rows.first;
            for (size_t r = 0; r < count; r++)
                output[r] += bias[r];
        }
    }
}

static void finish(const cf_backend_session *session, const cf_linear *linear, range rows, size_t n)
{
    for (size_t t = 0; linear->activated && t < n; t++)
        session->kernels->activate(linear->output + t * rows_of(linear) + rows.first,
                                   session->model->neox->shape.activation, rows.end - rows.first);
}

static void stream_rows(const cf_backend_session *session, const cf_linear *linear, range rows,
                        size_t n)
{
    start(linear, rows, n);
    for (size_t i = 0; i < linear->n_terms; i++) {
        const cf_term *term = &linear->terms[i];
        session->kernels->rows[term->weight->dtype](
            linear->output + rows.first, rows_of(linear), weight_at(term, rows.first, 0),
            rows.end - rows.first, columns_of(term), term->input, columns_of(term), n);
    }
    finish(session, linear, rows, n);
}

/* An equal share of each product's rows, in whole groups. */
static void stream_linears(const cf_backend_session *session, cf_worker worker,
                           const cf_linear *linears, size_t n_linears, size_t n)
{
    for (size_t i = 0; i < n_linears; i++) {
        size_t n_rows = rows_of(&linears[i]);
        size_t n_groups = (n_rows + CF_KERNEL_ROWS - 1) / CF_KERNEL_ROWS;
        range rows = {n_groups * worker.index / worker.count * CF_KERNEL_ROWS,
                      n_groups * (worker.index + 1) / worker.count * CF_KERNEL_ROWS};
        rows.end = rows.end < n_rows ? rows.end : n_rows;
        if (rows.first < rows.end)
            stream_rows(session, &linears[i], rows, n);
    }
}

/* Transposes the terms' inputs, one after the other, into session->transposed: [columns][n]. */
static void transpose_inputs(cf_backend_session *session, cf_worker worker,
                             const cf_linear *linears, size_t n_linears, size_t n)
{
    float *to = session->transposed;
    for (size_t i = 0; i < n_linears; i++)
        for (size_t j = 0; j < linears[i].n_terms; j++) {
            const cf_term *term = &linears[i].terms[j];
            size_t columns = columns_of(term), step = CF_CPU_TRANSPOSE_COLUMNS;
            if (term->input_inner)
                continue;
            for (size_t c = worker.index * step; c < columns; c += worker.count * step)
                session->kernels->transpose(to + c * n, n, term->input + c, columns, n,
                                            columns - c < step ? columns - c : step, false);
            to += columns * n;
        }
}

/* product [rows][n] += weight rows × input, block of columns by block */
static bool multiply_term(cf_backend_session *session, cf_worker worker, const cf_term *term,
                          const float *input, range rows, size_t n, float *product)
{
    float *panel = session->panels + worker.index * CF_CPU_PANEL_ROWS * CF_CPU_PANEL_COLUMNS;
    size_t count = rows.end - rows.first, columns = columns_of(term);
    cf_widen_fn *widen = session->kernels->widen[term->weight->dtype];
    for (size_t c = 0; c < columns; c += CF_CPU_PANEL_COLUMNS) {
        size_t width = columns - c < CF_CPU_PANEL_COLUMNS ? columns - c : CF_CPU_PANEL_COLUMNS;
        for (size_t r = 0; r < count; r++)
            widen(panel + r * width, weight_at(term, rows.first + r, c), width);
        if (!cf_blas_multiply(count, n, width, (cf_matrix){panel, width},
                              (cf_matrix){input + c * n, n}, false, true, product, n))
            return false;
    }
    return true;
}

/* product [rows][n] = the biases of its terms, along each row */
static void start_panel(const cf_linear *linear, range rows, size_t n, float *product)
{
    for (size_t r = rows.first; r < rows.end; r++, product += n) {
        float bias = 0;
        for (size_t i = 0; i < linear->n_terms; i++)
            bias += linear->terms[i].bias != NULL ? linear->terms[i].bias[r] : 0;
        for (size_t t = 0; t < n; t++)
            product[t] = bias;
    }
}

static bool multiply_panel(cf_backend_session *session, cf_worker worker, const cf_linear *linear,
                           const float *transposed, range rows, size_t n)
{
    const cf_kernels *kernels = session->kernels;
    size_t count = rows.end - rows.first;
    float *product =
        session->products + worker.index * CF_CPU_PANEL_ROWS * session->options.n_chunk;
    if (linear->output_inner)
        product = linear->output + rows.first * n;
    start_panel(linear, rows, n, product);
    for (size_t i = 0; i < linear->n_terms; i++) {
        const cf_term *term = &linear->terms[i];
        const float *input = term->input_inner ? term->input : transposed;
        if (!multiply_term(session, worker, term, input, rows, n, product))
            return false;
        transposed += term->input_inner ? 0 : columns_of(term) * n;
    }
    if (linear->activated)
        kernels->activate(product, session->model->neox->shape.activation, count * n);
    if (!linear->output_inner)
        kernels->transpose(linear->output + rows.first, rows_of(linear), product, n, count, n,
                           linear->add);
    return true;
}

/* Panels of all products, claimed one by one. */
static void multiply_linears(cf_backend_session *session, cf_worker worker,
                             const cf_linear *linears, size_t n_linears, size_t n)
{
    const float *transposed = session->transposed;
    size_t claimed = cf_team_claim(&session->team), begin = 0;
    for (size_t i = 0; i < n_linears; i++) {
        size_t n_rows = rows_of(&linears[i]);
        size_t n_panels = (n_rows + CF_CPU_PANEL_ROWS - 1) / CF_CPU_PANEL_ROWS;
        for (; claimed < begin + n_panels; claimed = cf_team_claim(&session->team)) {
            range rows = {(claimed - begin) * CF_CPU_PANEL_ROWS, 0};
            rows.end =
                rows.first + CF_CPU_PANEL_ROWS < n_rows ? rows.first + CF_CPU_PANEL_ROWS : n_rows;
            if (!multiply_panel(session, worker, &linears[i], transposed, rows, n))
                atomic_store_explicit(&session->failed, true, memory_order_relaxed);
        }
        begin += n_panels;
        for (size_t j = 0; j < linears[i].n_terms; j++)
            transposed +=
                linears[i].terms[j].input_inner ? 0 : columns_of(&linears[i].terms[j]) * n;
    }
}

void cf_cpu_linear(cf_backend_session *session, cf_worker worker, const cf_linear *linears,
                   size_t n_linears, size_t n)
{
    if (n < CF_CPU_MANY_TOKENS) {
        stream_linears(session, worker, linears, n_linears, n);
        return;
    }
    transpose_inputs(session, worker, linears, n_linears, n);
    cf_team_deal(&session->team, worker); /* publishes session->transposed to all panels */
    multiply_linears(session, worker, linears, n_linears, n);
}
