/* The table of weights: what is bound, and one clear error for each thing that does not fit. */
#include "support/support.h"

#include "model/neox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_LAYERS 2
#define MAX_TENSORS 64

/* The tensors of a small model, and room for one more. */
typedef struct weights {
    cf_shape shape;
    char names[MAX_TENSORS][128];
    cf_tensor tensors[MAX_TENSORS];
    size_t n;
} weights;

static const float anything[4];

static cf_tensor *add(weights *to, const char *name, int64_t rows, int64_t columns)
{
    cf_tensor *tensor = &to->tensors[to->n];
    snprintf(to->names[to->n], sizeof to->names[0], "%s", name);
    *tensor = (cf_tensor){.name = to->names[to->n++],
                          .file = "model.safetensors",
                          .data = anything,
                          .dtype = CF_DTYPE_F16,
                          .device = -1,
                          .n_dims = columns == 0 ? 1 : 2,
                          .dims = {rows, columns == 0 ? 1 : columns}};
    return tensor;
}

/* Written out by hand, as transformers names them, not from the table that is tested. */
static void make_weights(weights *w, const char *prefix)
{
    static const struct {
        const char *name;
        int64_t rows, columns;
    } layer[] = {{"input_layernorm.weight", 8, 0},
                 {"input_layernorm.bias", 8, 0},
                 {"post_attention_layernorm.weight", 8, 0},
                 {"post_attention_layernorm.bias", 8, 0},
                 {"attention.query_key_value.weight", 24, 8},
                 {"attention.query_key_value.bias", 24, 0},
                 {"attention.dense.weight", 8, 8},
                 {"attention.dense.bias", 8, 0},
                 {"mlp.dense_h_to_4h.weight", 32, 8},
                 {"mlp.dense_h_to_4h.bias", 32, 0},
                 {"mlp.dense_4h_to_h.weight", 8, 32},
                 {"mlp.dense_4h_to_h.bias", 8, 0}};
    *w = (weights){.shape = {.n_layers = N_LAYERS,
                             .d_model = 8,
                             .n_heads = 2,
                             .d_head = 4,
                             .d_rotary = 2,
                             .d_ffn = 32,
                             .n_vocab = 16,
                             .n_context = 64,
                             .rope_theta = 10000,
                             .layer_norm_eps = 1e-5f,
                             .attention_bias = true}};
    char name[128];
    for (int l = 0; l < N_LAYERS; l++)
        for (size_t i = 0; i < sizeof layer / sizeof *layer; i++) {
            snprintf(name, sizeof name, "%slayers.%d.%s", prefix, l, layer[i].name);
            add(w, name, layer[i].rows, layer[i].columns);
        }
    snprintf(name, sizeof name, "%sembed_in.weight", prefix);
    add(w, name, 16, 8);
    snprintf(name, sizeof name, "%sfinal_layer_norm.weight", prefix);
    add(w, name, 8, 0);
    snprintf(name, sizeof name, "%sfinal_layer_norm.bias", prefix);
    add(w, name, 8, 0);
    add(w, "embed_out.weight", 16, 8);
}

