/* The byte-level alphabet of GPT-2: each byte is spelled as one printable character. */
#ifndef CF_TEXT_BYTELEVEL_H
#define CF_TEXT_BYTELEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The byte that the character `code` spells; -1 if it is not of the alphabet. */
int cf_bytelevel_byte(uint32_t code);

/*
 * Writes the bytes that `spelling` (valid UTF-8, `n_bytes` long) stands for to `bytes`, which has
 * room for n_bytes. A spelling with a character that is not of the alphabet stands for itself, as
 * the reference decoder has it; then `spelled` is false. Returns their number.
 */
size_t cf_bytelevel_read(const char *spelling, size_t n_bytes, char *bytes, bool *spelled);

#endif
