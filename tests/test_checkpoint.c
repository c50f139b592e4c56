/* Whole folders: which files are opened, shards and their index, what is said when they are bad. */
#include "support/support.h"

#include "checkpoint/checkpoint.h"
#include "model/neox.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG                                                                                     \
    "{\"model_type\":\"gpt_neox\",\"vocab_size\":16,\"hidden_size\":8,\"num_hidden_layers\":1,"    \
    "\"num_attention_heads\":2,\"intermediate_size\":16,\"rotary_pct\":0.5}"

static void write_text(const char *folder, const char *name, const char *text)
{
    test_write(folder, name, text, strlen(text));
}

/* A safetensors file of this header, padded as usual to a multiple of 8, and `n_data` zero bytes.
 */
static void write_weights(const char *folder, const char *name, const char *header, size_t n_data)
{
    size_t n_text = strlen(header), n_header = (n_text + 7) / 8 * 8;
    uint8_t *bytes = calloc(1, 8 + n_header + n_data);
    assert_non_null(bytes);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(n_header >> (8 * i));
    memset(bytes + 8, ' ', n_header);
    memcpy(bytes + 8, header, n_text);
    test_write(folder, name, bytes, 8 + n_header + n_data);
    free(bytes);
}

/* A header of one F16 tensor of two elements. */
#define ONE(name) "{\"" name "\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}"

/* A scratch folder with a config and two shards, of the tensors a and b. */
static const char *make_shards(const char *index)
{
    const char *folder = test_scratch_create();
    write_text(folder, "config.json", CONFIG);
    write_weights(folder, "one.safetensors", ONE("a"), 4);
    write_weights(folder, "two.safetensors", ONE("b"), 4);
    write_text(folder, "model.safetensors.index.json", index);
    return folder;
}

static void expect_fault(const char *folder, cf_status status, const char *part)
{
    cf_checkpoint checkpoint;
    cf_error error;
    assert_fails(cf_checkpoint_open(folder, &checkpoint, &error), status, error, part);
    assert_null(checkpoint.tensors);
    assert_int_equal(checkpoint.n_files, 0);
}

/* Opens a golden checkpoint and binds it; both must succeed. */
static void open_and_bind(const char *path, const char *format)
{
    cf_error error;
    cf_checkpoint checkpoint;
    cf_neox neox;
    assert_ok(cf_checkpoint_open(path, &checkpoint, &error), error);
    assert_int_equal(checkpoint.n_files, 1);
    assert_string_equal(checkpoint.files[0].format, format);
    assert_int_equal(checkpoint.n_tensors, 4 + 12 * 2);
    for (size_t i = 1; i < checkpoint.n_tensors; i++)
        assert_true(strcmp(checkpoint.tensors[i - 1].name, checkpoint.tensors[i].name) < 0);
    assert_ok(
        cf_neox_bind(&checkpoint.shape, checkpoint.tensors, checkpoint.n_tensors, &neox, &error),
        error);
    assert_int_equal(neox.layers[1].qkv_weight->dims[0], 3 * checkpoint.shape.d_model);
    cf_neox_unbind(&neox);
    cf_checkpoint_close(&checkpoint);
}

static void golden_folders_open(void **state)
{
    (void)state;
    static const char *const folders[] = {"golden/base1000", "golden/hd80", "golden/seq-pct100",
                                          "golden/v5-config"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        const char *path = test_shared_path(folders[i]);
        if (path == NULL)
            skip();
        open_and_bind(path, "safetensors");
    }
    open_and_bind(test_shared_path("golden/bin"), "pytorch zip");
}

