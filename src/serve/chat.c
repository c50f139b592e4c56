#include "serve/chat.h"

#include "base/json.h"
#include "base/status.h"
#include "serve/fields.h"
#include "serve/sink.h"

#include <stdlib.h>
#include <string.h>

#define ROLE "{role}"
#define CONTENT "{content}"
#define MAX_MESSAGES 4096

cf_status cf_chat_check(const char *chat_template, cf_error *error)
{
    const char *content = strstr(chat_template, CONTENT);
    if (content == NULL || strstr(content + 1, CONTENT) != NULL)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "--chat-template: expected one " CONTENT ", found %s",
                       content == NULL ? "none" : "more");
    return CF_STATUS_OK;
}

/* Text between two places of the template, with the role in place of its mark. */
static void append_filled(cf_sink *sink, const char *begin, const char *end, const char *role)
{
    while (begin < end) {
        const char *mark = strstr(begin, ROLE);
        if (mark == NULL || mark >= end) {
            cf_sink_append(sink, begin, (size_t)(end - begin));
            return;
        }
        cf_sink_append(sink, begin, (size_t)(mark - begin));
        cf_sink_text(sink, role);
        begin = mark + strlen(ROLE);
    }
}

static const char *content_mark(const char *chat_template)
{
    return strstr(chat_template, CONTENT);
}

static const char *after_content(const char *chat_template)
{
    return content_mark(chat_template) + strlen(CONTENT);
}

/* ---- Messages ---- */

/* A content is a string, or parts of which only text is understood. */
static bool append_content(const json_t *content, cf_sink *sink, cf_fault *fault)
{
    if (json_is_string(content)) {
        cf_sink_append(sink, json_string_value(content), json_string_length(content));
        return true;
    }
    if (!json_is_array(content))
        return content == NULL ? cf_fault_set(fault, 400, "messages", "missing_field",
                                              "messages: expected a content in each")
                               : cf_field_wrong("messages", "text as the content", content, fault);
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i);
        const json_t *text = json_is_object(part) ? cf_field(part, "text") : NULL;
        if (!json_is_string(text))
            return cf_fault_set(fault, 400, "messages", "unsupported",
                                "messages: only parts of type text are understood");
        cf_sink_append(sink, json_string_value(text), json_string_length(text));
    }
    return true;
}

static bool append_message(const json_t *message, const char *chat_template, cf_sink *sink,
                           cf_fault *fault)
{
    if (!json_is_object(message))
        return cf_field_wrong("messages", "objects in the list", message, fault);
    const json_t *role = cf_field(message, "role");
    if (!json_is_string(role) || strlen(json_string_value(role)) != json_string_length(role))
        return cf_fault_set(fault, 400, "messages", "invalid_type",
                            "messages: expected a role, a string, in each");
    const char *name = json_string_value(role), *end = chat_template + strlen(chat_template);
    append_filled(sink, chat_template, content_mark(chat_template), name);
    if (!append_content(cf_field(message, "content"), sink, fault))
        return false;
    append_filled(sink, after_content(chat_template), end, name);
    return true;
}

static bool append_messages(const json_t *root, const char *chat_template, cf_sink *sink,
                            cf_fault *fault)
{
    const json_t *messages = cf_field(root, "messages");
    if (!json_is_array(messages))
        return messages == NULL ? cf_fault_set(fault, 400, "messages", "missing_field",
                                               "messages: expected a list, found nothing")
                                : cf_field_wrong("messages", "a list of messages", messages, fault);
    size_t n = json_array_size(messages);
    if (n == 0 || n > MAX_MESSAGES)
        return cf_fault_set(fault, 400, "messages", "invalid_value",
                            "messages: expected 1 to %d, found %zu", MAX_MESSAGES, n);
    for (size_t i = 0; i < n; i++) {
        if (!append_message(json_array_get(messages, i), chat_template, sink, fault))
            return false;
    }
    return true;
}

/* ---- Requests ---- */

static bool no_memory(cf_fault *fault)
{
    return cf_fault_set(fault, 503, NULL, "out_of_memory", "not enough memory for the request");
}

/* The words after which it would be the user's turn. */
static bool add_stop(const char *chat_template, cf_request *request, cf_fault *fault)
{
    cf_sink stop = {0};
    append_filled(&stop, after_content(chat_template), chat_template + strlen(chat_template),
                  "assistant");
    append_filled(&stop, chat_template, content_mark(chat_template), "user");
    cf_sink_append(&stop, "", 1);
    if (stop.is_short) {
        cf_sink_free(&stop);
        return no_memory(fault);
    }
    if (stop.n > 1 && request->n_stops < CF_MAX_STOPS)
        request->stops[request->n_stops++] = stop.data;
    else
        cf_sink_free(&stop);
    return true;
}

/* Answers to chats have no length unless it is asked for: they end with the turn. */
static bool read_max_tokens(const json_t *root, const cf_request_limits *limits,
                            cf_request *request, cf_fault *fault)
{
    int64_t max_tokens = (int64_t)limits->n_context;
    bool is_read =
        cf_field_integer(root, "max_tokens", 0, INT32_MAX, &max_tokens, fault) &&
        cf_field_integer(root, "max_completion_tokens", 0, INT32_MAX, &max_tokens, fault);
    request->max_tokens = (size_t)max_tokens;
    return is_read;
}

static bool read_chat(const json_t *root, const char *chat_template,
                      const cf_request_limits *limits, cf_request *request, cf_fault *fault)
{
    cf_sink text = {0};
    bool is_read = append_messages(root, chat_template, &text, fault);
    append_filled(&text, chat_template, content_mark(chat_template), "assistant");
    /* A space before the answer is a part of its first token. */
    while (text.n > 0 && !text.is_short && text.data[text.n - 1] == ' ')
        text.n--;
    if (is_read && text.is_short)
        is_read = no_memory(fault);
    is_read = is_read && cf_request_set_text(request, text.n > 0 ? text.data : "", text.n, fault);
    cf_sink_free(&text);
    return is_read && cf_request_read_common(root, limits, request, fault) &&
           read_max_tokens(root, limits, request, fault) && add_stop(chat_template, request, fault);
}

bool cf_chat_parse(const char *body, size_t n_bytes, const char *chat_template,
                   const cf_request_limits *limits, cf_request *request, cf_fault *fault)
{
    *request = (cf_request){.is_chat = true};
    json_t *root = cf_body_parse(body, n_bytes, fault);
    if (root == NULL)
        return false;
    bool is_read = read_chat(root, chat_template, limits, request, fault);
    json_decref(root);
    return is_read;
}
