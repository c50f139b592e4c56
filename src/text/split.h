/* GPT-2's rule of where words begin and end. */
#ifndef CF_TEXT_SPLIT_H
#define CF_TEXT_SPLIT_H

#include <stddef.h>

/*
 * The bytes of the first word of `text`, which is valid UTF-8 and n_bytes > 0 long. A word is the
 * first of these that matches, look-ahead ending with the text:
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * Classes are Unicode 16's. Cost: linear in the word and the white space behind it.
 */
size_t cf_split_word(const char *text, size_t n_bytes);

#endif
