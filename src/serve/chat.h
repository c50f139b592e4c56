/*
 * Chats as text. A template is what one message becomes, with {role} and {content} in it: for
 * example "{role}: {content}\n".
 */
#ifndef CF_SERVE_CHAT_H
#define CF_SERVE_CHAT_H

#include "serve/request.h"

/* INVALID_ARGUMENT unless the template has exactly one {content}. */
cf_status cf_chat_check(const char *chat_template, cf_error *error);

/*
 * Reads the body of POST /v1/chat/completions: the messages become one prompt, in the template's
 * form, that ends where the assistant's words begin; what the template puts after them, and before
 * the user's next, ends the answer. Errors and release as cf_request_parse().
 */
bool cf_chat_parse(const char *body, size_t n_bytes, const char *chat_template,
                   const cf_request_limits *limits, cf_request *request, cf_fault *fault);

#endif
