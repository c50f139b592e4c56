#include "serve/fault.h"

#include "serve/sink.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A message may quote the client's text, cut anywhere. */
static void trim_to_utf8(char *message)
{
    size_t n = strlen(message);
    for (int i = 0; i < 4 && n > 0 && !cf_text_is_utf8(message, n); i++)
        message[--n] = 0;
}

bool cf_fault_set(cf_fault *fault, int http, const char *param, const char *code,
                  const char *format, ...)
{
    *fault = (cf_fault){.http = http, .param = param, .code = code};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault->message, sizeof fault->message, format, arguments);
    va_end(arguments);
    trim_to_utf8(fault->message);
    return false;
}

bool cf_fault_from_error(cf_fault *fault, const cf_error *error)
{
    int http = cf_status_http(error->status);
    const char *code = NULL;
    if (error->status == CF_STATUS_CONTEXT_FULL)
        code = "context_length_exceeded";
    return cf_fault_set(fault, http == 400 ? 400 : 503, NULL, code, "%s", error->message);
}

static const char *type_of(int http)
{
    switch (http) {
    case 401:
        return "authentication_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "server_error";
    default:
        return "invalid_request_error";
    }
}

json_t *cf_fault_json(const cf_fault *fault)
{
    return json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", fault->message, "type",
                     type_of(fault->http), "param", fault->param, "code", fault->code);
}
