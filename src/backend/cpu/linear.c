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

/* Of all the terms of one row. */
static size_t row_bytes_of(const cf_linear *linear)
{
    size_t n_bytes = 0;
    for (size_t i = 0; i < linear->n_terms; i++) {
        const cf_term *term = &linear->terms[i];
        n_bytes += columns_of(term) * cf_dtype_bytes(term->weight->dtype);
    }
    return n_bytes;
}

/* Bytes of a piece: a worker's share in a few of them, within bounds. */
static size_t piece_bytes(const cf_linear *linears, size_t n_linears, cf_worker worker)
{
    size_t n_bytes = 0;
    for (size_t i = 0; i < n_linears; i++)
        n_bytes += rows_of(&linears[i]) * row_bytes_of(&linears[i]);
    size_t piece = n_bytes / (worker.count * CF_CPU_SHARE_PIECES);
    piece = piece < CF_CPU_MAX_PIECE_BYTES ? piece : CF_CPU_MAX_PIECE_BYTES;
    return piece > CF_CPU_MIN_PIECE_BYTES ? piece : CF_CPU_MIN_PIECE_BYTES;
}

/* Rows that are worked on in one go: whole groups. */
static size_t piece_rows(const cf_linear *linear, size_t n_bytes)
{
    size_t n_groups = n_bytes / (row_bytes_of(linear) * CF_KERNEL_ROWS + 1);
    return (n_groups > 0 ? n_groups : 1) * CF_KERNEL_ROWS;
}

static size_t count_pieces(size_t n_rows, size_t piece)
{
    return (n_rows + piece - 1) / piece;
}

static range rows_in(size_t n_rows, size_t piece, size_t index)
{
    range rows = {index * piece, (index + 1) * piece};
    rows.end = rows.end < n_rows ? rows.end : n_rows;
    return rows;
}

/* Pieces of all products as if they were one, so that workers walk through memory. */
static void stream_linears(cf_backend_session *session, cf_worker worker, const cf_linear *linears,
                           size_t n_linears, size_t n)
{
    size_t n_pieces = 0, n_bytes = piece_bytes(linears, n_linears, worker);
    for (size_t i = 0; i < n_linears; i++)
        n_pieces += count_pieces(rows_of(&linears[i]), piece_rows(&linears[i], n_bytes));
    cf_team_share(&session->team, worker, n_pieces);
    for (size_t taken; (taken = cf_team_take(&session->team, worker)) < n_pieces;) {
        const cf_linear *linear = linears;
        size_t piece = piece_rows(linear, n_bytes), count = count_pieces(rows_of(linear), piece);
        for (; taken >= count; count = count_pieces(rows_of(linear), piece)) {
            taken -= count;
            piece = piece_rows(++linear, n_bytes);
        }
        stream_rows(session, linear, rows_in(rows_of(linear), piece, taken), n);
    }
}

/* Where the inputs of products lie, in the orders that suit these, one term after the other. */
typedef struct inputs {
    float *transposed; /* [columns][stride of n] */
    uint16_t *parts;   /* tiles of parts, where tiles multiply the term */
} inputs;

static inputs inputs_of(const cf_backend_session *session)
{
    return (inputs){session->transposed, (uint16_t *)(void *)session->parts};
}

/* Goes on to the next term. */
static void pass_term(inputs *it, const cf_term *term, size_t n)
{
    it->transposed += term->input_inner ? 0 : columns_of(term) * cf_cpu_stride(n);
    it->parts += columns_of(term) * cf_cpu_parts_per_column(n);
}

/* Whether tiles multiply this term: they take whole ones only. */
static bool suits_tiles(const cf_backend_session *session, const cf_term *term)
{
    return session->model->has_tiles && session->kernels->may_use_tiles &&
           cf_tiles_weight_parts(term->weight->dtype) > 0 &&
           (size_t)term->weight->dims[0] % CF_TILE_ROWS == 0 &&
           columns_of(term) % CF_TILE_COLUMNS == 0;
}

