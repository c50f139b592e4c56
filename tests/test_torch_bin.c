/* pytorch_model.bin: real files of PyTorch 1.12.1 (tests/data/torch), and damaged or hostile ones.
 */
#include "support/support.h"

#include "base/half.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/pickle.h"
#include "checkpoint/torch_bin.h"
#include "model/neox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reading {
    cf_arena arena;
    cf_tensor_list list;
    const char *format;
    cf_error error;
} reading;

static cf_status read_bytes(reading *r, const void *bytes, size_t n_bytes)
{
    *r = (reading){0};
    r->list.arena = &r->arena;
    return cf_torch_bin_read(bytes, n_bytes, "model.bin", &r->list, &r->format, &r->error);
}

/* Reads every byte that the tensors claim, for the sanitizers to watch. */
static size_t touch(const reading *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->list.n; i++) {
        const cf_tensor *tensor = &r->list.tensors[i];
        size_t n_bytes =
            (size_t)(tensor->dims[0] * tensor->dims[1]) * cf_dtype_bytes(tensor->dtype);
        void *copy = malloc(n_bytes + 1);
        assert_non_null(copy);
        memcpy(copy, tensor->data, n_bytes);
        free(copy);
        n += n_bytes;
    }
    return n;
}

/* ---------------------------------------------------------------------------------------------- */
/* Real files                                                                                     */
/* ---------------------------------------------------------------------------------------------- */

static float element(const cf_tensor *tensor, size_t i)
{
    const uint8_t *at = (const uint8_t *)tensor->data + i * cf_dtype_bytes(tensor->dtype);
    uint16_t half;
    float single;
    memcpy(&half, at, sizeof half);
    if (tensor->dtype == CF_DTYPE_F16)
        return cf_float_from_f16(half);
    if (tensor->dtype == CF_DTYPE_BF16)
        return cf_float_from_bf16(half);
    memcpy(&single, at, sizeof single);
    return single;
}

/* The values that make.py gives the tensor with index `k` in the sorted list of names. */
static void check_values(const cf_tensor *tensor, size_t k)
{
    assert_int_equal((uintptr_t)tensor->data % cf_dtype_bytes(tensor->dtype), 0);
    size_t n = (size_t)(tensor->dims[0] * tensor->dims[1]);
    for (size_t i = 0; i < n; i++)
        assert_true(element(tensor, i) == ((float)((7 * i + 13 * k) % 64) - 32) / 64);
}

static void check_folder(const char *folder, const char *format, size_t n_files, cf_dtype dtype)
{
    cf_checkpoint checkpoint;
    cf_neox neox;
    cf_error error;
    assert_ok(cf_checkpoint_open(test_path(folder), &checkpoint, &error), error);
    assert_int_equal(checkpoint.n_files, n_files);
    for (size_t i = 0; i < n_files; i++)
        assert_string_equal(checkpoint.files[i].format, format);
    assert_int_equal(checkpoint.n_tensors, 16);
    for (size_t i = 0; i < 16; i++) {
        const cf_tensor *tensor = &checkpoint.tensors[i];
        assert_int_equal(tensor->dtype, dtype);
        bool tied = i == 0 && checkpoint.shape.tied_embeddings;
        check_values(tensor, tied ? 1 : i);
    }
    assert_ok(cf_neox_bind(&checkpoint.shape, checkpoint.tensors, 16, &neox, &error), error);
    cf_neox_unbind(&neox);
    cf_checkpoint_close(&checkpoint);
}

static void the_zip_form_is_read(void **state)
{
    (void)state;
    check_folder("tests/data/torch/zip", "pytorch zip", 1, CF_DTYPE_F32);
}

static void the_legacy_form_is_read(void **state)
{
    (void)state;
    check_folder("tests/data/torch/legacy", "pytorch legacy", 1, CF_DTYPE_F16);
}

static void shards_of_parameters_and_views_are_read(void **state)
{
    (void)state;
    check_folder("tests/data/torch/sharded", "pytorch zip", 2, CF_DTYPE_BF16);
}

