/* safetensors: what is read, and one clear error for everything that is wrong with a file. */
#include "support/support.h"

#include "checkpoint/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file in memory, its list of tensors, and what they need. */
typedef struct reading {
    uint8_t *bytes;
    size_t n_bytes;
    cf_arena arena;
    cf_tensor_list list;
    cf_error error;
} reading;

/* A file of this header and `n_data` bytes 0, 1, 2 …; the allocation ends where the file does. */
static void make_file(reading *r, const char *header, size_t n_header, size_t n_data)
{
    *r = (reading){.n_bytes = 8 + n_header + n_data};
    r->list.arena = &r->arena;
    r->bytes = malloc(r->n_bytes);
    assert_non_null(r->bytes);
    for (size_t i = 0; i < 8; i++)
        r->bytes[i] = (uint8_t)(n_header >> (8 * i));
    memcpy(r->bytes + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++)
        r->bytes[8 + n_header + i] = (uint8_t)i;
}

static cf_status read_file(reading *r)
{
    return cf_safetensors_read(r->bytes, r->n_bytes, "model.safetensors", &r->list, &r->error);
}

static void finish(reading *r)
{
    cf_arena_release(&r->arena);
    free(r->bytes);
}

static void expect_fault(const char *header, size_t n_data, cf_status status, const char *part)
{
    reading r;
    make_file(&r, header, strlen(header), n_data);
    assert_fails(read_file(&r), status, r.error, part);
    assert_int_equal(strncmp(r.error.message, "model.safetensors: ", 19), 0);
    finish(&r);
}

#define A "{\"a\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]}"
#define WITH_A(entry) "{\"a\":" entry "}"

static void tensors_of_each_dtype_are_found(void **state)
{
    (void)state;
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"h\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
        "\"s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[12,20]},"
        "\"b\":{\"data_offsets\":[20,24],\"shape\":[1,2],\"dtype\":\"BF16\",\"more\":[]}}        ";
    reading r;
    make_file(&r, header, sizeof header - 1 - (sizeof header - 1) % 8, 24);
    assert_ok(read_file(&r), r.error);
    assert_int_equal(r.list.n, 3);
    const cf_tensor *h = &r.list.tensors[0], *s = &r.list.tensors[1], *b = &r.list.tensors[2];
    const uint8_t *data = r.bytes + r.n_bytes - 24;
    assert_string_equal(h->name, "h");
    assert_string_equal(h->file, "model.safetensors");
    assert_int_equal(h->dtype, CF_DTYPE_F16);
    assert_int_equal(h->n_dims, 2);
    assert_true(h->dims[0] == 2 && h->dims[1] == 3);
    assert_ptr_equal(h->data, data);
    assert_int_equal(s->dtype, CF_DTYPE_F32);
    assert_int_equal(s->n_dims, 1);
    assert_true(s->dims[0] == 2 && s->dims[1] == 1);
    assert_ptr_equal(s->data, data + 12);
    assert_int_equal(b->dtype, CF_DTYPE_BF16);
    assert_ptr_equal(b->data, data + 20);
    finish(&r);
}

static void misaligned_weights_are_copied(void **state)
{
    (void)state;
    static const char json[] = "{\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,6]},"
                               "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[6,14]}}";
    size_t n_json = sizeof json - 1;
    for (size_t shift = 0; shift < 4; shift++) {
        char header[sizeof json + 16];
        snprintf(header, sizeof header, "%s%*s", json, 16, "");
        reading r;
        make_file(&r, header, n_json + (8 - n_json % 8) % 8 + shift, 14);
        assert_ok(read_file(&r), r.error);
        const uint8_t *data = r.bytes + r.n_bytes - 14;
        for (size_t i = 0; i < 2; i++) {
            const cf_tensor *tensor = &r.list.tensors[i];
            size_t offset = i * 6, alignment = cf_dtype_bytes(tensor->dtype);
            assert_int_equal((uintptr_t)tensor->data % alignment, 0);
            assert_memory_equal(tensor->data, data + offset, i == 0 ? 6 : 8);
            bool lies_well = (uintptr_t)(data + offset) % alignment == 0;
            assert_int_equal(tensor->data == data + offset, lies_well);
        }
        finish(&r);
    }
}

