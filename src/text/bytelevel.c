#include "text/bytelevel.h"

#include "text/utf8.h"

#include <string.h>

/*
 * Printable bytes of Latin-1 spell themselves; the others, in order, are the characters from U+0100
 * on: 00–20 are U+0100–0120, 7F–A0 are U+0121–0142, AD is U+0143.
 */
int cf_bytelevel_byte(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD))
        return (int)code;
    if (code >= 0x100 && code <= 0x120)
        return (int)code - 0x100;
    if (code >= 0x121 && code <= 0x142)
        return (int)code - 0x121 + 0x7F;
    return code == 0x143 ? 0xAD : -1;
}

size_t cf_bytelevel_read(const char *spelling, size_t n_bytes, char *bytes, bool *spelled)
{
    size_t n_written = 0;
    *spelled = true;
    for (const char *s = spelling; s < spelling + n_bytes;) {
        int byte = cf_bytelevel_byte(cf_utf8_take(&s));
        if (byte < 0) {
            *spelled = false;
            memcpy(bytes, spelling, n_bytes);
            return n_bytes;
        }
        bytes[n_written++] = (char)byte;
    }
    return n_written;
}