static void what_is_no_plain_state_dict_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *part;
    } bad[] = {
        {"tests/data/torch/hostile", "pytorch_model.bin: pickle: names posix.system"},
        {"tests/data/torch/strided", "pytorch_model.bin: embed_out.weight is not contiguous"},
        {"tests/data/torch/nested", "pytorch_model.bin: holds a dict within the dict"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cf_checkpoint checkpoint;
        cf_error error;
        assert_fails(cf_checkpoint_open(test_path(bad[i].folder), &checkpoint, &error),
                     CF_STATUS_UNSUPPORTED, error, bad[i].part);
    }
}

static const char *const real_files[] = {"tests/data/torch/zip/pytorch_model.bin",
                                         "tests/data/torch/legacy/pytorch_model.bin"};

static void every_truncation_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        size_t n_bytes;
        uint8_t *bytes = test_read(test_path(real_files[i]), &n_bytes);
        for (size_t n = 0; n < n_bytes; n++) {
            uint8_t *cut = malloc(n > 0 ? n : 1); /* of its own, so that an overread is found */
            assert_non_null(cut);
            memcpy(cut, bytes, n);
            reading r;
            cf_status status = read_bytes(&r, cut, n);
            assert_int_equal(status, CF_STATUS_BAD_FILE);
            assert_int_equal(strncmp(r.error.message, "model.bin: ", 11), 0);
            cf_arena_release(&r.arena);
            free(cut);
        }
        free(bytes);
    }
}

static void every_changed_byte_is_survived(void **state)
{
    (void)state;
    static const uint8_t changes[] = {0x01, 0x80, 0xFF};
    for (size_t i = 0; i < 2; i++) {
        size_t n_bytes;
        uint8_t *bytes = test_read(test_path(real_files[i]), &n_bytes);
        for (size_t at = 0; at < n_bytes; at++)
            for (size_t c = 0; c < sizeof changes; c++) {
                bytes[at] ^= changes[c];
                reading r;
                if (read_bytes(&r, bytes, n_bytes) == CF_STATUS_OK)
                    assert_true(touch(&r) <= n_bytes * 2);
                cf_arena_release(&r.arena);
                bytes[at] ^= changes[c];
            }
        free(bytes);
    }
}

static void other_files_are_told_apart(void **state)
{
    (void)state;
    reading r;
    assert_fails(read_bytes(&r, "", 0), CF_STATUS_BAD_FILE, r.error, "neither a zip archive nor");
    assert_fails(read_bytes(&r, "\x80\x02}q\x00.", 6), CF_STATUS_BAD_FILE, r.error, "neither");
    assert_fails(read_bytes(&r, "PK\x03\x04", 4), CF_STATUS_BAD_FILE, r.error, "no end record");
}

/* ---------------------------------------------------------------------------------------------- */
/* Archives made here                                                                             */
/* ---------------------------------------------------------------------------------------------- */

typedef struct archive {
    uint8_t bytes[8192];
    size_t n;
    uint8_t directory[4096];
    size_t n_directory, n_entries;
    unsigned method, flags; /* of the next entries */
    bool zip64;             /* every size and offset stands in 64 bits */
} archive;

static void put(uint8_t *bytes, size_t *n, uint64_t value, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        bytes[(*n)++] = i < 8 ? (uint8_t)(value >> (8 * i)) : 0;
}

static void put_text(uint8_t *bytes, size_t *n, const void *text, size_t n_text)
{
    memcpy(bytes + *n, text, n_text);
    *n += n_text;
}

