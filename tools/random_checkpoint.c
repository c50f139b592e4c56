/*
 * Writes a checkpoint of a named shape with random weights: for measuring speed and memory without
 * the real model. The same seed gives the same bytes on every machine.
 */
#include "base/half.h"
#include "base/status.h"
#include "clusterfusion.h"
#include "model/neox.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_SHARDS 999
#define MAX_LAYERS 4096
#define MAX_CONTEXT (1 << 24)
#define CHUNK_BYTES ((size_t)4 << 20)
#define N_LEVELS 65536 /* the values that a weight can have: uniform, 16 random bits each */

static const struct preset {
    const char *name;
    int32_t n_layers, d_model, n_heads, d_ffn, n_vocab;
    bool sequential; /* and rotary 1.0: RedPajama-INCITE */
    const char *activation;
} presets[] = {
    {"pythia-14m", 6, 128, 4, 512, 50304, false, "gelu"},
    {"pythia-31m", 6, 256, 8, 1024, 50304, false, "gelu"},
    {"pythia-70m", 6, 512, 8, 2048, 50304, false, "gelu"},
    {"pythia-160m", 12, 768, 12, 3072, 50304, false, "gelu"},
    {"pythia-410m", 24, 1024, 16, 4096, 50304, false, "gelu"},
    {"pythia-1b", 16, 2048, 8, 8192, 50304, false, "gelu"},
    {"pythia-1.4b", 24, 2048, 16, 8192, 50304, false, "gelu"},
    {"pythia-2.8b", 32, 2560, 32, 10240, 50304, false, "gelu"},
    {"pythia-6.9b", 32, 4096, 32, 16384, 50432, false, "gelu"},
    {"pythia-12b", 36, 5120, 40, 20480, 50688, false, "gelu"},
    {"gpt-neox-20b", 44, 6144, 64, 24576, 50432, false, "gelu_fast"},
    {"redpajama-3b", 32, 2560, 32, 10240, 50432, true, "gelu"},
    {"redpajama-7b", 32, 4096, 32, 16384, 50432, true, "gelu"},
};
#define N_PRESETS (sizeof presets / sizeof *presets)

typedef struct settings {
    struct preset shape;
    cf_dtype dtype;
    uint64_t seed;
    int n_shards;
    int32_t n_context;
    bool overwrite;
    const char *folder;
} settings;

/* A tensor to be written: values uniform in middle ± width. */
typedef struct planned {
    char name[80];
    int64_t rows, columns; /* vectors: 0 columns */
    uint64_t n_bytes;
    double middle, width;
} planned;

typedef struct plan {
    planned *tensors;
    size_t n;
    uint64_t n_bytes;
} plan;

/* ---------------------------------------------------------------------------------------------- */
/* What to write                                                                                  */
/* ---------------------------------------------------------------------------------------------- */

/*
 * Scales that keep activations as those of a trained model: matrices that read a LayerNorm's output
 * have the variance 1 / fan-in, those that write to the residual 1 / (fan-in × 2 layers), and the
 * head makes logits with a deviation of about 2.5. A uniform distribution of deviation s is √3 s
 * wide to each side.
 */
static void choose_scale(const struct preset *shape, planned *tensor)
{
    double deviation = 0.02; /* biases */
    const char *name = tensor->name;
    double rows_in = sqrt((double)tensor->columns);
    if (strstr(name, "layernorm.weight") != NULL || strstr(name, "layer_norm.weight") != NULL) {
        tensor->middle = 1;
        deviation = 0.1;
    } else if (strstr(name, "embed_in") != NULL) {
        deviation = 0.3;
    } else if (strstr(name, "embed_out") != NULL) {
        deviation = 2.5 / rows_in;
    } else if (tensor->columns != 0) {
        bool to_residual = strstr(name, ".dense.") != NULL || strstr(name, "4h_to_h") != NULL;
        deviation = 1 / rows_in / (to_residual ? sqrt(2.0 * shape->n_layers) : 1);
    }
    tensor->width = deviation * sqrt(3.0);
}

static void add_tensor(plan *to, const settings *with, const char *prefix, const char *name,
                       int64_t rows, int64_t columns)
{
    planned *tensor = &to->tensors[to->n++];
    *tensor = (planned){.rows = rows, .columns = columns};
    snprintf(tensor->name, sizeof tensor->name, "%s%s", prefix, name);
    tensor->n_bytes = (uint64_t)(rows * (columns == 0 ? 1 : columns)) * cf_dtype_bytes(with->dtype);
    choose_scale(&with->shape, tensor);
    to->n_bytes += tensor->n_bytes;
}