static void shards_are_joined_by_their_index(void **state)
{
    (void)state;
    const char *folder = make_shards("{\"metadata\":{\"total_size\":8},\"weight_map\":{"
                                     "\"b\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    cf_checkpoint checkpoint;
    cf_error error;
    assert_ok(cf_checkpoint_open(folder, &checkpoint, &error), error);
    assert_int_equal(checkpoint.shape.n_vocab, 16);
    assert_int_equal(checkpoint.n_files, 2);
    assert_string_equal(checkpoint.files[0].name, "one.safetensors");
    assert_int_equal(checkpoint.files[1].bytes, checkpoint.maps[1].n_bytes);
    assert_int_equal(checkpoint.n_tensors, 2);
    assert_string_equal(checkpoint.tensors[0].name, "a");
    assert_string_equal(checkpoint.tensors[1].file, "two.safetensors");
    cf_checkpoint_close(&checkpoint);
    cf_checkpoint_close(&checkpoint);
    test_scratch_remove(folder);
}

static void one_file_goes_before_shards_and_safetensors_before_bin(void **state)
{
    (void)state;
    const char *folder = make_shards("{\"weight_map\":{\"a\":\"one.safetensors\","
                                     "\"b\":\"two.safetensors\"}}");
    cf_checkpoint checkpoint;
    cf_error error;
    write_text(folder, "pytorch_model.bin", "not read");
    assert_ok(cf_checkpoint_open(folder, &checkpoint, &error), error);
    assert_int_equal(checkpoint.n_tensors, 2);
    cf_checkpoint_close(&checkpoint);
    write_weights(folder, "model.safetensors", ONE("whole"), 4);
    assert_ok(cf_checkpoint_open(folder, &checkpoint, &error), error);
    assert_int_equal(checkpoint.n_tensors, 1);
    assert_string_equal(checkpoint.tensors[0].name, "whole");
    cf_checkpoint_close(&checkpoint);
    test_scratch_remove(folder);
}

static void weights_that_are_none_are_named(void **state)
{
    (void)state;
    const char *folder = test_scratch_create();
    write_text(folder, "config.json", CONFIG);
    write_weights(folder, "model.safetensors", "{}", 0);
    expect_fault(folder, CF_STATUS_BAD_FILE, "model.safetensors: holds no weights");
    test_scratch_remove(folder);
}

static void what_is_not_there_is_named(void **state)
{
    (void)state;
    expect_fault("/nowhere/at/all", CF_STATUS_NOT_FOUND, "/nowhere/at/all: no such folder");
    expect_fault("/dev/null", CF_STATUS_IO, "/dev/null: not a folder");
    const char *folder = test_scratch_create();
    expect_fault(folder, CF_STATUS_NOT_FOUND, "/config.json: No such file or directory");
    write_text(folder, "config.json", CONFIG);
    expect_fault(folder, CF_STATUS_NOT_FOUND,
                 "no weights, expected model.safetensors, model.safetensors.index.json, "
                 "pytorch_model.bin or pytorch_model.bin.index.json");
    write_text(folder, "model.safetensors", "");
    expect_fault(folder, CF_STATUS_BAD_FILE, "model.safetensors: 0 bytes, expected at least the 8");
    write_text(folder, "model.safetensors",
               "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n");
    expect_fault(folder, CF_STATUS_BAD_FILE, "model.safetensors: a Git LFS pointer");
    write_text(folder, "config.json", "{\"model_type\":\"bert\"}");
    expect_fault(folder, CF_STATUS_UNSUPPORTED, "config.json: model_type is \"bert\"");
    char *large = calloc(1, 2 << 20);
    assert_non_null(large);
    test_write(folder, "config.json", large, 2 << 20);
    expect_fault(folder, CF_STATUS_BAD_FILE,
                 "config.json: 2097152 bytes, expected at most 1048576");
    free(large);
    test_scratch_remove(folder);
}

static void an_index_that_disagrees_with_its_files_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *index;
        cf_status status;
        const char *part;
    } bad[] = {
        {"[]", CF_STATUS_BAD_FILE, "model.safetensors.index.json: weight_map is missing"},
        {"{\"weight_map\":{}}", CF_STATUS_BAD_FILE, "weight_map is empty"},
        {"{\"weight_map\":[]}", CF_STATUS_BAD_FILE, "weight_map is an array"},
        {"{\"weight_map\":{\"a\":1}}", CF_STATUS_BAD_FILE,
         "a lies in an integer, expected a file name"},
        {"{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}", CF_STATUS_BAD_FILE, "duplicate object key"},
        {"{\"weight_map\":{\"a\":\"three.safetensors\"}}", CF_STATUS_NOT_FOUND,
         "/three.safetensors: no such file, named by model.safetensors.index.json"},
        {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}",
         CF_STATUS_BAD_FILE,
         "one.safetensors: a lies here, model.safetensors.index.json says in two.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}",
         CF_STATUS_BAD_FILE,
         "one.safetensors: b is missing, model.safetensors.index.json says that it lies here"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}}",
         CF_STATUS_BAD_FILE,
         "two.safetensors: b is not in the weight_map of model.safetensors.index.json"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"config.json\"}}", CF_STATUS_BAD_FILE,
         "config.json: the header's length is"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *folder = make_shards(bad[i].index);
        expect_fault(folder, bad[i].status, bad[i].part);
        test_scratch_remove(folder);
    }
}