static void add_entry(archive *to, const char *name, const void *data, size_t n_data)
{
    size_t header = to->n, n_name = strlen(name), *d = &to->n_directory;
    put(to->bytes, &to->n, 0x04034B50, 4);
    put(to->bytes, &to->n, 0, 14); /* version, flags, method, time, CRC: not looked at here */
    put(to->bytes, &to->n, n_data, 4);
    put(to->bytes, &to->n, n_data, 4);
    put(to->bytes, &to->n, n_name, 2);
    put(to->bytes, &to->n, 0, 2);
    put_text(to->bytes, &to->n, name, n_name);
    put_text(to->bytes, &to->n, data, n_data);
    put(to->directory, d, 0x02014B50, 4);
    put(to->directory, d, 0, 4);
    put(to->directory, d, to->flags, 2);
    put(to->directory, d, to->method, 2);
    put(to->directory, d, 0, 8);
    put(to->directory, d, to->zip64 ? UINT32_MAX : n_data, 4);
    put(to->directory, d, to->zip64 ? UINT32_MAX : n_data, 4);
    put(to->directory, d, n_name, 2);
    put(to->directory, d, to->zip64 ? 34 : 0, 2);
    put(to->directory, d, 0, 10);
    put(to->directory, d, to->zip64 ? UINT32_MAX : header, 4);
    put_text(to->directory, d, name, n_name);
    if (to->zip64) {
        put_text(to->directory, d, "\x55\x54\x02\0ab\x01\0\x18\0", 10); /* another field first */
        put(to->directory, d, n_data, 8);
        put(to->directory, d, n_data, 8);
        put(to->directory, d, header, 8);
    }
    to->n_entries++;
}

static void end_archive(archive *to)
{
    size_t offset = to->n;
    put_text(to->bytes, &to->n, to->directory, to->n_directory);
    if (to->zip64) {
        size_t end64 = to->n;
        put(to->bytes, &to->n, 0x06064B50, 4);
        put(to->bytes, &to->n, 44, 8);
        put(to->bytes, &to->n, 0, 12);
        put(to->bytes, &to->n, to->n_entries, 8);
        put(to->bytes, &to->n, to->n_entries, 8);
        put(to->bytes, &to->n, to->n_directory, 8);
        put(to->bytes, &to->n, offset, 8);
        put(to->bytes, &to->n, 0x07064B50, 4);
        put(to->bytes, &to->n, 0, 4);
        put(to->bytes, &to->n, end64, 8);
        put(to->bytes, &to->n, 1, 4);
    }
    put(to->bytes, &to->n, 0x06054B50, 4);
    put(to->bytes, &to->n, 0, 4);
    put(to->bytes, &to->n, to->zip64 ? UINT16_MAX : to->n_entries, 2);
    put(to->bytes, &to->n, to->zip64 ? UINT16_MAX : to->n_entries, 2);
    put(to->bytes, &to->n, to->zip64 ? UINT32_MAX : to->n_directory, 4);
    put(to->bytes, &to->n, to->zip64 ? UINT32_MAX : offset, 4);
    put(to->bytes, &to->n, 0, 2);
}

#define TEXT(length, text) "X" length "\0\0\0" text
#define STORAGE(type, n)                                                                           \
    "((" TEXT("\x07", "storage") "ctorch\n" type "\n" TEXT("\x01", "0") TEXT("\x03", "cpu") "K" n  \
                                                                                            "tQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define REST                                                                                       \
    "\x89"                                                                                         \
    "ccollections\nOrderedDict\n)RtR"
#define TENSOR(type, n, offset, size, stride) REBUILD STORAGE(type, n) "K" offset size stride REST
#define ONE(tensor) "\x80\x02}(" TEXT("\x01", "w") tensor "u."

/* Reads an archive of this pickle and one storage of six F16 numbers, 0 to 5 as bit patterns. */
static cf_status read_pickle(reading *r, const char *pickle, size_t n_pickle, archive *file)
{
    static const uint8_t storage[12] = {0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0};
    *file = (archive){.zip64 = file->zip64};
    add_entry(file, "some name/data.pkl", pickle, n_pickle);
    if (file->n % 2 != 0) /* the storage then lies at an even place */
        add_entry(file, "some name/x", "", 0);
    add_entry(file, "some name/data/0", storage, sizeof storage);
    end_archive(file);
    return read_bytes(r, file->bytes, file->n);
}

