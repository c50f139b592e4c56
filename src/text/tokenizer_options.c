#include "text/tokenizer_options.h"

#include "base/json.h"
#include "base/status.h"

#include <string.h>

typedef struct read_state {
    cf_tokenizer *tokenizer;
    const char *path;
    cf_error *error;
} read_state;

#define UNSUPPORTED(reader, ...) cf_fail((reader)->error, CF_STATUS_UNSUPPORTED, __VA_ARGS__)

static bool is_absent(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

/* The type of the part `name`, an object with a string of that key. */
static cf_status read_type(const read_state *reader, const json_t *part, const char *name,
                           const char **type)
{
    const json_t *value = json_object_get(part, "type");
    if (!json_is_object(part) || !json_is_string(value))
        return cf_fail(reader->error, CF_STATUS_BAD_FILE,
                       "%s: %s is %s, expected an object with a type", reader->path, name,
                       part == NULL           ? "missing"
                       : json_is_object(part) ? "an object without one"
                                              : cf_json_kind(part));
    *type = json_string_value(value);
    return CF_STATUS_OK;
}

/* A boolean of a part; `absent` if it is not there. */
static cf_status read_flag(const read_state *reader, const json_t *part, const char *name,
                           const char *key, bool absent, bool *flag)
{
    const json_t *value = json_object_get(part, key);
    if (!is_absent(value) && !json_is_boolean(value))
        return cf_fail(reader->error, CF_STATUS_BAD_FILE, "%s: %s.%s is %s, expected a boolean",
                       reader->path, name, key, cf_json_kind(value));
    *flag = is_absent(value) ? absent : json_is_true(value);
    return CF_STATUS_OK;
}

static cf_status refuse_type(const read_state *reader, const char *name, const char *type,
                             const char *supported)
{
    return UNSUPPORTED(reader, "%s: %s is \"%.60s\", only %s is supported", reader->path, name,
                       type, supported);
}

/* Options whose values are none, or change nothing. */
static cf_status read_model_values(const read_state *reader, const json_t *model)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_absent(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return UNSUPPORTED(reader, "%s: model.dropout is not 0, encoding would be random",
                           reader->path);
    for (size_t i = 0; i < sizeof affixes / sizeof *affixes; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (!is_absent(affix) && !(json_is_string(affix) && json_string_length(affix) == 0))
            return UNSUPPORTED(reader, "%s: model.%s is set, which is not supported", reader->path,
                               affixes[i]);
    }
    return CF_STATUS_OK;
}

/* unk_token and fuse_unk change nothing: each byte of valid text must have a token. */
static cf_status read_model(const read_state *reader, const json_t *model)
{
    const char *type = "";
    bool byte_fallback = false;
    CF_TRY(read_type(reader, model, "model", &type));
    if (strcmp(type, "BPE") != 0)
        return refuse_type(reader, "model.type", type, "\"BPE\"");
    CF_TRY(read_model_values(reader, model));
    CF_TRY(read_flag(reader, model, "model", "byte_fallback", false, &byte_fallback));
    if (byte_fallback)
        return UNSUPPORTED(reader, "%s: model.byte_fallback is true, which is not supported",
                           reader->path);
    return read_flag(reader, model, "model", "ignore_merges", false,
                     &reader->tokenizer->ignore_merges);
}

/* null, NFC, or a sequence of nothing else. */
static cf_status read_normalizer(const read_state *reader, const json_t *normalizer)
{
    const char *type = "";
    if (is_absent(normalizer))
        return CF_STATUS_OK;
    CF_TRY(read_type(reader, normalizer, "normalizer", &type));
    const json_t *parts = json_object_get(normalizer, "normalizers");
    if (strcmp(type, "Sequence") == 0 && json_is_array(parts)) {
        for (size_t i = 0; i < json_array_size(parts); i++) {
            CF_TRY(read_type(reader, json_array_get(parts, i), "normalizer.normalizers[]", &type));
            if (strcmp(type, "NFC") != 0)
                return refuse_type(reader, "a part of the normalizer", type, "\"NFC\"");
            reader->tokenizer->normalize = true;
        }
        return CF_STATUS_OK;
    }
    if (strcmp(type, "NFC") != 0)
        return refuse_type(reader, "normalizer.type", type, "\"NFC\"");
    reader->tokenizer->normalize = true;
    return CF_STATUS_OK;
}

static cf_status read_pre_tokenizer(const read_state *reader, const json_t *pre_tokenizer)
{
    const char *type = "null";
    bool add_prefix_space = true;
    if (!is_absent(pre_tokenizer))
        CF_TRY(read_type(reader, pre_tokenizer, "pre_tokenizer", &type));
    if (strcmp(type, "ByteLevel") != 0)
        return refuse_type(reader, "pre_tokenizer.type", type, "\"ByteLevel\"");
    CF_TRY(read_flag(reader, pre_tokenizer, "pre_tokenizer", "add_prefix_space", true,
                     &add_prefix_space));
    if (add_prefix_space)
        return UNSUPPORTED(reader,
                           "%s: pre_tokenizer.add_prefix_space is true, which is not supported",
                           reader->path);
    return read_flag(reader, pre_tokenizer, "pre_tokenizer", "use_regex", true,
                     &reader->tokenizer->split_words);
}

static cf_status read_decoder(const read_state *reader, const json_t *decoder)
{
    const char *type = "null";
    if (!is_absent(decoder))
        CF_TRY(read_type(reader, decoder, "decoder", &type));
    if (strcmp(type, "ByteLevel") != 0)
        return refuse_type(reader, "decoder.type", type, "\"ByteLevel\"");
    return CF_STATUS_OK;
}

/* Whether a TemplateProcessing's form of a single text is the text alone. */
static bool is_text_alone(const json_t *template)
{
    const json_t *single = json_object_get(template, "single");
    return json_array_size(single) == 1 &&
           json_object_get(json_array_get(single, 0), "Sequence") != NULL;
}

/* ByteLevel only moves offsets; a template must not add tokens to a single text. */
static cf_status read_post_processor(const read_state *reader, const json_t *post_processor)
{
    const char *type = "";
    if (is_absent(post_processor))
        return CF_STATUS_OK;
    CF_TRY(read_type(reader, post_processor, "post_processor", &type));
    if (strcmp(type, "ByteLevel") == 0)
        return CF_STATUS_OK;
    if (strcmp(type, "TemplateProcessing") != 0)
        return refuse_type(reader, "post_processor.type", type, "\"ByteLevel\"");
    if (!is_text_alone(post_processor))
        return UNSUPPORTED(reader,
                           "%s: post_processor.single adds tokens to the text, which is not "
                           "supported",
                           reader->path);
    return CF_STATUS_OK;
}

cf_status cf_tokenizer_read_options(cf_tokenizer *tokenizer, const json_t *root, const char *path,
                                    cf_error *error)
{
    const read_state reader = {.tokenizer = tokenizer, .path = path, .error = error};
    if (!json_is_object(root))
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s, expected an object", path,
                       cf_json_kind(root));
    CF_TRY(read_model(&reader, json_object_get(root, "model")));
    CF_TRY(read_normalizer(&reader, json_object_get(root, "normalizer")));
    CF_TRY(read_pre_tokenizer(&reader, json_object_get(root, "pre_tokenizer")));
    CF_TRY(read_decoder(&reader, json_object_get(root, "decoder")));
    return read_post_processor(&reader, json_object_get(root, "post_processor"));
}