static void an_index_cannot_lead_out_of_its_folder(void **state)
{
    (void)state;
    static const char *const names[] = {
        "../one.safetensors", "/etc/passwd", "x/y", "", ".", "..", "x\\\\y", "a\\nb"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char index[128];
        snprintf(index, sizeof index, "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
        const char *folder = make_shards(index);
        expect_fault(folder, CF_STATUS_BAD_FILE, "expected the plain name of a file beside");
        test_scratch_remove(folder);
    }
}

static void a_tensor_in_two_shards_is_refused(void **state)
{
    (void)state;
    const char *folder = make_shards("{\"weight_map\":{\"a\":\"one.safetensors\","
                                     "\"b\":\"two.safetensors\"}}");
    write_weights(folder, "two.safetensors", ONE("a"), 4);
    expect_fault(folder, CF_STATUS_BAD_FILE, "safetensors: a is there twice, also in ");
    test_scratch_remove(folder);
}

#define N_SPARSE_BYTES ((off_t)16000000000)

/* 16 GB that were never written: opening must neither read nor copy them. */
static void opening_does_not_read_the_weights(void **state)
{
    (void)state;
    static const char header[] = "{\"a\":{\"dtype\":\"F16\",\"shape\":[8000000000],"
                                 "\"data_offsets\":[0,16000000000]}}";
    const char *folder = test_scratch_create();
    write_text(folder, "config.json", CONFIG);
    write_weights(folder, "model.safetensors", header, 0);
    char path[4096];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    struct stat header_only;
    assert_int_equal(stat(path, &header_only), 0);
    if (truncate(path, header_only.st_size + N_SPARSE_BYTES) != 0) {
        test_scratch_remove(folder);
        skip(); /* a file system without sparse files */
    }
    cf_checkpoint checkpoint;
    cf_error error;
    assert_ok(cf_checkpoint_open(folder, &checkpoint, &error), error);
    enum { SKIPPED = 8 << 20, N_PAGES = 1 << 16, PAGE = 4096 }; /* the kernel may read ahead */
    unsigned char *resident = malloc(N_PAGES);
    assert_non_null(resident);
    uintptr_t begin = (uintptr_t)checkpoint.maps[0].data + SKIPPED;
    assert_int_equal(mincore((void *)begin, (size_t)N_PAGES * PAGE, resident), 0);
    for (size_t i = 0; i < N_PAGES; i++)
        assert_int_equal(resident[i] & 1, 0);
    free(resident);
    assert_ptr_equal(checkpoint.tensors[0].data, checkpoint.maps[0].data + header_only.st_size);
    cf_checkpoint_close(&checkpoint);
    test_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_folders_open),
        cmocka_unit_test(shards_are_joined_by_their_index),
        cmocka_unit_test(one_file_goes_before_shards_and_safetensors_before_bin),
        cmocka_unit_test(weights_that_are_none_are_named),
        cmocka_unit_test(what_is_not_there_is_named),
        cmocka_unit_test(an_index_that_disagrees_with_its_files_is_refused),
        cmocka_unit_test(an_index_cannot_lead_out_of_its_folder),
        cmocka_unit_test(a_tensor_in_two_shards_is_refused),
        cmocka_unit_test(opening_does_not_read_the_weights),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
