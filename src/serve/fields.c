#include "serve/fields.h"

#include "base/json.h"

const json_t *cf_field(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

bool cf_field_wrong(const char *name, const char *expected, const json_t *found, cf_fault *fault)
{
    return cf_fault_set(fault, 400, name, "invalid_type", "%s: expected %s, found %s", name,
                        expected, cf_json_kind(found));
}

bool cf_field_bool(const json_t *object, const char *name, bool *value, cf_fault *fault)
{
    const json_t *field = cf_field(object, name);
    if (field == NULL)
        return true;
    if (!json_is_boolean(field))
        return cf_field_wrong(name, "true or false", field, fault);
    *value = json_is_true(field);
    return true;
}

bool cf_field_integer(const json_t *object, const char *name, int64_t min, int64_t max,
                      int64_t *value, cf_fault *fault)
{
    const json_t *field = cf_field(object, name);
    if (field == NULL)
        return true;
    if (!json_is_integer(field))
        return cf_field_wrong(name, "an integer", field, fault);
    int64_t number = json_integer_value(field);
    if (number < min || number > max)
        return cf_fault_set(fault, 400, name, "invalid_value",
                            "%s: expected an integer from %lld to %lld, found %lld", name,
                            (long long)min, (long long)max, (long long)number);
    *value = number;
    return true;
}

bool cf_field_real(const json_t *object, const char *name, double min, double max, float *value,
                   cf_fault *fault)
{
    const json_t *field = cf_field(object, name);
    if (field == NULL)
        return true;
    if (!json_is_number(field))
        return cf_field_wrong(name, "a number", field, fault);
    double number = json_number_value(field);
    if (!(number >= min && number <= max))
        return cf_fault_set(fault, 400, name, "invalid_value",
                            "%s: expected a number from %g to %g, found %g", name, min, max,
                            number);
    *value = (float)number;
    return true;
}

/* A number out of bounds is JSON all the same, but no parser's number: its field is not known. */
static bool refuse_text(const json_error_t *wrong, cf_fault *fault)
{
    if (json_error_code(wrong) == json_error_numeric_overflow)
        return cf_fault_set(fault, 400, NULL, "invalid_value",
                            "line %d, column %d: expected integers of 64 bits and reals of double "
                            "precision, found a larger number",
                            wrong->line, wrong->column);
    return cf_fault_set(fault, 400, NULL, "invalid_json",
                        "the body is not JSON: line %d, column %d: %s", wrong->line, wrong->column,
                        wrong->text);
}

json_t *cf_body_parse(const char *body, size_t n_bytes, cf_fault *fault)
{
    json_error_t wrong;
    json_t *root = json_loadb(n_bytes > 0 ? body : "", n_bytes,
                              JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &wrong);
    if (root == NULL) {
        refuse_text(&wrong, fault);
        return NULL;
    }
    if (json_is_object(root))
        return root;
    cf_fault_set(fault, 400, NULL, "invalid_json", "the body is %s, expected an object",
                 cf_json_kind(root));
    json_decref(root);
    return NULL;
}
