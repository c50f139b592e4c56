/* Files mapped into memory, read-only. */
#ifndef CF_BASE_FILE_H
#define CF_BASE_FILE_H

#include "clusterfusion.h"

typedef struct cf_file {
    const uint8_t *data; /* n_bytes of it; a valid pointer also when n_bytes is 0 */
    size_t n_bytes;
} cf_file;

/*
 * Maps the regular file `path`. Errors: NOT_FOUND, IO (not a regular file, unreadable), each naming
 * the path. The contents are shared with the page cache and must not change meanwhile.
 */
cf_status cf_file_map(const char *path, cf_file *file, cf_error *error);

/* Takes a zeroed or unmapped file too. */
void cf_file_unmap(cf_file *file);

/* Joins a folder and a name into `path` of `capacity` bytes; INVALID_ARGUMENT if it does not fit.
 */
cf_status cf_path_join(char *path, size_t capacity, const char *folder, const char *name,
                       cf_error *error);

bool cf_path_is_folder(const char *path);
bool cf_path_exists(const char *path);

#endif