/* This worker's share of one term's input, a tile's columns at a time. */
static void arrange_input(const cf_backend_session *session, cf_worker worker, const cf_term *term,
                          inputs to, size_t n)
{
    size_t columns = columns_of(term), stride = cf_cpu_stride(n), step = CF_CPU_TRANSPOSE_COLUMNS;
    const float *transposed = term->input_inner ? term->input : to.transposed;
    for (size_t c = worker.index * step; c < columns; c += worker.count * step) {
        if (!term->input_inner)
            session->kernels->transpose(to.transposed + c * stride, stride, term->input + c,
                                        columns, n, columns - c < step ? columns - c : step, false);
        if (suits_tiles(session, term))
            cf_tiles_split_input(to.parts + c * CF_TILE_PARTS * CF_TILE_ROWS,
                                 columns * CF_TILE_PARTS * CF_TILE_ROWS, transposed + c * stride,
                                 stride, n);
    }
}

static void arrange_inputs(cf_backend_session *session, cf_worker worker, const cf_linear *linears,
                           size_t n_linears, size_t n)
{
    inputs to = inputs_of(session);
    for (size_t i = 0; i < n_linears; i++)
        for (size_t j = 0; j < linears[i].n_terms; j++) {
            arrange_input(session, worker, &linears[i].terms[j], to, n);
            pass_term(&to, &linears[i].terms[j], n);
        }
}

/* product [rows][stride] += weight rows × input, on tiles, block of columns by block */
static void multiply_tiles(cf_backend_session *session, cf_worker worker, const cf_term *term,
                           const uint16_t *parts, range rows, size_t n, float *product)
{
    uint16_t *panel = (uint16_t *)(void *)(session->panels +
                                           worker.index * CF_CPU_PANEL_ROWS * CF_CPU_PANEL_COLUMNS);
    size_t columns = columns_of(term), count = rows.end - rows.first;
    cf_dtype dtype = term->weight->dtype;
    cf_tiles_product it = {.product = product,
                           .stride = cf_cpu_stride(n),
                           .weights = panel,
                           .n_row_tiles = count / CF_TILE_ROWS,
                           .n_parts = cf_tiles_weight_parts(dtype),
                           .n_token_tiles = (n + CF_TILE_ROWS - 1) / CF_TILE_ROWS,
                           .inputs_apart = columns * CF_TILE_PARTS * CF_TILE_ROWS};
    for (size_t c = 0; c < columns; c += CF_CPU_PANEL_COLUMNS) {
        size_t width = columns - c < CF_CPU_PANEL_COLUMNS ? columns - c : CF_CPU_PANEL_COLUMNS;
        for (size_t r = 0; r < count; r += CF_TILE_ROWS)
            cf_tiles_split_weights(panel + r * width * it.n_parts,
                                   weight_at(term, rows.first + r, c),
                                   columns * cf_dtype_bytes(dtype), dtype, width);
        it.inputs = parts + c * CF_TILE_PARTS * CF_TILE_ROWS;
        it.n_steps = width / CF_TILE_COLUMNS;
        cf_tiles_multiply(&it);
    }
}

/* product [rows][stride] += weight rows × input, block of columns by block */
static bool multiply_term(cf_backend_session *session, cf_worker worker, const cf_term *term,
                          const float *input, range rows, size_t n, float *product)
{
    float *panel = session->panels + worker.index * CF_CPU_PANEL_ROWS * CF_CPU_PANEL_COLUMNS;
    size_t count = rows.end - rows.first, columns = columns_of(term), stride = cf_cpu_stride(n);
    cf_widen_fn *widen = session->kernels->widen[term->weight->dtype];
    for (size_t c = 0; c < columns; c += CF_CPU_PANEL_COLUMNS) {
        size_t width = columns - c < CF_CPU_PANEL_COLUMNS ? columns - c : CF_CPU_PANEL_COLUMNS;
        for (size_t r = 0; r < count; r++)
            widen(panel + r * width, weight_at(term, rows.first + r, c), width);
        if (!cf_blas_multiply(count, n, width, (cf_matrix){panel, width},
                              (cf_matrix){input + c * stride, stride}, false, true, product,
                              stride))
            return false;
    }
    return true;
}

