/* The table of contents of a zip archive whose entries are stored, not compressed. */
#ifndef CF_CHECKPOINT_ZIP_H
#define CF_CHECKPOINT_ZIP_H

#include "checkpoint/arena.h"
#include "clusterfusion.h"

typedef struct cf_zip_entry {
    const char *name; /* n_name bytes in the archive itself, not ended */
    size_t n_name;
    uint64_t header; /* where its local header lies */
    uint64_t n_bytes;
} cf_zip_entry;

typedef struct cf_zip {
    const char *file;
    const uint8_t *bytes;
    size_t n_bytes;
    size_t n_entries;
    cf_zip_entry *entries; /* [n_entries], in the order of the archive, not overlapping */
} cf_zip;

/*
 * Reads the directory of an archive, plain or zip64. `file` begins messages; the entries lie in
 * `arena`. Errors: BAD_FILE (damaged), UNSUPPORTED (compressed or encrypted entries, several
 * disks).
 */
cf_status cf_zip_open(const void *bytes, size_t n_bytes, const char *file, cf_arena *arena,
                      cf_zip *zip, cf_error *error);

/* The entry's n_bytes, which lie in the archive. BAD_FILE if its local header is damaged. */
cf_status cf_zip_bytes(const cf_zip *zip, const cf_zip_entry *entry, const uint8_t **bytes,
                       cf_error *error);

#endif