static cf_tensor *find(weights *w, const char *name)
{
    for (size_t i = 0; i < w->n; i++)
        if (strcmp(w->tensors[i].name, name) == 0)
            return &w->tensors[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void drop(weights *w, const char *name)
{
    *find(w, name) = w->tensors[w->n - 1];
    w->n--;
}

static void expect_fault(const weights *w, cf_status status, const char *part)
{
    cf_neox neox;
    cf_error error;
    assert_fails(cf_neox_bind(&w->shape, w->tensors, w->n, &neox, &error), status, error, part);
    assert_null(neox.layers);
}

static void every_tensor_finds_its_place(void **state)
{
    (void)state;
    static const char *const prefixes[] = {"", "gpt_neox."};
    for (size_t i = 0; i < 2; i++) {
        weights w;
        cf_neox neox;
        cf_error error;
        make_weights(&w, prefixes[i]);
        assert_ok(cf_neox_bind(&w.shape, w.tensors, w.n, &neox, &error), error);
        assert_ptr_equal(neox.layers[0].ln1_weight, &w.tensors[0]);
        assert_ptr_equal(neox.layers[0].ln2_bias, &w.tensors[3]);
        assert_ptr_equal(neox.layers[0].qkv_weight, &w.tensors[4]);
        assert_ptr_equal(neox.layers[1].dense_bias, &w.tensors[12 + 7]);
        assert_ptr_equal(neox.layers[1].up_weight, &w.tensors[12 + 8]);
        assert_ptr_equal(neox.layers[1].down_bias, &w.tensors[12 + 11]);
        assert_ptr_equal(neox.embed, &w.tensors[24]);
        assert_ptr_equal(neox.final_ln_bias, &w.tensors[26]);
        assert_ptr_equal(neox.head, &w.tensors[27]);
        cf_neox_unbind(&neox);
        cf_neox_unbind(&neox);
    }
}

static void buffers_are_passed_over(void **state)
{
    (void)state;
    weights w;
    cf_neox neox;
    cf_error error;
    make_weights(&w, "gpt_neox.");
    add(&w, "gpt_neox.layers.0.attention.bias", 3, 0);
    add(&w, "gpt_neox.layers.1.attention.masked_bias", 1, 0);
    add(&w, "gpt_neox.layers.99.attention.rotary_emb.inv_freq", 2, 0);
    assert_ok(cf_neox_bind(&w.shape, w.tensors, w.n, &neox, &error), error);
    cf_neox_unbind(&neox);
    assert_true(cf_neox_is_buffer("layers.0.attention.bias"));
    assert_false(cf_neox_is_buffer("layers.0.attention.dense.bias"));
    assert_string_equal(cf_neox_plain_name("gpt_neox.layers.0.x"), "layers.0.x");
    assert_string_equal(cf_neox_plain_name("layers.0.x"), "layers.0.x");
    assert_string_equal(cf_neox_plain_name("lm_head.weight"), "embed_out.weight");
}

static void tied_embeddings_may_leave_out_the_head(void **state)
{
    (void)state;
    weights w;
    cf_neox neox;
    cf_error error;
    make_weights(&w, "gpt_neox.");
    w.shape.tied_embeddings = true;
    assert_ok(cf_neox_bind(&w.shape, w.tensors, w.n, &neox, &error), error);
    assert_ptr_equal(neox.head, neox.embed);
    cf_neox_unbind(&neox);
    drop(&w, "embed_out.weight");
    assert_ok(cf_neox_bind(&w.shape, w.tensors, w.n, &neox, &error), error);
    assert_ptr_equal(neox.head, neox.embed);
    cf_neox_unbind(&neox);
    w.shape.tied_embeddings = false;
    expect_fault(&w, CF_STATUS_BAD_FILE,
                 "model.safetensors: embed_out.weight is missing, expected with shape [16,8]");
}

static void attention_biases_may_be_left_out(void **state)
{
    (void)state;
    weights w;
    cf_neox neox;
    cf_error error;
    make_weights(&w, "");
    drop(&w, "layers.1.attention.dense.bias");
    expect_fault(&w, CF_STATUS_BAD_FILE,
                 "model.safetensors: layers.1.attention.dense.bias is missing");
    w.shape.attention_bias = false;
    assert_ok(cf_neox_bind(&w.shape, w.tensors, w.n, &neox, &error), error);
    assert_null(neox.layers[0].qkv_bias);
    assert_null(neox.layers[0].dense_bias);
    assert_non_null(neox.layers[0].up_bias);
    cf_neox_unbind(&neox);
}

static void each_missing_tensor_is_named(void **state)
{
    (void)state;
    weights all;
    make_weights(&all, "gpt_neox.");
    for (size_t i = 0; i < all.n; i++) {
        weights w;
        char part[128];
        make_weights(&w, "gpt_neox.");
        snprintf(part, sizeof part, "model.safetensors: %s is missing, expected with shape [",
                 all.tensors[i].name);
        drop(&w, all.tensors[i].name);
        expect_fault(&w, CF_STATUS_BAD_FILE, part);
    }
    all.n = 0;
    expect_fault(&all, CF_STATUS_BAD_FILE, "embed_in.weight is missing");
}

static void each_misshapen_tensor_is_named(void **state)
{
    (void)state;
    weights w;
    make_weights(&w, "gpt_neox.");
    size_t n = w.n;
    for (size_t i = 0; i < n; i++) {
        char part[128];
        make_weights(&w, "gpt_neox.");
        w.tensors[i].dims[0]++;
        snprintf(part, sizeof part, "model.safetensors: %s has shape [%d", w.tensors[i].name,
                 (int)w.tensors[i].dims[0]);
        expect_fault(&w, CF_STATUS_BAD_FILE, part);
    }
    make_weights(&w, "gpt_neox.");
    find(&w, "gpt_neox.layers.1.mlp.dense_h_to_4h.weight")->dims[1] = 9;
    expect_fault(&w, CF_STATUS_BAD_FILE,
                 "model.safetensors: gpt_neox.layers.1.mlp.dense_h_to_4h.weight has shape [32,9], "
                 "config.json implies [32,8]");
    make_weights(&w, "gpt_neox.");
    find(&w, "gpt_neox.final_layer_norm.bias")->n_dims = 2;
    expect_fault(&w, CF_STATUS_BAD_FILE, "final_layer_norm.bias has shape [8,1]");
}

static void unknown_tensors_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *name, *part;
    } extra[] = {
        {"gpt_neox.layers.0.mlp.gate.weight", "mlp.gate.weight is not a tensor of GPT-NeoX"},
        {"layers.2.mlp.dense_4h_to_h.bias", "is one too many, config.json has 2 layers"},
        {"layers.99999999999999999999.mlp.dense_4h_to_h.bias", "is one too many"},
        {"layers.00.mlp.dense_4h_to_h.bias", "is not a tensor of GPT-NeoX"},
        {"layers.0", "is not a tensor of GPT-NeoX"},
        {"layers.-1.mlp.dense_4h_to_h.bias", "is not a tensor of GPT-NeoX"},
        {"transformer.wte.weight", "is not a tensor of GPT-NeoX"},
        {"layers.0.mlp.dense_4h_to_h.bias", "is there twice, first in model.safetensors"},
    };
    for (size_t i = 0; i < sizeof extra / sizeof *extra; i++) {
        weights w;
        make_weights(&w, "gpt_neox.");
        add(&w, extra[i].name, 8, 0);
        expect_fault(&w, CF_STATUS_BAD_FILE, extra[i].part);
    }
}

