#include "checkpoint/pickle.h"

#include <string.h>

const char *cf_value_kind_text(const cf_value *value)
{
    switch (value->kind) {
    case CF_VALUE_NONE:
        return "None";
    case CF_VALUE_BOOL:
        return "a boolean";
    case CF_VALUE_INT:
        return value->integer < 0 ? "a negative integer" : "an integer";
    case CF_VALUE_LONG:
        return "an integer beyond 64 bits";
    case CF_VALUE_FLOAT:
        return "a real number";
    case CF_VALUE_TEXT:
        return "a string";
    case CF_VALUE_GLOBAL:
        return value->global->name;
    case CF_VALUE_TUPLE:
        return "a tuple";
    case CF_VALUE_LIST:
        return "a list";
    case CF_VALUE_DICT:
        return "a dict";
    case CF_VALUE_STORAGE:
        return "a storage";
    case CF_VALUE_TENSOR:
        return "a tensor";
    }
    return "unknown";
}

bool cf_value_is_text(const cf_value *value, const char *text)
{
    size_t n = strlen(text);
    return value->kind == CF_VALUE_TEXT && value->text.n_bytes == n &&
           memcmp(value->text.bytes, text, n) == 0;
}

const cf_value *cf_value_get(const cf_value *dict, const char *key)
{
    if (dict->kind == CF_VALUE_DICT)
        for (size_t i = 0; i + 1 < dict->list.n; i += 2)
            if (cf_value_is_text(dict->list.items[i], key))
                return dict->list.items[i + 1];
    return NULL;
}