static void buffers_are_passed_over(void **state)
{
    (void)state;
    static const char header[] = "{\"gpt_neox.layers.0.attention.bias\":"
                                 "{\"dtype\":\"BOOL\",\"shape\":[1,1,2,2],\"data_offsets\":[0,4]},"
                                 "\"layers.0.attention.masked_bias\":"
                                 "{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,8]},"
                                 "\"layers.0.attention.rotary_emb.inv_freq\":"
                                 "{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[8,16]},"
                                 "\"layers.0.attention.dense.bias\":"
                                 "{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[16,20]}}";
    reading r;
    make_file(&r, header, sizeof header - 1, 20);
    assert_ok(read_file(&r), r.error);
    assert_int_equal(r.list.n, 1);
    assert_string_equal(r.list.tensors[0].name, "layers.0.attention.dense.bias");
    finish(&r);
}

static void a_file_without_tensors_is_read(void **state)
{
    (void)state;
    reading r;
    make_file(&r, "{}", 2, 0);
    assert_ok(read_file(&r), r.error);
    assert_int_equal(r.list.n, 0);
    finish(&r);
}

static void a_header_of_absurd_length_is_refused(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {
        3, 1000, 100000001, (uint64_t)1 << 63, UINT64_MAX, 0x7FF8000000000000u}; /* a NaN's bits */
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        reading r;
        make_file(&r, "{}", 2, 0);
        for (size_t j = 0; j < 8; j++)
            r.bytes[j] = (uint8_t)(lengths[i] >> (8 * j));
        char part[128];
        snprintf(part, sizeof part, "the header's length is %llu bytes, expected at most 2",
                 (unsigned long long)lengths[i]);
        assert_fails(read_file(&r), CF_STATUS_BAD_FILE, r.error, part);
        finish(&r);
    }
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    static const char header[] = A "}";
    for (size_t n = 0; n < 8 + sizeof header - 1 + 12; n++) {
        reading r;
        make_file(&r, header, sizeof header - 1, 12);
        r.bytes = realloc(r.bytes, n > 0 ? n : 1); /* so that an overread is found */
        r.n_bytes = n;
        assert_fails(read_file(&r), CF_STATUS_BAD_FILE, r.error, "model.safetensors: ");
        if (n >= 8 + sizeof header - 1)
            assert_non_null(strstr(r.error.message, ": a: data_offsets are [0,12], expected"));
        finish(&r);
    }
}