static void tensors_of_the_caller_are_checked(void **state)
{
    (void)state;
    weights w;
    make_weights(&w, "");
    w.tensors[3].name = NULL;
    expect_fault(&w, CF_STATUS_INVALID_ARGUMENT, "tensor 3 has no name");
    make_weights(&w, "");
    w.tensors[3].data = NULL;
    w.tensors[3].file = NULL;
    expect_fault(&w, CF_STATUS_INVALID_ARGUMENT,
                 "tensor: layers.0.post_attention_layernorm.bias has no data");
    make_weights(&w, "");
    w.tensors[3].dtype = (cf_dtype)9;
    expect_fault(&w, CF_STATUS_UNSUPPORTED, "has an unknown dtype, 9");
}

static void shapes_that_contradict_themselves_are_refused(void **state)
{
    (void)state;
#define SHAPE_FAULT(change, part)                                                                  \
    do {                                                                                           \
        weights w;                                                                                 \
        make_weights(&w, "");                                                                      \
        w.shape.change;                                                                            \
        expect_fault(&w, CF_STATUS_INVALID_ARGUMENT, part);                                        \
    } while (0)
    SHAPE_FAULT(n_layers = 0, "n_layers is 0, expected 1 to 4096");
    SHAPE_FAULT(n_layers = 4097, "n_layers is 4097");
    SHAPE_FAULT(d_model = -8, "d_model is -8");
    SHAPE_FAULT(n_heads = 3, "d_model is 8, expected n_heads 3 times d_head 4");
    SHAPE_FAULT(n_heads = 0, "n_heads is 0");
    SHAPE_FAULT(d_head = 0, "d_head is 0");
    SHAPE_FAULT(d_rotary = 3, "d_rotary is 3, expected even");
    SHAPE_FAULT(d_rotary = 6, "d_rotary is 6, expected 0 to 4");
    SHAPE_FAULT(d_rotary = -2, "d_rotary is -2");
    SHAPE_FAULT(d_ffn = 0, "d_ffn is 0");
    SHAPE_FAULT(n_vocab = INT32_MAX, "n_vocab is 2147483647");
    SHAPE_FAULT(n_context = 0, "n_context is 0");
    SHAPE_FAULT(rope_theta = 0, "rope_theta is 0");
    SHAPE_FAULT(rope_theta = NAN, "rope_theta is ");
    SHAPE_FAULT(layer_norm_eps = -1, "layer_norm_eps is -1");
    SHAPE_FAULT(activation = (cf_activation)7, "activation is 7");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tensor_finds_its_place),
        cmocka_unit_test(buffers_are_passed_over),
        cmocka_unit_test(tied_embeddings_may_leave_out_the_head),
        cmocka_unit_test(attention_biases_may_be_left_out),
        cmocka_unit_test(each_missing_tensor_is_named),
        cmocka_unit_test(each_misshapen_tensor_is_named),
        cmocka_unit_test(unknown_tensors_are_named),
        cmocka_unit_test(tensors_of_the_caller_are_checked),
        cmocka_unit_test(shapes_that_contradict_themselves_are_refused),
    };
    return cmocka_run_group_tests_name("neox", tests, NULL, NULL);
}
