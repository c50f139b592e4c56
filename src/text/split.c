#include "text/split.h"

#include "text/utf8.h"

#include <string.h>
#include <utf8proc.h>

typedef enum char_class {
    CLASS_OTHER,
    CLASS_LETTER,
    CLASS_NUMBER,
    CLASS_SPACE,
} char_class;

typedef struct late_range {
    uint32_t first, last;
    char_class class;
} late_range;

/*
 * Letters and numbers of Unicode 15.1 and 16, which the reference tokenizer knows and older
 * versions of utf8proc do not. Sorted.
 */
static const late_range late_ranges[] = {
    {0x1C89, 0x1C8A, CLASS_LETTER},   {0xA7CB, 0xA7CD, CLASS_LETTER},
    {0xA7DA, 0xA7DC, CLASS_LETTER},   {0x105C0, 0x105F3, CLASS_LETTER},
    {0x10D40, 0x10D49, CLASS_NUMBER}, {0x10D4A, 0x10D65, CLASS_LETTER},
    {0x10D6F, 0x10D85, CLASS_LETTER}, {0x10EC2, 0x10EC4, CLASS_LETTER},
    {0x11380, 0x11389, CLASS_LETTER}, {0x1138B, 0x1138B, CLASS_LETTER},
    {0x1138E, 0x1138E, CLASS_LETTER}, {0x11390, 0x113B5, CLASS_LETTER},
    {0x113B7, 0x113B7, CLASS_LETTER}, {0x113D1, 0x113D1, CLASS_LETTER},
    {0x113D3, 0x113D3, CLASS_LETTER}, {0x116D0, 0x116E3, CLASS_NUMBER},
    {0x11BC0, 0x11BE0, CLASS_LETTER}, {0x11BF0, 0x11BF9, CLASS_NUMBER},
    {0x13460, 0x143FA, CLASS_LETTER}, {0x16100, 0x1611D, CLASS_LETTER},
    {0x16130, 0x16139, CLASS_NUMBER}, {0x16D40, 0x16D6C, CLASS_LETTER},
    {0x16D70, 0x16D79, CLASS_NUMBER}, {0x18CFF, 0x18CFF, CLASS_LETTER},
    {0x1CCF0, 0x1CCF9, CLASS_NUMBER}, {0x1E5D0, 0x1E5ED, CLASS_LETTER},
    {0x1E5F0, 0x1E5F0, CLASS_LETTER}, {0x1E5F1, 0x1E5FA, CLASS_NUMBER},
    {0x2EBF0, 0x2EE5D, CLASS_LETTER},
};

static char_class late_class(uint32_t code)
{
    for (size_t i = 0; i < sizeof late_ranges / sizeof *late_ranges; i++)
        if (code >= late_ranges[i].first && code <= late_ranges[i].last)
            return late_ranges[i].class;
    return CLASS_OTHER;
}

/* Unicode's White_Space beyond ASCII: not U+180E, U+200B, U+FEFF. */
static bool is_wide_space(uint32_t code)
{
    return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
           code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

static char_class class_beyond_ascii(uint32_t code)
{
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return CLASS_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return CLASS_NUMBER;
    case UTF8PROC_CATEGORY_CN:
        return late_class(code);
    default:
        return is_wide_space(code) ? CLASS_SPACE : CLASS_OTHER;
    }
}

static char_class class_of(uint32_t code)
{
    if (code >= 0x80)
        return class_beyond_ascii(code);
    if ((code | 0x20) >= 'a' && (code | 0x20) <= 'z')
        return CLASS_LETTER;
    if (code >= '0' && code <= '9')
        return CLASS_NUMBER;
    if (code == ' ' || (code >= '\t' && code <= '\r'))
        return CLASS_SPACE;
    return CLASS_OTHER;
}

/* The bytes of the contraction that `text` begins with; 0 if with none. */
static size_t contraction_bytes(const char *text, size_t n_bytes)
{
    if (n_bytes < 2 || text[0] != '\'')
        return 0;
    if (strchr("stmd", text[1]) != NULL && text[1] != 0)
        return 2;
    if (n_bytes >= 3 && (memcmp(text + 1, "re", 2) == 0 || memcmp(text + 1, "ve", 2) == 0 ||
                         memcmp(text + 1, "ll", 2) == 0))
        return 3;
    return 0;
}

/* White space up to the text's end is one word; before a word, its last character is left out. */
static size_t space_bytes(const char *text, size_t n_bytes)
{
    const char *s = text, *last = text, *end = text + n_bytes;
    while (s < end) {
        const char *next = s;
        if (class_of(cf_utf8_take(&next)) != CLASS_SPACE)
            break;
        last = s;
        s = next;
    }
    return (size_t)((s == end || last == text ? s : last) - text);
}

size_t cf_split_word(const char *text, size_t n_bytes)
{
    size_t n_contraction = contraction_bytes(text, n_bytes);
    if (n_contraction > 0)
        return n_contraction;
    const char *s = text, *end = text + n_bytes;
    if (*s == ' ')
        s++;
    if (s == end)
        return n_bytes;
    char_class class = class_of(cf_utf8_take(&s));
    if (class == CLASS_SPACE)
        return space_bytes(text, n_bytes);
    for (const char *next = s; s < end; s = next)
        if (class_of(cf_utf8_take(&next)) != class)
            break;
    return (size_t)(s - text);
}
