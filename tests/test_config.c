/* config.json → cf_shape: every spelling, every default, every refusal. */
#include "support/support.h"

#include "checkpoint/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZES                                                                                      \
    "\"vocab_size\":512,\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"     \
    "\"intermediate_size\":256"
#define MINIMAL "\"model_type\":\"gpt_neox\"," SIZES

/* What the last parse() found of eos_token_id beside the first. */
static cf_more_ends more_ends;

static cf_status parse(const char *text, cf_shape *shape, cf_error *error)
{
    return cf_config_parse(text, strlen(text), "config.json", shape, &more_ends, error);
}

/* Parses the minimal config with `more` fields, which must succeed. */
static cf_shape shape_with(const char *more)
{
    char text[2048];
    snprintf(text, sizeof text, "{" MINIMAL "%s%s}", *more != 0 ? "," : "", more);
    cf_shape shape;
    cf_error error;
    assert_ok(parse(text, &shape, &error), error);
    return shape;
}

static void expect_refusal(const char *more, cf_status status, const char *part)
{
    char text[2048];
    snprintf(text, sizeof text, "{" MINIMAL ",%s}", more);
    cf_shape shape;
    cf_error error;
    assert_fails(parse(text, &shape, &error), status, error, part);
    assert_int_equal(strncmp(error.message, "config.json: ", 13), 0);
    assert_int_equal(shape.d_model, 0);
}

static void what_is_absent_has_its_default(void **state)
{
    (void)state;
    cf_shape shape = shape_with("");
    assert_int_equal(shape.n_layers, 2);
    assert_int_equal(shape.d_model, 64);
    assert_int_equal(shape.n_heads, 4);
    assert_int_equal(shape.d_head, 16);
    assert_int_equal(shape.d_ffn, 256);
    assert_int_equal(shape.n_vocab, 512);
    assert_int_equal(shape.n_context, 2048);
    assert_int_equal(shape.d_rotary, 4);
    assert_true(shape.rope_theta == 10000.0f);
    assert_true(shape.layer_norm_eps == 1e-5f);
    assert_int_equal(shape.activation, CF_ACTIVATION_GELU_ERF);
    assert_true(shape.parallel_residual);
    assert_true(shape.attention_bias);
    assert_false(shape.tied_embeddings);
    assert_int_equal(shape.bos_token, -1);
    assert_int_equal(shape.eos_token, -1);
}

static void every_spelling_of_the_rotary_embedding_is_read(void **state)
{
    (void)state;
    static const char *const spellings[] = {
        "\"rotary_pct\":0.5,\"rotary_emb_base\":20000",
        "\"rotary_pct\":0.5,\"rotary_emb_base\":20000.0,\"rope_scaling\":null",
        "\"partial_rotary_factor\":0.5,\"rope_theta\":20000.0",
        "\"rope_parameters\":{\"rope_theta\":20000,\"partial_rotary_factor\":0.5}",
        "\"rope_parameters\":{\"rope_theta\":2e4,\"rope_type\":\"default\"},\"rotary_pct\":0.5",
        "\"rope_scaling\":{\"rope_theta\":2e4,\"partial_rotary_factor\":0.5,\"type\":\"default\"}",
        "\"rope_parameters\":{\"rope_theta\":20000},\"rotary_pct\":0.5,\"rotary_emb_base\":20000",
    };
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        cf_shape shape = shape_with(spellings[i]);
        assert_int_equal(shape.d_rotary, 8);
        assert_true(shape.rope_theta == 20000.0f);
    }
    assert_int_equal(shape_with("\"rotary_pct\":1").d_rotary, 16);
    assert_int_equal(shape_with("\"rotary_pct\":0").d_rotary, 0);
    assert_int_equal(shape_with("\"rotary_pct\":0.16").d_rotary, 2);
}

static void other_fields_are_read(void **state)
{
    (void)state;
    assert_int_equal(shape_with("\"max_position_embeddings\":4096").n_context, 4096);
    assert_true(shape_with("\"layer_norm_eps\":1e-12").layer_norm_eps == 1e-12f);
    assert_false(shape_with("\"use_parallel_residual\":false").parallel_residual);
    assert_false(shape_with("\"attention_bias\":false").attention_bias);
    assert_true(shape_with("\"tie_word_embeddings\":true").tied_embeddings);
    assert_int_equal(shape_with("\"bos_token_id\":1,\"eos_token_id\":0").bos_token, 1);
    assert_int_equal(shape_with("\"bos_token_id\":1,\"eos_token_id\":0").eos_token, 0);
    assert_int_equal(shape_with("\"eos_token_id\":null").eos_token, -1);
    shape_with("\"torch_dtype\":\"bfloat16\",\"attention_dropout\":0.1,\"use_cache\":false,"
               "\"quantization_config\":null,\"pruned_heads\":{},\"architectures\":null");
}