static void damaged_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header, *part;
    } bad[] = {
        {"", "header: line 1"},
        {"[]", "the header is an array, expected an object"},
        {"null", "the header is null"},
        {A, "header: line 1"},
        {A "}}", "header: line 1"},
        {A "} x", "header: line 1"},
        {"{\"a\":1,\"a\":2}", "duplicate object key"},
        {"{\"\xff\":1}", "header: line 1"},
        {"{\"__metadata__\":[]}", "__metadata__ is an array, expected an object"},
        {"{\"__metadata__\":{\"format\":5}}", "format is an integer, expected a string"},
        {"{\"\":{}}", "a tensor's name has 0 bytes"},
        {"{\"a\\nb\":{}}", "a tensor's name has byte 0x0A at 1"},
        {"{\"\xc3\xa9\":{}}", "a tensor's name has byte 0xC3 at 0"},
        {WITH_A("3"), "a is an integer, expected an object"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_fault(bad[i].header, 12, CF_STATUS_BAD_FILE, bad[i].part);
}

static void each_field_of_a_tensor_is_checked(void **state)
{
    (void)state;
#define SHAPE(text) WITH_A("{\"dtype\":\"F16\",\"shape\":" text ",\"data_offsets\":[0,12]}")
#define OFFSETS(text) WITH_A("{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":" text "}")
    static const struct {
        const char *header, *part;
    } bad[] = {
        {WITH_A("{}"), "a: dtype is missing, expected a string"},
        {WITH_A("{\"dtype\":16}"), "a: dtype is an integer, expected a string"},
        {WITH_A("{\"dtype\":\"F16\"}"), "a: shape is missing, expected an array"},
        {SHAPE("6"), "a: shape is an integer, expected an array"},
        {SHAPE("[2,-3]"), "a: shape[1] is negative, expected an integer of at least 0"},
        {SHAPE("[2,3.0]"), "a: shape[1] is a real number"},
        {SHAPE("[2,\"3\"]"), "a: shape[1] is a string"},
        {SHAPE("[2,4]"), "a: shape and dtype F16 take 16 bytes, data_offsets hold 12"},
        {SHAPE("[9223372036854775807,4]"), "a: its shape has more than 2^64 bytes"},
        {SHAPE("[4294967296,2147483648,2]"), "a: its shape has more than 2^64 bytes"},
        {SHAPE("[99999999999999999999]"), "too big integer"},
        {SHAPE("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,6]"), "a has 17 dimensions, expected 1 or 2"},
        {SHAPE("[1,2,3]"), "a has 3 dimensions, expected 1 or 2"},
        {WITH_A("{\"dtype\":\"F16\",\"shape\":[2,3]}"), "a: data_offsets are missing"},
        {OFFSETS("[0]"), "a: data_offsets are not two, expected an array of two integers"},
        {OFFSETS("[0,12,13]"), "a: data_offsets are not two"},
        {OFFSETS("[0.0,12.0]"), "a: data_offsets are no integers"},
        {OFFSETS("{}"), "a: data_offsets are an object"},
        {OFFSETS("[-12,0]"), "a: data_offsets are [-12,0], expected an ascending pair within"},
        {OFFSETS("[12,0]"), "a: data_offsets are [12,0]"},
        {OFFSETS("[0,24]"), "a: data_offsets are [0,24], expected an ascending pair within the "
                            "file's 12 bytes"},
        {OFFSETS("[9223372036854775796,9223372036854775807]"), "expected an ascending pair"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_fault(bad[i].header, 12, CF_STATUS_BAD_FILE, bad[i].part);
}

static void dtypes_that_no_weight_has_are_refused_by_name(void **state)
{
    (void)state;
    expect_fault(WITH_A("{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]}"), 8,
                 CF_STATUS_UNSUPPORTED, "a has dtype F64, expected F16, BF16 or F32");
    expect_fault(WITH_A("{\"dtype\":\"I8\",\"shape\":[8],\"data_offsets\":[0,8]}"), 8,
                 CF_STATUS_UNSUPPORTED, "a has dtype I8");
    expect_fault(WITH_A("{\"dtype\":\"Q4_K\",\"shape\":[8],\"data_offsets\":[0,8]}"), 8,
                 CF_STATUS_UNSUPPORTED, "a has the unknown dtype Q4_K");
}

static void tensors_must_cover_the_data_once(void **state)
{
    (void)state;
#define TWO(begin, end)                                                                            \
    A ",\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[" begin "," end "]}}"
    expect_fault(TWO("8", "16"), 16, CF_STATUS_BAD_FILE,
                 "b begins at byte 8 of the data, inside a, which ends at 12");
    expect_fault(TWO("0", "8"), 12, CF_STATUS_BAD_FILE,
                 "a begins at byte 0 of the data, inside b, which ends at 8");
    expect_fault(TWO("14", "22"), 22, CF_STATUS_BAD_FILE,
                 "b begins at byte 14 of the data, expected 12");
    expect_fault(TWO("12", "20"), 21, CF_STATUS_BAD_FILE, "21 bytes of data, its tensors take 20");
    expect_fault("{}", 1, CF_STATUS_BAD_FILE, "1 bytes of data, its tensors take 0");
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    enum { DEPTH = 1000000 };
    char *header = malloc(DEPTH + 6);
    assert_non_null(header);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    reading r;
    make_file(&r, header, DEPTH + 5, 0);
    assert_fails(read_file(&r), CF_STATUS_BAD_FILE, r.error, "model.safetensors: header: line 1");
    finish(&r);
    free(header);
}

/* No byte of a small file can be changed so that reading it does harm; most changes are noticed. */
static void every_changed_byte_is_survived(void **state)
{
    (void)state;
    static const char header[] = TWO("12", "20");
    for (size_t at = 0; at < 8 + sizeof header - 1; at++)
        for (int value = 0; value < 256; value += 5) {
            reading r;
            make_file(&r, header, sizeof header - 1, 20);
            r.bytes[at] = (uint8_t)value;
            size_t n_claimed = 0;
            if (read_file(&r) == CF_STATUS_OK)
                for (size_t i = 0; i < r.list.n; i++) {
                    const cf_tensor *tensor = &r.list.tensors[i];
                    size_t n =
                        (size_t)(tensor->dims[0] * tensor->dims[1]) * cf_dtype_bytes(tensor->dtype);
                    void *copy = malloc(n + 1);
                    assert_non_null(copy);
                    memcpy(copy, tensor->data, n);
                    free(copy);
                    n_claimed += n;
                }
            assert_true(n_claimed <= 20);
            finish(&r);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_of_each_dtype_are_found),
        cmocka_unit_test(misaligned_weights_are_copied),
        cmocka_unit_test(buffers_are_passed_over),
        cmocka_unit_test(a_file_without_tensors_is_read),
        cmocka_unit_test(a_header_of_absurd_length_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(damaged_headers_are_refused),
        cmocka_unit_test(each_field_of_a_tensor_is_checked),
        cmocka_unit_test(dtypes_that_no_weight_has_are_refused_by_name),
        cmocka_unit_test(tensors_must_cover_the_data_once),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(every_changed_byte_is_survived),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