static void expect_pickle_fault(const char *pickle, size_t n, cf_status status, const char *part)
{
    reading r;
    archive file = {0};
    assert_fails(read_pickle(&r, pickle, n, &file), status, r.error, part);
    assert_int_equal(strncmp(r.error.message, "model.bin: ", 11), 0);
    cf_arena_release(&r.arena);
}

/* A literal with zero bytes inside, and its length. */
#define BYTES(literal) literal, sizeof(literal) - 1

#define VIEW ONE(TENSOR("HalfStorage", "\x06", "\x02", "K\x02K\x02\x86", "K\x02K\x01\x86"))

static void a_view_into_a_storage_is_found(void **state)
{
    (void)state;
    for (int zip64 = 0; zip64 <= 1; zip64++) {
        reading r;
        archive file = {.zip64 = zip64 != 0};
        assert_ok(read_pickle(&r, BYTES(VIEW), &file), r.error);
        assert_string_equal(r.format, "pytorch zip");
        assert_int_equal(r.list.n, 1);
        assert_string_equal(r.list.tensors[0].name, "w");
        assert_int_equal(r.list.tensors[0].n_dims, 2);
        assert_memory_equal(r.list.tensors[0].data, "\2\0\3\0\4\0\5\0", 8);
        cf_arena_release(&r.arena);
    }
}

/* Every byte of a zip64 archive with every bit pattern that tends to break arithmetic. */
static void every_changed_byte_of_zip64_is_survived(void **state)
{
    (void)state;
    static const uint8_t values[] = {0x00, 0x01, 0x7F, 0x80, 0xFF};
    archive file = {.zip64 = true};
    reading r;
    assert_ok(read_pickle(&r, BYTES(VIEW), &file), r.error);
    cf_arena_release(&r.arena);
    for (size_t at = 0; at < file.n; at++)
        for (size_t v = 0; v < sizeof values; v++) {
            uint8_t before = file.bytes[at];
            file.bytes[at] = values[v];
            if (read_bytes(&r, file.bytes, file.n) == CF_STATUS_OK)
                assert_true(touch(&r) <= file.n);
            cf_arena_release(&r.arena);
            file.bytes[at] = before;
        }
}

static void tensors_beyond_their_storage_are_refused(void **state)
{
    (void)state;
#define HALVES(n, offset, size, stride) BYTES(ONE(TENSOR("HalfStorage", n, offset, size, stride)))
    expect_pickle_fault(HALVES("\x06", "\x01", "K\x02K\x03\x86", "K\x03K\x01\x86"),
                        CF_STATUS_BAD_FILE, "w takes 6 elements from 1 on, its storage has 6");
    expect_pickle_fault(HALVES("\x07", "\x00", "K\x07\x85", "K\x01\x85"), CF_STATUS_BAD_FILE,
                        "w: storage 0 has 12 bytes, expected 7 elements of F16");
    expect_pickle_fault(
        BYTES(ONE(TENSOR("FloatStorage", "\x06", "\x00", "K\x06\x85", "K\x01\x85"))),
        CF_STATUS_BAD_FILE, "expected 6 elements of F32");
    expect_pickle_fault(HALVES("\x06", "\x00", "K\x02K\x03\x86", "K\x01K\x02\x86"),
                        CF_STATUS_UNSUPPORTED, "w is not contiguous");
    expect_pickle_fault(HALVES("\x06", "\x00", "K\x09K\x03\x86", "K\x00K\x01\x86"),
                        CF_STATUS_UNSUPPORTED, "w is not contiguous");
    expect_pickle_fault(HALVES("\x06", "\x00", "J\xff\xff\xff\xff\x85", "K\x01\x85"),
                        CF_STATUS_BAD_FILE, "a tensor's size is a tuple, expected a tuple of");
    expect_pickle_fault(HALVES("\x06", "\x00", "K\x02K\x03\x86", "K\x01\x85"), CF_STATUS_BAD_FILE,
                        "a tensor's stride is a tuple, expected a tuple of integers, as long");
    expect_pickle_fault(HALVES("\x06", "\x00", ")", ")"), CF_STATUS_BAD_FILE,
                        "w has 0 dimensions, expected 1 or 2");
    /* 2^32 × 2^32 elements: the product does not fit */
    expect_pickle_fault(HALVES("\x06", "\x00", "\x8a\x05\0\0\0\0\x01\x8a\x05\0\0\0\0\x01\x86",
                               "\x8a\x05\0\0\0\0\x01K\x01\x86"),
                        CF_STATUS_BAD_FILE, "w has more than 2^64 elements");
    expect_pickle_fault(
        BYTES(ONE(TENSOR("ShortStorage", "\x06", "\x00", "K\x06\x85", "K\x01\x85"))),
        CF_STATUS_UNSUPPORTED, "w has dtype I16, expected F16, BF16 or F32");
}