/* Lists every tensor of the model, the layers' own tables being those that the loader binds. */
static bool make_plan(const settings *with, plan *to)
{
    enum {
#define COUNT(field, text, rows, columns, needs) +1
        N_LAYER = 0 CF_NEOX_LAYER_TENSORS(COUNT),
        N_OUTER = 0 CF_NEOX_OUTER_TENSORS(COUNT),
#undef COUNT
    };
    int64_t D = with->shape.d_model, F = with->shape.d_ffn, V = with->shape.n_vocab;
    *to = (plan){.tensors =
                     calloc((size_t)with->shape.n_layers * N_LAYER + N_OUTER, sizeof(planned))};
    if (to->tensors == NULL)
        return false;
    const char *prefix = "";
    char layer_prefix[64];
#define ADD(field, text, rows, columns, needs)                                                     \
    prefix = strcmp(text, "embed_out.weight") == 0 ? "" : "gpt_neox.";                             \
    add_tensor(to, with, prefix, text, rows, columns);
    CF_NEOX_OUTER_TENSORS(ADD)
#undef ADD
    for (int32_t layer = 0; layer < with->shape.n_layers; layer++) {
        snprintf(layer_prefix, sizeof layer_prefix, "gpt_neox.layers.%d.", layer);
#define ADD(field, text, rows, columns, needs)                                                     \
    add_tensor(to, with, layer_prefix, text, rows, columns);
        CF_NEOX_LAYER_TENSORS(ADD)
#undef ADD
    }
    return true;
}

/* ---------------------------------------------------------------------------------------------- */
/* Random numbers                                                                                 */
/* ---------------------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators; OOPSLA 2014). */
static inline uint64_t mix(uint64_t state)
{
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
    return state ^ (state >> 31);
}

#define GOLDEN_GAMMA 0x9E3779B97F4A7C15u

/* FNV-1a: a tensor's numbers depend on its name, not on its place. */
static uint64_t hash_name(const char *name)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *name != 0; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001B3u;
    return hash;
}

/* The value of every level, in the dtype that is written. */
typedef union levels {
    uint16_t half[N_LEVELS];
    float single[N_LEVELS];
} levels;

static void fill_levels(levels *table, const planned *tensor, cf_dtype dtype)
{
    for (size_t i = 0; i < N_LEVELS; i++) {
        double unit = (2 * (double)i + 1) / N_LEVELS - 1;
        float value = (float)(tensor->middle + unit * tensor->width);
        if (dtype == CF_DTYPE_F32)
            table->single[i] = value;
        else
            table->half[i] =
                dtype == CF_DTYPE_F16 ? cf_f16_from_float(value) : cf_bf16_from_float(value);
    }
}

