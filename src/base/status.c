#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Cuts an unfinished UTF-8 character off the end of a message that filled its array. */
static void trim_partial_character(char *message, size_t capacity)
{
    size_t end = strnlen(message, capacity - 1);
    message[end] = 0;
    if (end + 1 < capacity)
        return;
    size_t start = end;
    while (start > 0 && ((unsigned char)message[start - 1] & 0xC0) == 0x80)
        start--;
    if (start > 0 && (unsigned char)message[start - 1] >= 0xC0)
        message[start - 1] = 0;
}

cf_status cf_fail(cf_error *error, cf_status status, const char *format, ...)
{
    if (error == NULL)
        return status;
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    trim_partial_character(error->message, sizeof error->message);
    return status;
}

cf_status cf_fail_within(cf_error *error, cf_status status, const char *prefix)
{
    if (error == NULL)
        return status;
    cf_error inner = *error;
    return cf_fail(error, status, "%s: %s", prefix, inner.message);
}

const char *cf_status_text(cf_status status)
{
    switch (status) {
#define CF_CASE(name, value, http, python, text)                                                   \
    case CF_STATUS_##name:                                                                         \
        return text;
        CF_STATUS_LIST(CF_CASE)
#undef CF_CASE
    }
    return "unknown status";
}

int cf_status_http(cf_status status)
{
    switch (status) {
#define CF_CASE(name, value, http, python, text)                                                   \
    case CF_STATUS_##name:                                                                         \
        return http;
        CF_STATUS_LIST(CF_CASE)
#undef CF_CASE
    }
    return 500;
}

const char *cf_status_python(cf_status status)
{
    switch (status) {
#define CF_CASE(name, value, http, python, text)                                                   \
    case CF_STATUS_##name:                                                                         \
        return #python;
        CF_STATUS_LIST(CF_CASE)
#undef CF_CASE
    }
    return "RuntimeError";
}