/* product [rows][stride] = the biases of its terms, along each row */
static void start_panel(const cf_linear *linear, range rows, size_t n, float *product)
{
    for (size_t r = rows.first; r < rows.end; r++, product += cf_cpu_stride(n)) {
        float bias = 0;
        for (size_t i = 0; i < linear->n_terms; i++)
            bias += linear->terms[i].bias != NULL ? linear->terms[i].bias[r] : 0;
        for (size_t t = 0; t < n; t++)
            product[t] = bias;
    }
}

static bool multiply_panel(cf_backend_session *session, cf_worker worker, const cf_linear *linear,
                           inputs from, range rows, size_t n)
{
    const cf_kernels *kernels = session->kernels;
    size_t count = rows.end - rows.first, stride = cf_cpu_stride(n);
    float *product = session->products +
                     worker.index * CF_CPU_PANEL_ROWS * cf_cpu_stride(session->options.n_chunk);
    if (linear->output_inner)
        product = linear->output + rows.first * stride;
    start_panel(linear, rows, n, product);
    for (size_t i = 0; i < linear->n_terms; i++) {
        const cf_term *term = &linear->terms[i];
        const float *input = term->input_inner ? term->input : from.transposed;
        if (suits_tiles(session, term))
            multiply_tiles(session, worker, term, from.parts, rows, n, product);
        else if (!multiply_term(session, worker, term, input, rows, n, product))
            return false;
        pass_term(&from, term, n);
    }
    for (size_t r = 0; linear->activated && r < count; r++)
        kernels->activate(product + r * stride, session->model->neox->shape.activation, n);
    if (!linear->output_inner)
        kernels->transpose(linear->output + rows.first, rows_of(linear), product, stride, count, n,
                           linear->add);
    return true;
}

/* By sizes alone, since a product's last bits may depend on it. */
static size_t panel_rows(size_t n_rows)
{
    return n_rows < CF_CPU_FEW_ROWS ? CF_CPU_PANEL_ROWS / 2 : CF_CPU_PANEL_ROWS;
}

/* Panels of all products, claimed one by one. */
static void multiply_linears(cf_backend_session *session, cf_worker worker,
                             const cf_linear *linears, size_t n_linears, size_t n)
{
    inputs from = inputs_of(session);
    size_t claimed = cf_team_claim(&session->team), begin = 0;
    for (size_t i = 0; i < n_linears; i++) {
        size_t n_rows = rows_of(&linears[i]), panel = panel_rows(n_rows);
        size_t n_panels = count_pieces(n_rows, panel);
        for (; claimed < begin + n_panels; claimed = cf_team_claim(&session->team)) {
            if (!multiply_panel(session, worker, &linears[i], from,
                                rows_in(n_rows, panel, claimed - begin), n))
                atomic_store_explicit(&session->failed, true, memory_order_relaxed);
        }
        begin += n_panels;
        for (size_t j = 0; j < linears[i].n_terms; j++)
            pass_term(&from, &linears[i].terms[j], n);
    }
}

void cf_cpu_linear(cf_backend_session *session, cf_worker worker, const cf_linear *linears,
                   size_t n_linears, size_t n)
{
    if (n < CF_CPU_MANY_TOKENS) {
        stream_linears(session, worker, linears, n_linears, n);
        return;
    }
    arrange_inputs(session, worker, linears, n_linears, n);
    cf_team_deal(&session->team, worker); /* publishes the arranged inputs to all panels */
    if (session->model->has_tiles)
        cf_tiles_begin();
    multiply_linears(session, worker, linears, n_linears, n);
    if (session->model->has_tiles)
        cf_tiles_end();
}
