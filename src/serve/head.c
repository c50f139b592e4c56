#include "serve/head.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#define MAX_DIGITS 18 /* of a length that still fits into 64 bits */

/* A part of the head. */
typedef struct span {
    const char *data;
    size_t n;
} span;

static bool wrong(cf_fault *fault, const char *what)
{
    return cf_fault_set(fault, 400, NULL, "invalid_http", "the request is not HTTP/1.1: %s", what);
}

static bool is_token(span word)
{
    for (size_t i = 0; i < word.n; i++) {
        unsigned char c = (unsigned char)word.data[i];
        if (!isalnum(c) && (c == 0 || strchr("!#$%&'*+-.^_`|~", c) == NULL))
            return false;
    }
    return word.n > 0;
}

/* No control characters but the tab. */
static bool is_text(span value)
{
    for (size_t i = 0; i < value.n; i++) {
        unsigned char c = (unsigned char)value.data[i];
        if ((c < ' ' && c != '\t') || c == 0x7F)
            return false;
    }
    return true;
}

static bool is_word(span value, const char *word)
{
    return value.n == strlen(word) && strncasecmp(value.data, word, value.n) == 0;
}

static span trim_front(span value)
{
    while (value.n > 0 && (*value.data == ' ' || *value.data == '\t'))
        value = (span){value.data + 1, value.n - 1};
    return value;
}

static span trim(span value)
{
    value = trim_front(value);
    while (value.n > 0 && (value.data[value.n - 1] == ' ' || value.data[value.n - 1] == '\t'))
        value.n--;
    return value;
}

/* Cuts off what is before `mark`, and the mark; a span without data if it is not there. */
static span cut(span *rest, char mark)
{
    const char *end = rest->n > 0 ? memchr(rest->data, mark, rest->n) : NULL;
    if (end == NULL)
        return (span){NULL, 0};
    span before = {rest->data, (size_t)(end - rest->data)};
    *rest = (span){end + 1, rest->n - before.n - 1};
    return before;
}

static bool check_request_line(span line, cf_head_facts *found, cf_fault *fault)
{
    span method = cut(&line, ' '), target = cut(&line, ' ');
    if (method.data == NULL || target.data == NULL || !is_token(method))
        return wrong(fault, "expected METHOD TARGET HTTP/1.1 in its first line");
    if (target.n == 0 || !is_text(target) || memchr(target.data, '\t', target.n) != NULL)
        return wrong(fault, "the target in its first line has characters that none may have");
    found->is_http_1_0 = line.n == 8 && memcmp(line.data, "HTTP/1.0", 8) == 0;
    if (!found->is_http_1_0 && (line.n != 8 || memcmp(line.data, "HTTP/1.1", 8) != 0))
        return wrong(fault, "expected HTTP/1.1 or HTTP/1.0 at the end of its first line");
    return true;
}

/* White space after the digits would be HTTP, but the library behind this takes none. */
static bool check_length(span value, cf_head_facts *found, cf_fault *fault)
{
    if (trim(value).n < value.n)
        return wrong(fault, "Content-Length has white space after its number");
    for (size_t i = 0; i < value.n; i++)
        if (!isdigit((unsigned char)value.data[i]))
            return wrong(fault, "Content-Length is not a number");
    if (value.n == 0)
        return wrong(fault, "Content-Length is not a number");
    if (found->length != NULL &&
        (value.n != found->n_length || memcmp(value.data, found->length, value.n) != 0))
        return wrong(fault, "it has two values of Content-Length");
    found->length = value.data;
    found->n_length = value.n;
    return value.n <= MAX_DIGITS ||
           cf_fault_set(fault, 413, NULL, "body_too_large", "a body of %.*s bytes",
                        (int)(value.n < 40 ? value.n : 40), value.data);
}

static bool check_field(span name, span value, cf_head_facts *found, cf_fault *fault)
{
    if (name.data == NULL || !is_token(name))
        return wrong(fault, "expected NAME: VALUE in each header");
    if (!is_text(value))
        return wrong(fault, "a header has control characters");
    if (++found->n_fields > CF_MAX_HEAD_FIELDS)
        return cf_fault_set(fault, 413, NULL, "head_too_large", "more than %d headers",
                            CF_MAX_HEAD_FIELDS);
    if (is_word(name, "Host")) {
        if (found->has_host)
            return wrong(fault, "it has two headers Host");
        found->has_host = true;
    } else if (is_word(name, "Content-Length")) {
        return check_length(value, found, fault);
    } else if (is_word(name, "Transfer-Encoding")) {
        if (!is_word(trim(value), "chunked") || found->has_coding)
            return wrong(fault, "expected chunked as its Transfer-Encoding");
        found->has_coding = true;
    }
    return true;
}

bool cf_head_field(cf_head_facts *found, const char *name, size_t n_name, const char *value,
                   size_t n_value, cf_fault *fault)
{
    return check_field((span){name, n_name}, (span){value, n_value}, found, fault);
}

static bool check_line(span line, cf_head_facts *found, cf_fault *fault)
{
    if (*line.data == ' ' || *line.data == '\t')
        return wrong(fault, "a header goes on in the next line");
    span name = cut(&line, ':');
    return check_field(name, trim_front(line), found, fault);
}

bool cf_head_end(const cf_head_facts *found, cf_fault *fault)
{
    if (!found->has_host && !found->is_http_1_0)
        return wrong(fault, "it has no header Host");
    if (found->has_coding && found->is_http_1_0)
        return wrong(fault, "HTTP/1.0 has no Transfer-Encoding");
    if (found->has_coding && found->length != NULL)
        return wrong(fault, "it has both Content-Length and Transfer-Encoding");
    return true;
}

/* A line that has not ended may still be seen to be wrong: a client that speaks TLS sends no end.
 */
static bool check_beginning(span rest, cf_fault *fault)
{
    if (rest.n > 0 && rest.data[rest.n - 1] == '\r')
        rest.n--;
    return is_text(rest) || wrong(fault, "it has control characters");
}

cf_head cf_head_check(const char *data, size_t n_bytes, cf_fault *fault)
{
    span rest = {data, n_bytes};
    cf_head_facts found = {0};
    bool is_first = true;
    for (span line; (line = cut(&rest, '\n')).data != NULL;) {
        if (line.n > 0 && line.data[line.n - 1] == '\r')
            line.n--;
        bool is_fine = true;
        if (line.n > 0 && is_first)
            is_fine = check_request_line(line, &found, fault);
        else if (line.n > 0)
            is_fine = check_line(line, &found, fault);
        else if (!is_first) /* empty lines before a request are nothing */
            return cf_head_end(&found, fault) ? CF_HEAD_WHOLE : CF_HEAD_WRONG;
        if (!is_fine)
            return CF_HEAD_WRONG;
        is_first = is_first && line.n == 0;
    }
    if (!check_beginning(rest, fault))
        return CF_HEAD_WRONG;
    if (n_bytes < CF_MAX_HEAD_BYTES)
        return CF_HEAD_PARTIAL;
    cf_fault_set(fault, 413, NULL, "head_too_large", "headers of more than %d bytes",
                 CF_MAX_HEAD_BYTES);
    return CF_HEAD_WRONG;
}