/* Fills `chunk` with the values of elements 4 × `index` …; its size is a whole number of fours. */
static void fill_chunk(void *chunk, size_t n_bytes, const levels *table, cf_dtype dtype,
                       uint64_t stream, uint64_t index)
{
    if (dtype == CF_DTYPE_F32) {
        float *to = chunk;
        for (size_t i = 0; i < n_bytes / sizeof *to; i += 4) {
            uint64_t bits = mix(stream + ++index * GOLDEN_GAMMA);
            for (size_t j = 0; j < 4; j++)
                to[i + j] = table->single[(bits >> (16 * j)) & 0xFFFF];
        }
        return;
    }
    uint16_t *to = chunk;
    for (size_t i = 0; i < n_bytes / sizeof *to; i += 4) {
        uint64_t bits = mix(stream + ++index * GOLDEN_GAMMA);
        for (size_t j = 0; j < 4; j++)
            to[i + j] = table->half[(bits >> (16 * j)) & 0xFFFF];
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Writing                                                                                        */
/* ---------------------------------------------------------------------------------------------- */

static bool complain(const char *path)
{
    fprintf(stderr, "random_checkpoint: %s: %s\n", path, strerror(errno));
    return false;
}

static bool write_all(FILE *file, const char *path, const void *bytes, size_t n_bytes)
{
    return fwrite(bytes, 1, n_bytes, file) == n_bytes || complain(path);
}

static bool close_file(FILE *file, const char *path, bool good)
{
    if (fclose(file) != 0 && good)
        return complain(path);
    return good;
}

static bool write_tensor(FILE *file, const char *path, const planned *tensor, const settings *with,
                         levels *table, void *chunk)
{
    fill_levels(table, tensor, with->dtype);
    uint64_t stream = mix(with->seed + GOLDEN_GAMMA) ^ hash_name(tensor->name);
    uint64_t done = 0;
    while (done < tensor->n_bytes) {
        uint64_t left = tensor->n_bytes - done;
        size_t n = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
        fill_chunk(chunk, n, table, with->dtype, stream, done / (4 * cf_dtype_bytes(with->dtype)));
        if (!write_all(file, path, chunk, n))
            return false;
        done += n;
    }
    return true;
}

/* The header, padded with blanks so that the data begins at a multiple of 64 bytes. */
static char *make_header(const planned *tensors, size_t n, cf_dtype dtype, size_t *n_bytes)
{
    size_t capacity = 256 + n * 200, used = 8;
    char *text = malloc(capacity);
    if (text == NULL)
        return NULL;
    used += (size_t)sprintf(text + used, "{\"__metadata__\":{\"format\":\"pt\"}");
    uint64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        char shape[48];
        if (tensors[i].columns == 0)
            snprintf(shape, sizeof shape, "%" PRId64, tensors[i].rows);
        else
            snprintf(shape, sizeof shape, "%" PRId64 ",%" PRId64, tensors[i].rows,
                     tensors[i].columns);
        used += (size_t)snprintf(
            text + used, capacity - used,
            ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
            tensors[i].name, cf_dtype_name(dtype), shape, offset, offset + tensors[i].n_bytes);
        offset += tensors[i].n_bytes;
    }
    text[used++] = '}';
    while (used % 64 != 0)
        text[used++] = ' ';
    for (size_t i = 0; i < 8; i++)
        text[i] = (char)(unsigned char)((uint64_t)(used - 8) >> (8 * i));
    *n_bytes = used;
    return text;
}

static bool write_tensors(FILE *file, const char *path, const planned *tensors, size_t n,
                          const settings *with)
{
    size_t n_header;
    char *header = make_header(tensors, n, with->dtype, &n_header);
    levels *table = malloc(sizeof *table);
    void *chunk = malloc(CHUNK_BYTES);
    bool good = header != NULL && table != NULL && chunk != NULL;
    if (!good)
        fprintf(stderr, "random_checkpoint: out of memory\n");
    good = good && write_all(file, path, header, n_header);
    for (size_t i = 0; i < n && good; i++)
        good = write_tensor(file, path, &tensors[i], with, table, chunk);
    free(chunk);
    free(table);
    free(header);
    return good;
}

static FILE *create_file(const settings *with, const char *name, char path[4096])
{
    snprintf(path, 4096, "%s/%s", with->folder, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        complain(path);
    return file;
}

static bool write_weights(const settings *with, const char *name, const planned *tensors, size_t n)
{
    char path[4096];
    FILE *file = create_file(with, name, path);
    if (file == NULL)
        return false;
    return close_file(file, path, write_tensors(file, path, tensors, n, with));
}

static bool write_config(const settings *with)
{
    char path[4096];
    FILE *file = create_file(with, "config.json", path);
    if (file == NULL)
        return false;
    const struct preset *shape = &with->shape;
    const char *dtype = with->dtype == CF_DTYPE_F32   ? "float32"
                        : with->dtype == CF_DTYPE_F16 ? "float16"
                                                      : "bfloat16";
    fprintf(file,
            "{\n  \"architectures\": [\"GPTNeoXForCausalLM\"],\n  \"model_type\": \"gpt_neox\",\n"
            "  \"vocab_size\": %d,\n  \"hidden_size\": %d,\n  \"num_hidden_layers\": %d,\n"
            "  \"num_attention_heads\": %d,\n  \"intermediate_size\": %d,\n"
            "  \"hidden_act\": \"%s\",\n  \"max_position_embeddings\": %d,\n"
            "  \"layer_norm_eps\": 1e-05,\n  \"use_parallel_residual\": %s,\n"
            "  \"rotary_pct\": %s,\n  \"rotary_emb_base\": 10000,\n"
            "  \"tie_word_embeddings\": false,\n  \"bos_token_id\": 0,\n  \"eos_token_id\": 0,\n"
            "  \"torch_dtype\": \"%s\"\n}\n",
            shape->n_vocab, shape->d_model, shape->n_layers, shape->n_heads, shape->d_ffn,
            shape->activation, with->n_context, shape->sequential ? "false" : "true",
            shape->sequential ? "1.0" : "0.25", dtype);
    bool good = ferror(file) == 0 || complain(path);
    return close_file(file, path, good);
}

/* The end of the shard that begins with tensor `begin`, when `n_left` shards are still to come. */
static size_t shard_end(const plan *of, size_t begin, uint64_t n_bytes_left, int n_left)
{
    uint64_t taken = 0;
    size_t end = begin;
    size_t last = of->n - (size_t)(n_left - 1);
    do
        taken += of->tensors[end++].n_bytes;
    while (end < last && taken + of->tensors[end].n_bytes / 2 < n_bytes_left / (uint64_t)n_left);
    return n_left == 1 ? of->n : end;
}

static bool write_shards(const settings *with, const plan *of)
{
    char path[4096], name[64];
    FILE *index = create_file(with, "model.safetensors.index.json", path);
    if (index == NULL)
        return false;
    fprintf(index, "{\n  \"metadata\": {\"total_size\": %" PRIu64 "},\n  \"weight_map\": {",
            of->n_bytes);
    size_t begin = 0;
    uint64_t n_left = of->n_bytes;
    bool good = true;
    for (int shard = 0; shard < with->n_shards && good; shard++) {
        size_t end = shard_end(of, begin, n_left, with->n_shards - shard);
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", shard + 1, with->n_shards);
        for (size_t i = begin; i < end; i++) {
            fprintf(index, "%s\n    \"%s\": \"%s\"", i == 0 ? "" : ",", of->tensors[i].name, name);
            n_left -= of->tensors[i].n_bytes;
        }
        good = write_weights(with, name, of->tensors + begin, end - begin);
        begin = end;
    }
    fprintf(index, "\n  }\n}\n");
    if (good && ferror(index) != 0)
        good = complain(path);
    return close_file(index, path, good);
}

/* What a replaced checkpoint would leave, and be read instead of the new one. */
static bool remove_old(const settings *with)
{
    static const char *const names[] = {"config.json", "model.safetensors",
                                        "model.safetensors.index.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", with->folder, names[i]);
        if (unlink(path) != 0 && errno != ENOENT)
            return complain(path);
    }
    return true;
}

static bool prepare_folder(const settings *with)
{
    if (mkdir(with->folder, 0777) != 0 && errno != EEXIST)
        return complain(with->folder);
    char path[4096];
    struct stat status;
    int n = snprintf(path, sizeof path, "%s/config.json", with->folder);
    if (n < 0 || (size_t)n >= sizeof path - 64) {
        errno = ENAMETOOLONG;
        return complain(with->folder);
    }
    if (with->overwrite || stat(path, &status) != 0)
        return remove_old(with);
    fprintf(stderr, "random_checkpoint: %s holds a checkpoint already; --force replaces it\n",
            with->folder);
    return false;
}

/* The config is written last: a folder that has one is complete. */
static bool write_checkpoint(const settings *with)
{
    plan of;
    if (!prepare_folder(with))
        return false;
    if (!make_plan(with, &of)) {
        fprintf(stderr, "random_checkpoint: out of memory\n");
        return false;
    }
    bool good = with->n_shards == 1 ? write_weights(with, "model.safetensors", of.tensors, of.n)
                                    : write_shards(with, &of);
    good = good && write_config(with);
    if (good)
        printf("%s: %zu tensors, %" PRIu64 " parameters, %" PRIu64 " bytes\n", with->folder, of.n,
               of.n_bytes / cf_dtype_bytes(with->dtype), of.n_bytes);
    free(of.tensors);
    return good;
}

/* ---------------------------------------------------------------------------------------------- */
/* The command line                                                                               */
/* ---------------------------------------------------------------------------------------------- */

static void print_help(void)
{
    printf(
        "usage: random_checkpoint [options] SHAPE FOLDER\n\n"
        "Writes config.json and safetensors of the named shape, with random weights, to FOLDER.\n"
        "The same options give the same bytes.\n\n"
        "  --dtype f16|bf16|f32  of all tensors (f16)\n"
        "  --seed N              0 to 2^64 - 1 (0)\n"
        "  --layers N            instead of the shape's own, 1 to %d\n"
        "  --context N           max_position_embeddings (2048)\n"
        "  --shards N            files that the weights are split into, 1 to %d (1)\n"
        "  --force               replace a checkpoint that is in FOLDER already\n"
        "  -h, --help\n\n"
        "  SHAPE          layers  hidden  heads    ffn   vocab\n",
        MAX_LAYERS, MAX_SHARDS);
    for (size_t i = 0; i < N_PRESETS; i++)
        printf("  %-13s  %6d  %6d  %5d  %5d  %6d\n", presets[i].name, presets[i].n_layers,
               presets[i].d_model, presets[i].n_heads, presets[i].d_ffn, presets[i].n_vocab);
}

static bool misuse(const char *what, const char *found)
{
    fprintf(stderr, "random_checkpoint: %s: %s\nTry random_checkpoint --help\n", what, found);
    return false;
}

static bool read_number(const char *text, uint64_t low, uint64_t high, uint64_t *number)
{
    char *end;
    errno = 0;
    if (*text < '0' || *text > '9')
        return false;
    *number = strtoull(text, &end, 10);
    return errno == 0 && *end == 0 && *number >= low && *number <= high;
}

static bool read_dtype(const char *text, cf_dtype *dtype)
{
    *dtype = strcmp(text, "f16") == 0    ? CF_DTYPE_F16
             : strcmp(text, "bf16") == 0 ? CF_DTYPE_BF16
             : strcmp(text, "f32") == 0  ? CF_DTYPE_F32
                                         : CF_DTYPE_DEFAULT;
    return *dtype != CF_DTYPE_DEFAULT;
}

static bool read_option(int option, const char *text, settings *to, uint64_t *n_layers)
{
    uint64_t number = 0;
    switch (option) {
    case 'd':
        return read_dtype(text, &to->dtype) || misuse("--dtype is none of f16, bf16, f32", text);
    case 's':
        return read_number(text, 0, UINT64_MAX, &to->seed) || misuse("--seed", text);
    case 'l':
        return read_number(text, 1, MAX_LAYERS, n_layers) || misuse("--layers", text);
    case 'n':
        if (!read_number(text, 1, MAX_SHARDS, &number))
            return misuse("--shards", text);
        to->n_shards = (int)number;
        return true;
    case 'c':
        if (!read_number(text, 1, MAX_CONTEXT, &number))
            return misuse("--context", text);
        to->n_context = (int32_t)number;
        return true;
    case 'f':
        to->overwrite = true;
        return true;
    default:
        return false; /* getopt has said why */
    }
}

static bool read_arguments(int argc, char **argv, settings *to)
{
    static const struct option options[] = {
        {"dtype", required_argument, NULL, 'd'},
        {"seed", required_argument, NULL, 's'},
        {"layers", required_argument, NULL, 'l'},
        {"shards", required_argument, NULL, 'n'},
        {"context", required_argument, NULL, 'c'},
        {"force", no_argument, NULL, 'f'},
        {NULL, 0, NULL, 0},
    };
    uint64_t n_layers = 0;
    int option;
    *to = (settings){.dtype = CF_DTYPE_F16, .n_shards = 1, .n_context = 2048};
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (!read_option(option, optarg, to, &n_layers))
            return false;
    if (argc - optind != 2)
        return misuse("expected SHAPE and FOLDER", argc == optind ? "nothing" : argv[optind]);
    for (size_t i = 0; i < N_PRESETS; i++)
        if (strcmp(argv[optind], presets[i].name) == 0)
            to->shape = presets[i];
    if (to->shape.name == NULL)
        return misuse("no such shape", argv[optind]);
    if (n_layers != 0)
        to->shape.n_layers = (int32_t)n_layers;
    if (to->n_shards > to->shape.n_layers)
        return misuse("--shards: more than layers, for the shape", argv[optind]);
    to->folder = argv[optind + 1];
    return true;
}

int main(int argc, char **argv)
{
    settings with;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            print_help();
            return 0;
        }
    if (!read_arguments(argc, argv, &with))
        return 2;
    return write_checkpoint(&with) ? 0 : 1;
}
