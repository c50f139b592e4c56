/* The page at /, which the build makes a part of the program. */
#ifndef CF_SERVE_PAGE_H
#define CF_SERVE_PAGE_H

#include <stddef.h>

extern const unsigned char cf_page[];
extern const size_t cf_page_bytes;

#endif