static void all_ids_that_end_a_text_are_read(void **state)
{
    (void)state;
    assert_int_equal(shape_with("\"eos_token_id\":7").eos_token, 7);
    assert_int_equal(more_ends.n, 0);
    assert_int_equal(shape_with("\"eos_token_id\":[7,0,-1,511]").eos_token, 7);
    assert_int_equal(more_ends.n, 2);
    assert_int_equal(more_ends.ids[0], 0);
    assert_int_equal(more_ends.ids[1], 511);
    assert_int_equal(shape_with("\"eos_token_id\":[1,2,3,4,5,6,7,8]").eos_token, 1);
    assert_int_equal(more_ends.n, CF_CONFIG_MAX_ENDS - 1);
    expect_refusal("\"eos_token_id\":[1,2,3,4,5,6,7,8,9]", CF_STATUS_UNSUPPORTED,
                   "eos_token_id lists 9 ids, expected at most 8");
    expect_refusal("\"eos_token_id\":[1,512]", CF_STATUS_BAD_FILE,
                   "eos_token_id is 512, expected null or an id below");
}

static void activations_have_their_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        cf_activation activation;
    } known[] = {
        {"gelu", CF_ACTIVATION_GELU_ERF},       {"gelu_new", CF_ACTIVATION_GELU_TANH},
        {"gelu_fast", CF_ACTIVATION_GELU_TANH}, {"gelu_pytorch_tanh", CF_ACTIVATION_GELU_TANH},
        {"relu", CF_ACTIVATION_RELU},           {"silu", CF_ACTIVATION_SILU}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char text[64];
        snprintf(text, sizeof text, "\"hidden_act\":\"%s\"", known[i].name);
        assert_int_equal(shape_with(text).activation, known[i].activation);
    }
}

static void what_is_not_understood_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *more, *part;
    } bad[] = {
        {"\"hidden_act\":\"quick_gelu\"", "hidden_act is \"quick_gelu\", expected gelu"},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}",
         "rope_scaling.type is \"linear\", expected \"default\""},
        {"\"rope_scaling\":{\"rope_type\":\"yarn\"}", "rope_scaling.rope_type is \"yarn\""},
        {"\"rope_scaling\":{\"factor\":2.0}", "rope_scaling.factor is 2.0"},
        {"\"rope_parameters\":{\"rope_type\":\"dynamic\"}", "rope_parameters.rope_type"},
        {"\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e4}}",
         "rope_parameters.full_attention is an object"},
        {"\"quantization_config\":{\"bits\":4}", "quantization_config is an object"},
        {"\"add_cross_attention\":true", "add_cross_attention is true"},
        {"\"rotary_pct\":0.2", "3 rotary dims, expected an even number"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(bad[i].more, CF_STATUS_UNSUPPORTED, bad[i].part);
    cf_shape shape;
    cf_error error;
    assert_fails(parse("{\"model_type\":\"llama\"," SIZES "}", &shape, &error),
                 CF_STATUS_UNSUPPORTED, error, "model_type is \"llama\", expected \"gpt_neox\"");
    assert_fails(parse("{" SIZES "}", &shape, &error), CF_STATUS_BAD_FILE, error,
                 "model_type is missing");
}