static void globals_beyond_the_known_ones_are_refused_by_name(void **state)
{
    (void)state;
    expect_pickle_fault(BYTES("\x80\x02"
                              "cos\nsystem\nX\x02\0\0\0ls\x85R."),
                        CF_STATUS_UNSUPPORTED, "pickle: names os.system");
    expect_pickle_fault(BYTES("\x80\x04\x8c\x08"
                              "builtins\x8c\x04"
                              "eval\x93."),
                        CF_STATUS_UNSUPPORTED, "names builtins.eval");
    expect_pickle_fault(
        BYTES(ONE(TENSOR("QInt8Storage", "\x06", "\x00", "K\x06\x85", "K\x01\x85"))),
        CF_STATUS_UNSUPPORTED, "names torch.QInt8Storage");
    expect_pickle_fault(BYTES("\x80\x02"
                              "ctorch._utils\n_rebuild_sparse_tensor\n."),
                        CF_STATUS_UNSUPPORTED, "names torch._utils._rebuild_sparse_tensor");
    expect_pickle_fault(BYTES("\x80\x02"
                              "c\x1b[2J\nx\n."),
                        CF_STATUS_BAD_FILE, "names an unreadable global");
    expect_pickle_fault(BYTES("\x80\x02"
                              "ctorch\nHalfStorage\n)R."),
                        CF_STATUS_UNSUPPORTED, "calls torch.HalfStorage");
}

static void opcodes_beyond_the_known_ones_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        char opcode;
        const char *name;
    } refused[] = {{'i', "INST"},
                   {'o', "OBJ"},
                   {'\x81', "NEWOBJ"},
                   {'\x92', "NEWOBJ_EX"},
                   {'\x82', "EXT1"},
                   {'P', "PERSID"},
                   {'I', "INT"},
                   {'S', "STRING"},
                   {'B', "BINBYTES"},
                   {'\x90', "ADDITEMS"},
                   {'\x97', "NEXT_BUFFER"},
                   {'\xfe', "unknown"}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char pickle[] = "\x80\x02?.", part[64];
        pickle[2] = refused[i].opcode;
        snprintf(part, sizeof part, "opcode 0x%02X (%s) at byte 2 is not",
                 (unsigned)(unsigned char)refused[i].opcode, refused[i].name);
        expect_pickle_fault(pickle, 4, CF_STATUS_UNSUPPORTED, part);
    }
}

