#include "text/normalize.h"

#include "base/status.h"
#include "text/utf8.h"

#include <string.h>
#include <utf8proc.h>

typedef struct range {
    uint32_t first, last;
} range;

/*
 * Common blocks of plain characters: starters that are their own normal form and never compose with
 * what stands before them. Those that are missing here only cost time. Everything below U+0300 is
 * plain too. U+11A7 must be here: utf8proc takes it for a Hangul final consonant, and drops it.
 */
static const range plain_ranges[] = {
    {0x0388, 0x0482},   /* Greek, Cyrillic */
    {0x1176, 0x11A7},   /* Hangul vowels that compose with nothing */
    {0x2010, 0x2027},   /* dashes, quotation marks */
    {0x3041, 0x3096},   /* Hiragana */
    {0x30A0, 0x30FF},   /* Katakana */
    {0x4E00, 0x9FFF},   /* CJK ideographs */
    {0xAC00, 0xD7A3},   /* Hangul syllables */
    {0x1F000, 0x1FAFF}, /* emoji */
};

/*
 * What Unicode 10 to 17 brought that would move or compose, with inert neighbours. The reference
 * tokenizer normalizes by Unicode 9, for which these are unassigned: nothing crosses them.
 */
static const range opaque_ranges[] = {
    {0x05C8, 0x05C9},   {0x07FD, 0x07FD},   {0x0897, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x1715, 0x1715},
    {0x1ABF, 0x1AF0},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x105C0, 0x105FF},
    {0x10D24, 0x10D6D}, {0x10EAB, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x11380, 0x113FF}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930},
    {0x1193D, 0x11A99}, {0x11D42, 0x11D97}, {0x11F41, 0x11F42}, {0x16100, 0x1613F},
    {0x16D40, 0x16D7F}, {0x16FF0, 0x16FF1}, {0x1D127, 0x1D128}, {0x1D250, 0x1D281},
    {0x1E08F, 0x1E136}, {0x1E2AE, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF},
    {0x1E6E3, 0x1E6F5},
};

static bool in_ranges(uint32_t code, const range *ranges, size_t n_ranges)
{
    size_t low = 0, high = n_ranges;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n_ranges && code >= ranges[low].first;
}

#define IN_RANGES(code, ranges) in_ranges(code, ranges, sizeof(ranges) / sizeof *(ranges))

typedef enum char_kind {
    KIND_PLAIN,  /* begins a segment */
    KIND_OPAQUE, /* is a segment of its own, and stays as it is */
    KIND_MOVING, /* all others: may change, move or compose */
} char_kind;

static char_kind kind_of(uint32_t code)
{
    if (code < 0x300 || IN_RANGES(code, plain_ranges))
        return KIND_PLAIN;
    return IN_RANGES(code, opaque_ranges) ? KIND_OPAQUE : KIND_MOVING;
}

static uint8_t combining_class(int32_t code)
{
    return (uint8_t)utf8proc_get_property(code)->combining_class;
}

