#include "base/json.h"

#include "base/file.h"
#include "base/status.h"

cf_status cf_json_parse(const void *data, size_t n_bytes, const char *name, json_t **value,
                        cf_error *error)
{
    json_error_t fault;
    *value = json_loadb(data, n_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &fault);
    if (*value == NULL)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: line %d, column %d: %s", name, fault.line,
                       fault.column, fault.text);
    return CF_STATUS_OK;
}

cf_status cf_json_load(const char *path, size_t max_bytes, json_t **value, cf_error *error)
{
    *value = NULL;
    cf_file file;
    CF_TRY(cf_file_map(path, &file, error));
    cf_status status;
    if (file.n_bytes > max_bytes)
        status = cf_fail(error, CF_STATUS_BAD_FILE, "%s: %zu bytes, at most %zu are read", path,
                         file.n_bytes, max_bytes);
    else
        status = cf_json_parse(file.data, file.n_bytes, path, value, error);
    cf_file_unmap(&file);
    return status;
}

const char *cf_json_kind(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "unknown";
}
