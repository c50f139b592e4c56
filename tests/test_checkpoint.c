/* Whole folders: which files are opened, shards and their index, what is said when they are bad. */
#include "support/support.h"

#include "checkpoint/checkpoint.h"
#include "model/neox.h"

#include <string.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_folders_open),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
