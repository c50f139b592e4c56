#include "cli/output.h"

#include "base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

/* The first failure's reason: stdio keeps only the fact. */
static int output_errno;

void cf_output_begin(void)
{
    signal(SIGPIPE, SIG_IGN);
    /* open() takes the lowest free number: each missing one is filled by something that fails. */
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
            return;
    }
}

bool cf_output_flush(void)
{
    if (fflush(stdout) != 0 && output_errno == 0)
        output_errno = errno;
    return !ferror(stdout);
}

cf_status cf_output_finish(cf_error *error)
{
    bool whole = cf_output_flush();
    if (fclose(stdout) != 0 && output_errno == 0)
        output_errno = errno;
    if (whole && output_errno == 0)
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_IO, "writing to stdout: %s",
                   output_errno != 0 ? strerror(output_errno) : "failed");
}

json_t *cf_json_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *cf_json_ids(const cf_token *ids, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++) {
        if (json_array_append_new(array, json_integer(ids[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

json_t *cf_json_path(const char *bytes)
{
    if (bytes == NULL)
        return json_null();
    size_t n = strlen(bytes), n_written = 0;
    char *text = malloc(3 * n + 1); /* U+FFFD has 3 bytes */
    for (size_t i = 0; text != NULL && i < n;) {
        utf8proc_uint8_t *out = (utf8proc_uint8_t *)text + n_written;
        utf8proc_int32_t code;
        utf8proc_ssize_t n_bytes =
            utf8proc_iterate((const utf8proc_uint8_t *)bytes + i, (utf8proc_ssize_t)(n - i), &code);
        bool is_character = n_bytes > 0;
        n_written += (size_t)utf8proc_encode_char(is_character ? code : 0xFFFD, out);
        i += is_character ? (size_t)n_bytes : 1;
    }
    json_t *string = text != NULL ? json_stringn(text, n_written) : NULL;
    free(text);
    return string;
}

cf_status cf_json_print(json_t *value, cf_error *error)
{
    if (value == NULL)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "building the JSON output");
    int result = json_dumpf(value, stdout, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    if (result != 0 && output_errno == 0)
        output_errno = errno;
    json_decref(value);
    putchar('\n');
    return CF_STATUS_OK;
}
