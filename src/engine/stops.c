#include "engine/stops.h"

#include "base/memory.h"
#include "engine/arguments.h"

#include <assert.h>
#include <string.h>
#include <utf8proc.h>

static bool is_utf8(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t character;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                                   (utf8proc_ssize_t)(n - i), &character);
        if (length <= 0)
            return false;
        i += (size_t)length;
    }
    return true;
}

/* The table of Knuth, Morris and Pratt: where a match goes on after it ends or fails. */
static void find_borders(cf_stop *stop)
{
    size_t border = 0;
    for (size_t i = 1; i < stop->n; i++) {
        while (border > 0 && stop->text[i] != stop->text[border])
            border = stop->borders[border];
        border += stop->text[i] == stop->text[border];
        stop->borders[i + 1] = border;
    }
}

static cf_status copy_stop(cf_stop *stop, const char *text, size_t index, cf_error *error)
{
    if (text == NULL)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "stop string %zu is NULL", index);
    if (text[0] == 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "stop string %zu is empty", index);
    stop->n = strlen(text);
    if (!is_utf8(text, stop->n))
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "stop string %zu is not UTF-8", index);
    CF_TRY(CF_ALLOC(&stop->text, stop->n, "stop string", error));
    CF_TRY(CF_ALLOC(&stop->borders, stop->n + 1, "stop string", error));
    memcpy(stop->text, text, stop->n);
    find_borders(stop);
    return CF_STATUS_OK;
}

static cf_status copy_stops(cf_stops *stops, const char *const *texts, size_t n, size_t most_bytes,
                            cf_error *error)
{
    CF_TRY(CF_ALLOC(&stops->stops, n, "stop strings", error));
    size_t longest = 0;
    for (size_t i = 0; i < n; i++) {
        stops->n = i + 1;
        CF_TRY(copy_stop(&stops->stops[i], texts[i], i, error));
        longest = stops->stops[i].n > longest ? stops->stops[i].n : longest;
    }
    stops->capacity = longest + most_bytes;
    return CF_ALLOC(&stops->text, stops->capacity, "held text", error);
}

cf_status cf_stops_create(const char *const *texts, size_t n, size_t most_bytes, cf_stops *stops,
                          cf_error *error)
{
    *stops = (cf_stops){0};
    if (n > 0)
        CF_NEED(texts, error);
    cf_status status = copy_stops(stops, texts, n, most_bytes, error);
    if (status != CF_STATUS_OK)
        cf_stops_free(stops);
    return status;
}

void cf_stops_free(cf_stops *stops)
{
    for (size_t i = 0; i < stops->n; i++) {
        cf_dealloc(stops->stops[i].text);
        cf_dealloc(stops->stops[i].borders);
    }
    cf_dealloc(stops->stops);
    cf_dealloc(stops->text);
    *stops = (cf_stops){0};
}

/* Moves on by one byte; whether the stop string is complete. */
static bool advance(cf_stop *stop, char byte)
{
    while (stop->matched > 0 && (stop->matched == stop->n || stop->text[stop->matched] != byte))
        stop->matched = stop->borders[stop->matched];
    stop->matched += stop->text[stop->matched] == byte;
    return stop->matched == stop->n;
}

/* The length of the longest stop string that ends with this byte; 0: none does. */
static size_t advance_all(cf_stops *stops, char byte)
{
    size_t longest = 0;
    for (size_t i = 0; i < stops->n; i++)
        if (advance(&stops->stops[i], byte) && stops->stops[i].n > longest)
            longest = stops->stops[i].n;
    return longest;
}

/* What of the text's end may become a stop string. A complete one that was passed goes on from its
 * border. */
static size_t count_open(const cf_stops *stops)
{
    size_t longest = 0;
    for (size_t i = 0; i < stops->n; i++) {
        const cf_stop *stop = &stops->stops[i];
        size_t n = stop->matched == stop->n ? stop->borders[stop->n] : stop->matched;
        longest = n > longest ? n : longest;
    }
    return longest;
}

static void give(cf_stops *stops, size_t n_given, size_t n_held, const char **text, size_t *n_text)
{
    stops->n_given = n_given;
    stops->n_held = n_held;
    *text = stops->text;
    *n_text = n_given;
}

bool cf_stops_push(cf_stops *stops, const char *piece, size_t n_bytes, bool pass, const char **text,
                   size_t *n_text)
{
    memmove(stops->text, stops->text + stops->n_given, stops->n_held);
    size_t n = stops->n_held;
    assert(n_bytes <= stops->capacity - n);
    for (size_t i = 0; i < n_bytes; i++) {
        stops->text[n++] = piece[i];
        size_t n_found = advance_all(stops, piece[i]);
        if (n_found > 0 && !pass) {
            give(stops, n - n_found, 0, text, n_text);
            return true;
        }
    }
    size_t n_open = count_open(stops);
    give(stops, n - n_open, n_open, text, n_text);
    return false;
}

bool cf_stops_finish(cf_stops *stops, const char *piece, size_t n_bytes, bool pass,
                     const char **text, size_t *n_text)
{
    if (cf_stops_push(stops, piece, n_bytes, pass, text, n_text))
        return true;
    give(stops, stops->n_given + stops->n_held, 0, text, n_text);
    return false;
}