static void wrong_types_and_bounds_name_field_expected_and_found(void **state)
{
    (void)state;
    static const struct {
        const char *more, *part;
    } bad[] = {
        {"\"max_position_embeddings\":0",
         "max_position_embeddings is 0, expected an integer from 1"},
        {"\"max_position_embeddings\":-1", "max_position_embeddings is -1"},
        {"\"max_position_embeddings\":2048.0", "max_position_embeddings is 2048.00, expected"},
        {"\"max_position_embeddings\":\"2048\"", "max_position_embeddings is \"2048\""},
        {"\"max_position_embeddings\":99999999999", "is 99999999999, expected an integer from 1"},
        {"\"max_position_embeddings\":99999999999999999999", "too big integer"},
        {"\"rotary_pct\":1.5", "rotary_pct is 1.50000, expected a number from 0 to 1"},
        {"\"rotary_pct\":-0.25", "rotary_pct is -0.250000"},
        {"\"rotary_pct\":\"0.25\"", "rotary_pct is \"0.25\", expected a number"},
        {"\"rotary_emb_base\":0", "rotary_emb_base is 0, expected a number from 1"},
        {"\"rotary_emb_base\":1e31", "rotary_emb_base is 1.00000e+31"},
        {"\"rotary_emb_base\":1e400", "real number overflow"},
        {"\"rotary_pct\":0.25,\"partial_rotary_factor\":0.5",
         "partial_rotary_factor is 0.5, but rotary_pct is 0.25"},
        {"\"rope_parameters\":{\"rope_theta\":5},\"rotary_emb_base\":6",
         "rope_parameters.rope_theta is 5, but rotary_emb_base is 6"},
        {"\"rope_parameters\":[1]", "rope_parameters is an array, expected an object"},
        {"\"rope_scaling\":\"linear\"", "rope_scaling is \"linear\", expected an object"},
        {"\"rope_scaling\":{\"type\":1}", "rope_scaling.type is 1, expected a string"},
        {"\"layer_norm_eps\":-1e-5", "layer_norm_eps is -1.00000e-05"},
        {"\"layer_norm_eps\":true", "layer_norm_eps is true, expected a number"},
        {"\"use_parallel_residual\":1", "use_parallel_residual is 1, expected true or false"},
        {"\"attention_bias\":\"no\"", "attention_bias is \"no\""},
        {"\"hidden_act\":[\"gelu\"]", "hidden_act is an array, expected a string"},
        {"\"eos_token_id\":512", "eos_token_id is 512, expected null or an id below"},
        {"\"eos_token_id\":[\"a\"]", "eos_token_id is \"a\""},
        {"\"bos_token_id\":-2", "bos_token_id is -2"},
        {"\"hidden_size\":64", "duplicate object key"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(bad[i].more, CF_STATUS_BAD_FILE, bad[i].part);
}

static void each_size_is_required_and_checked(void **state)
{
    (void)state;
    static const char *const fields[] = {"vocab_size", "hidden_size", "num_hidden_layers",
                                         "num_attention_heads", "intermediate_size"};
    static const char *const values[] = {"-64", "0", "64.5", "null", "1e9", "[]", "16777217"};
    for (size_t i = 0; i < 5; i++)
        for (size_t v = 0; v <= 7; v++) {
            char text[1024] = "{\"model_type\":\"gpt_neox\"", part[64];
            for (size_t j = 0; j < 5; j++)
                if (j != i)
                    sprintf(text + strlen(text), ",\"%s\":64", fields[j]);
            if (v < 7)
                sprintf(text + strlen(text), ",\"%s\":%s", fields[i], values[v]);
            strcat(text, "}");
            snprintf(part, sizeof part, "config.json: %s is ", fields[i]);
            cf_shape shape;
            cf_error error;
            assert_fails(parse(text, &shape, &error), CF_STATUS_BAD_FILE, error, part);
        }
    cf_shape shape;
    cf_error error;
    assert_fails(parse("{\"model_type\":\"gpt_neox\",\"vocab_size\":512,\"hidden_size\":64,"
                       "\"num_hidden_layers\":2,\"num_attention_heads\":5,"
                       "\"intermediate_size\":256}",
                       &shape, &error),
                 CF_STATUS_BAD_FILE, error,
                 "hidden_size is 64, expected a multiple of num_attention_heads, 5");
}

static void what_is_no_object_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "[]", "null", "{", "{\"a\":\"\xff\"}", "{}x", "3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cf_shape shape;
        cf_error error;
        assert_fails(parse(bad[i], &shape, &error), CF_STATUS_BAD_FILE, error, "config.json: ");
    }
}

/* The four forms in which the golden checkpoints have it. */
static void golden_configs_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        int d_head, d_rotary;
        float theta;
        bool parallel;
    } golden[] = {{"golden/base1000/config.json", 16, 4, 1000, true},
                  {"golden/hd80/config.json", 80, 20, 10000, true},
                  {"golden/seq-pct100/config.json", 16, 16, 10000, false},
                  {"golden/v5-config/config.json", 16, 8, 20000, true}};
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        const char *path = test_shared_path(golden[i].path);
        if (path == NULL)
            skip();
        size_t n_bytes;
        char *text = test_read(path, &n_bytes);
        cf_shape shape;
        cf_error error;
        assert_ok(cf_config_parse(text, n_bytes, "config.json", &shape, &more_ends, &error), error);
        free(text);
        assert_int_equal(shape.d_head, golden[i].d_head);
        assert_int_equal(shape.d_rotary, golden[i].d_rotary);
        assert_true(shape.rope_theta == golden[i].theta);
        assert_int_equal(shape.parallel_residual, golden[i].parallel);
        assert_int_equal(shape.n_context, 128);
        assert_int_equal(shape.eos_token, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_absent_has_its_default),
        cmocka_unit_test(every_spelling_of_the_rotary_embedding_is_read),
        cmocka_unit_test(other_fields_are_read),
        cmocka_unit_test(all_ids_that_end_a_text_are_read),
        cmocka_unit_test(activations_have_their_names),
        cmocka_unit_test(what_is_not_understood_is_refused_by_name),
        cmocka_unit_test(wrong_types_and_bounds_name_field_expected_and_found),
        cmocka_unit_test(each_size_is_required_and_checked),
        cmocka_unit_test(what_is_no_object_is_refused),
        cmocka_unit_test(golden_configs_are_read),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