static void damaged_pickles_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *pickle;
        size_t n;
        const char *part;
    } bad[] = {
        {BYTES(""), "pickle: ends too early at byte 0 of 0"},
        {BYTES("}."), "does not begin with its protocol"},
        {BYTES("\x80\x06}."), "a protocol beyond 5"},
        {BYTES("\x80\x02"), "ends too early at byte 2 of 2"},
        {BYTES("\x80\x02."), "takes from an empty stack"},
        {BYTES("\x80\x02(."), "takes from an empty stack"},
        {BYTES("\x80\x02"
               "0."),
         "takes from an empty stack"},
        {BYTES("\x80\x02}u."), "misses a mark"},
        {BYTES("\x80\x02}(Nu."), "a key without a value"},
        {BYTES("\x80\x02](NNu."), "sets an item of what is no dict"},
        {BYTES("\x80\x02}Na."), "appends to what is no list"},
        {BYTES("\x80\x02NNs."), "takes from an empty stack"},
        {BYTES("\x80\x02}r\xff\xff\xff\x7f."), "a memo index beyond the number of its opcodes"},
        {BYTES("\x80\x02}q\x01h\x00."), "a memo index that was never put"},
        {BYTES("\x80\x02X\xff\xff\xff\xff"
               "abc."),
         "ends too early"},
        {BYTES("\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
               "abc."),
         "ends too early"},
        {BYTES("\x80\x02\x8b\xff\xff\xff\xff."), "ends too early"},
        {BYTES("\x80\x02"
               "ctorch"),
         "ends within a line"},
        {BYTES("\x80\x02NN\x93."), "names a global by what is no string"},
        {BYTES("\x80\x02NNR."), "calls what is no function"},
        {BYTES("\x80\x02NNb."), "sets the state of what is no OrderedDict"},
        {BYTES("\x80\x02NQ."), "a persistent id is None, expected a tuple"},
        {BYTES("\x80\x02)Q."), "a persistent id's first item is missing, expected \"storage\""},
        {BYTES("\x80\x02" REBUILD ")R."), "a tensor's storage is missing, expected a storage"},
        {BYTES("\x80\x02"
               "ctorch._utils\n_rebuild_parameter\nN\x85R."),
         "a parameter is None, expected a tensor"},
        {BYTES("\x80\x02"
               "ccollections\nOrderedDict\nN\x85R."),
         "OrderedDict's argument is None, expected none"},
        {BYTES("\x80\x02]."), "holds a list, expected a dict of tensors"},
        {BYTES("\x80\x02}K\x01Ns."), "a key of the dict is an integer, expected a tensor's name"},
        {BYTES("\x80\x02}" TEXT("\x01", "w") "Ns."), "w is None, expected a tensor"},
        {BYTES("\x80\x02}" TEXT("\x01", "\n") "Ns."), "a tensor's name has byte 0x0A"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_pickle_fault(bad[i].pickle, bad[i].n, CF_STATUS_BAD_FILE, bad[i].part);
}

/* A million marks, lists in lists, and a dict that holds itself: none of it is walked recursively.
 */
static void depth_and_cycles_do_no_harm(void **state)
{
    (void)state;
    enum { N = 1000000 };
    static const char *const patterns[] = {"(", "]", ")\x85"};
    for (size_t i = 0; i < 3; i++) {
        size_t n = strlen(patterns[i]);
        char *pickle = malloc(2 + N * n + 1);
        assert_non_null(pickle);
        memcpy(pickle, "\x80\x02", 2);
        for (size_t j = 0; j < N; j++)
            memcpy(pickle + 2 + j * n, patterns[i], n);
        cf_arena arena = {0};
        cf_value *value;
        cf_error error;
        size_t n_used;
        assert_fails(cf_pickle_read(pickle, 2 + N * n, "deep", &arena, &value, &n_used, &error),
                     CF_STATUS_BAD_FILE, error, "deep: pickle: ends too early");
        cf_arena_release(&arena);
        free(pickle);
    }
    expect_pickle_fault(BYTES("\x80\x02}q\x00" TEXT("\x01", "w") "h\x00s."), CF_STATUS_UNSUPPORTED,
                        "holds a dict within the dict");
}

static void damaged_archives_are_refused(void **state)
{
    (void)state;
    static const char pickle[] =
        ONE(TENSOR("HalfStorage", "\x06", "\x00", "K\x06\x85", "K\x01\x85"));
    reading r;
    archive file = {.method = 8};
    add_entry(&file, "a/data.pkl", BYTES("\x80\x02}."));
    end_archive(&file);
    assert_fails(read_bytes(&r, file.bytes, file.n), CF_STATUS_UNSUPPORTED, r.error,
                 "a/data.pkl has compression method 8, expected 0, stored");
    cf_arena_release(&r.arena);

    file = (archive){.flags = 1};
    add_entry(&file, "a/data.pkl", BYTES("\x80\x02}."));
    end_archive(&file);
    assert_fails(read_bytes(&r, file.bytes, file.n), CF_STATUS_UNSUPPORTED, r.error,
                 "a/data.pkl is encrypted");
    cf_arena_release(&r.arena);

    file = (archive){0};
    add_entry(&file, "a/version", "3", 1);
    end_archive(&file);
    assert_fails(read_bytes(&r, file.bytes, file.n), CF_STATUS_BAD_FILE, r.error,
                 "zip archive without data.pkl");
    cf_arena_release(&r.arena);

    file = (archive){0};
    add_entry(&file, "a/data.pkl", pickle, sizeof pickle - 1);
    end_archive(&file);
    assert_fails(read_bytes(&r, file.bytes, file.n), CF_STATUS_BAD_FILE, r.error,
                 "w lies in storage 0, which is not in the file");
    cf_arena_release(&r.arena);

    file = (archive){0};
    add_entry(&file, "a/data.pkl", pickle, sizeof pickle - 1);
    add_entry(&file, "a/data/0", "0123456789ab", 12);
    add_entry(&file, "a/data/0", "0123456789ab", 12);
    end_archive(&file);
    assert_fails(read_bytes(&r, file.bytes, file.n), CF_STATUS_BAD_FILE, r.error,
                 "storage 0 is there twice");
    cf_arena_release(&r.arena);

    file = (archive){0};
    add_entry(&file, "a/data.pkl", pickle, sizeof pickle - 1);
    add_entry(&file, "a/data/0", "0123456789ab", 12);
    add_entry(&file, "a/byteorder", "big", 3);
    end_archive(&file);
    assert_fails(read_bytes(&r, file.bytes, file.n), CF_STATUS_UNSUPPORTED, r.error,
                 "byte order is not little");
    cf_arena_release(&r.arena);
}

/* Two entries of the directory that share their bytes would let a small file claim a large one's.
 */
static void overlapping_entries_are_refused(void **state)
{
    (void)state;
    archive file = {0};
    add_entry(&file, "a/data.pkl", BYTES("\x80\x02}."));
    size_t n_first = file.n_directory;
    add_entry(&file, "b/data.pkl", BYTES("\x80\x02}."));
    memset(file.directory + n_first + 42, 0, 4);
    end_archive(&file);
    reading r;
    assert_fails(read_bytes(&r, file.bytes, file.n), CF_STATUS_BAD_FILE, r.error, "overlap");
    cf_arena_release(&r.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_zip_form_is_read),
        cmocka_unit_test(the_legacy_form_is_read),
        cmocka_unit_test(shards_of_parameters_and_views_are_read),
        cmocka_unit_test(what_is_no_plain_state_dict_is_refused_by_name),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_changed_byte_is_survived),
        cmocka_unit_test(other_files_are_told_apart),
        cmocka_unit_test(a_view_into_a_storage_is_found),
        cmocka_unit_test(every_changed_byte_of_zip64_is_survived),
        cmocka_unit_test(tensors_beyond_their_storage_are_refused),
        cmocka_unit_test(globals_beyond_the_known_ones_are_refused_by_name),
        cmocka_unit_test(opcodes_beyond_the_known_ones_are_refused_by_name),
        cmocka_unit_test(damaged_pickles_are_refused),
        cmocka_unit_test(depth_and_cycles_do_no_harm),
        cmocka_unit_test(damaged_archives_are_refused),
        cmocka_unit_test(overlapping_entries_are_refused),
    };
    return cmocka_run_group_tests_name("torch_bin", tests, NULL, NULL);
}