/* Decomposes the characters of a segment into `codes`; returns how many there are. */
static cf_status decompose(cf_normalizer *normalizer, const char *text, size_t n_bytes,
                           size_t *n_codes, cf_error *error)
{
    /* Each byte at least would do for ASCII; no canonical decomposition is longer than 4. */
    CF_TRY(cf_buffer_reserve(&normalizer->codes, n_bytes * 4 * sizeof(int32_t), "normalization",
                             error));
    int32_t *codes = normalizer->codes.data;
    size_t n = 0;
    for (const char *s = text, *end = text + n_bytes; s < end;) {
        int boundary = 0;
        utf8proc_ssize_t length =
            utf8proc_decompose_char((utf8proc_int32_t)cf_utf8_take(&s), codes + n, 4,
                                    UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
        n += (size_t)length;
    }
    *n_codes = n;
    return CF_STATUS_OK;
}

/* Stable counting sort of n marks by combining class: long runs are as cheap as short ones. */
static cf_status sort_marks(cf_normalizer *normalizer, int32_t *marks, size_t n, cf_error *error)
{
    size_t place[256] = {0};
    CF_TRY(cf_buffer_reserve(&normalizer->sorted, n * sizeof *marks, "normalization", error));
    int32_t *sorted = normalizer->sorted.data;
    for (size_t i = 0; i < n; i++)
        place[combining_class(marks[i])]++;
    for (size_t class = 0, start = 0; class < 256; class ++) {
        size_t count = place[class];
        place[class] = start;
        start += count;
    }
    for (size_t i = 0; i < n; i++)
        sorted[place[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, sorted, n * sizeof *marks);
    return CF_STATUS_OK;
}

/* Canonical order: each run of marks (combining class not 0) sorted by class. */
static cf_status order_marks(cf_normalizer *normalizer, size_t n_codes, cf_error *error)
{
    int32_t *codes = normalizer->codes.data;
    for (size_t start = 0; start < n_codes; start++) {
        bool sorted = true;
        size_t end = start;
        for (uint8_t previous = 0, class; end < n_codes; end++, previous = class) {
            class = combining_class(codes[end]);
            if (class == 0)
                break;
            sorted = sorted && class >= previous;
        }
        if (!sorted)
            CF_TRY(sort_marks(normalizer, codes + start, end - start, error));
        start = end;
    }
    return CF_STATUS_OK;
}

static cf_status append_text(cf_normalizer *normalizer, const char *text, size_t n_bytes,
                             cf_error *error)
{
    return cf_buffer_append(&normalizer->text, text, n_bytes, "normalization", error);
}

/* Appends the normal form of a segment to the result. */
static cf_status append_segment(cf_normalizer *normalizer, const char *text, size_t n_bytes,
                                cf_error *error)
{
    size_t n_codes = 0;
    CF_TRY(decompose(normalizer, text, n_bytes, &n_codes, error));
    CF_TRY(order_marks(normalizer, n_codes, error));
    int32_t *codes = normalizer->codes.data;
    utf8proc_ssize_t n_composed = utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n_codes,
                                                           UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    cf_buffer *out = &normalizer->text;
    CF_TRY(cf_buffer_reserve(out, out->n_bytes + (size_t)n_composed * CF_UTF8_MAX_BYTES,
                             "normalization", error));
    for (utf8proc_ssize_t i = 0; i < n_composed; i++)
        out->n_bytes += cf_utf8_write((char *)out->data + out->n_bytes, (uint32_t)codes[i]);
    return CF_STATUS_OK;
}

/*
 * Cuts the text into segments that normalize on their own: each begins with a plain character, or
 * behind an opaque one. Segments of nothing else are copied together, or not at all when the whole
 * text is such.
 */
cf_status cf_normalize(cf_normalizer *normalizer, const char *text, size_t n_bytes,
                       const char **normalized, size_t *n_normalized, cf_error *error)
{
    normalizer->text.n_bytes = 0;
    *normalized = text;
    *n_normalized = n_bytes;
    const char *copied = text, *start = text, *s = text, *end = text + n_bytes;
    bool settled = true; /* nothing from `start` on needs work */
    for (const char *at = s;; at = s) {
        char_kind kind = at < end ? kind_of(cf_utf8_take(&s)) : KIND_PLAIN;
        if (kind == KIND_MOVING) {
            settled = false;
            continue;
        }
        if (!settled) {
            CF_TRY(append_text(normalizer, copied, (size_t)(start - copied), error));
            CF_TRY(append_segment(normalizer, start, (size_t)(at - start), error));
            copied = at;
        }
        if (at == end)
            break;
        start = kind == KIND_OPAQUE ? s : at;
        settled = true;
    }
    if (copied == text)
        return CF_STATUS_OK;
    CF_TRY(append_text(normalizer, copied, (size_t)(end - copied), error));
    *normalized = normalizer->text.data;
    *n_normalized = normalizer->text.n_bytes;
    return CF_STATUS_OK;
}

void cf_normalizer_free(cf_normalizer *normalizer)
{
    cf_buffer_free(&normalizer->text);
    cf_buffer_free(&normalizer->codes);
    cf_buffer_free(&normalizer->sorted);
}
