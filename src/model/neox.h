/*
 * GPT-NeoX: its table of weights, bound to tensors. No arithmetic.
 *
 * The shape itself is public (cf_shape). D is d_model, F is d_ffn, V is n_vocab.
 */
#ifndef CF_MODEL_NEOX_H
#define CF_MODEL_NEOX_H

#include "clusterfusion.h"

/*
 * One decoder layer's tensors: X(field, name in the checkpoint, rows, columns, needs). Vectors have
 * 0 columns. query_key_value's rows are [head][q|k|v][d_head]. `needs`: ALWAYS, or ATTENTION_BIAS
 * for what `attention_bias: false` leaves out.
 */
#define CF_NEOX_LAYER_TENSORS(X)                                                                   \
    X(ln1_weight, "input_layernorm.weight", D, 0, ALWAYS)                                          \
    X(ln1_bias, "input_layernorm.bias", D, 0, ALWAYS)                                              \
    X(qkv_weight, "attention.query_key_value.weight", 3 * D, D, ALWAYS)                            \
    X(qkv_bias, "attention.query_key_value.bias", 3 * D, 0, ATTENTION_BIAS)                        \
    X(dense_weight, "attention.dense.weight", D, D, ALWAYS)                                        \
    X(dense_bias, "attention.dense.bias", D, 0, ATTENTION_BIAS)                                    \
    X(ln2_weight, "post_attention_layernorm.weight", D, 0, ALWAYS)                                 \
    X(ln2_bias, "post_attention_layernorm.bias", D, 0, ALWAYS)                                     \
    X(up_weight, "mlp.dense_h_to_4h.weight", F, D, ALWAYS)                                         \
    X(up_bias, "mlp.dense_h_to_4h.bias", F, 0, ALWAYS)                                             \
    X(down_weight, "mlp.dense_4h_to_h.weight", D, F, ALWAYS)                                       \
    X(down_bias, "mlp.dense_4h_to_h.bias", D, 0, ALWAYS)

/* The tensors outside the layers, in the same form. Tied embeddings leave the head out. */
#define CF_NEOX_OUTER_TENSORS(X)                                                                   \
    X(embed, "embed_in.weight", V, D, ALWAYS)                                                      \
    X(final_ln_weight, "final_layer_norm.weight", D, 0, ALWAYS)                                    \
    X(final_ln_bias, "final_layer_norm.bias", D, 0, ALWAYS)                                        \
    X(head, "embed_out.weight", V, D, UNTIED)

typedef struct cf_neox_layer {
#define CF_NEOX_FIELD(field, name, rows, columns, needs) const cf_tensor *field;
    CF_NEOX_LAYER_TENSORS(CF_NEOX_FIELD)
} cf_neox_layer;

typedef struct cf_neox {
    cf_shape shape;
    CF_NEOX_OUTER_TENSORS(CF_NEOX_FIELD) /* head is embed when tied */
    cf_neox_layer *layers;               /* [n_layers] */
#undef CF_NEOX_FIELD
} cf_neox;

/*
 * Checks a shape's own consistency: every size in its bounds, d_model = n_heads × d_head, d_rotary
 * even and at most d_head. INVALID_ARGUMENT names the field.
 */
cf_status cf_shape_check(const cf_shape *shape, cf_error *error);

/*
 * Finds every weight among `tensors` and checks its shape. Names may carry the "gpt_neox." prefix,
 * and the LM head may be called "lm_head.weight"; buffers (attention.bias, attention.masked_bias,
 * rotary_emb.inv_freq) are passed over. BAD_FILE for a tensor that is missing, twice there,
 * misshapen or of no known name; each named with its file. The tensors must outlive the model,
 * which cf_neox_unbind() frees.
 */
cf_status cf_neox_bind(const cf_shape *shape, const cf_tensor *tensors, size_t n_tensors,
                       cf_neox *neox, cf_error *error);
void cf_neox_unbind(cf_neox *neox);

/* `name` without the "gpt_neox." prefix, and "lm_head.weight" as "embed_out.weight". */
const char *cf_neox_plain_name(const char *name);

/* Whether the tensor called `name` (prefix or not) is a buffer, no weight. */
bool cf_neox_is_buffer(const char *name);

#endif
