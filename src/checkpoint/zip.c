/* Structures and their offsets: PKWARE, .ZIP File Format Specification (APPNOTE) 6.3, section 4.3.
 */
#include "checkpoint/zip.h"

#include "base/status.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOCAL_SIGNATURE 0x04034B50u
#define LOCAL_BYTES 30
#define CENTRAL_SIGNATURE 0x02014B50u
#define CENTRAL_BYTES 46
#define END_SIGNATURE 0x06054B50u
#define END_BYTES 22
#define LOCATOR64_SIGNATURE 0x07064B50u
#define LOCATOR64_BYTES 20
#define END64_SIGNATURE 0x06064B50u
#define END64_BYTES 56
#define MAX_COMMENT_BYTES 65535
#define EXTRA_ZIP64 1
#define IN_ZIP64 0xFFFFFFFFu /* the value stands in a zip64 structure */
#define FLAG_ENCRYPTED 1u

/* Where the directory lies. */
typedef struct directory {
    uint64_t offset, n_bytes, n_entries;
} directory;

static uint64_t number(const uint8_t *bytes, size_t n)
{
    uint64_t value = 0;
    for (size_t i = n; i > 0; i--)
        value = value << 8 | bytes[i - 1];
    return value;
}

static cf_status damaged(const cf_zip *zip, const char *what, cf_error *error)
{
    return cf_fail(error, CF_STATUS_BAD_FILE, "%s: zip archive: %s; truncated or damaged",
                   zip->file, what);
}

/* The end record is the file's last structure, but a comment may follow it. */
static const uint8_t *find_end(const cf_zip *zip)
{
    for (size_t comment = 0; comment <= MAX_COMMENT_BYTES; comment++) {
        if (zip->n_bytes < END_BYTES + comment)
            return NULL;
        const uint8_t *end = zip->bytes + zip->n_bytes - END_BYTES - comment;
        if (number(end, 4) == END_SIGNATURE && number(end + 20, 2) == comment)
            return end;
    }
    return NULL;
}

static cf_status find_directory64(const cf_zip *zip, const uint8_t *locator, directory *where,
                                  cf_error *error)
{
    uint64_t offset = number(locator + 8, 8);
    if (zip->n_bytes < END64_BYTES || offset > zip->n_bytes - END64_BYTES ||
        number(zip->bytes + offset, 4) != END64_SIGNATURE)
        return damaged(zip, "no zip64 end record where its locator says", error);
    const uint8_t *end = zip->bytes + offset;
    *where = (directory){.offset = number(end + 48, 8),
                         .n_bytes = number(end + 40, 8),
                         .n_entries = number(end + 32, 8)};
    return CF_STATUS_OK;
}

static cf_status find_directory(const cf_zip *zip, directory *where, cf_error *error)
{
    const uint8_t *end = find_end(zip);
    if (end == NULL)
        return damaged(zip, "no end record", error);
    *where = (directory){.offset = number(end + 16, 4),
                         .n_bytes = number(end + 12, 4),
                         .n_entries = number(end + 10, 2)};
    size_t n_before = (size_t)(end - zip->bytes);
    if (n_before >= LOCATOR64_BYTES && number(end - LOCATOR64_BYTES, 4) == LOCATOR64_SIGNATURE)
        CF_TRY(find_directory64(zip, end - LOCATOR64_BYTES, where, error));
    if (number(end + 4, 2) != 0 && number(end + 4, 2) != 0xFFFF)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "%s: zip archive: one of several disks, expected a whole archive",
                       zip->file);
    if (where->offset > n_before || where->n_bytes > n_before - where->offset)
        return damaged(zip, "its directory lies outside the file", error);
    if (where->n_entries > where->n_bytes / CENTRAL_BYTES)
        return damaged(zip, "more entries than its directory holds", error);
    return CF_STATUS_OK;
}

/* Replaces the values that did not fit into 32 bits, in the order in which they must be listed. */
static bool read_extra64(const uint8_t *extra, size_t n_extra, uint64_t *values[3])
{
    while (n_extra >= 4) {
        size_t id = number(extra, 2), n = number(extra + 2, 2);
        if (n > n_extra - 4)
            return false;
        const uint8_t *field = extra + 4;
        if (id == EXTRA_ZIP64) {
            for (size_t i = 0; i < 3; i++) {
                if (*values[i] != IN_ZIP64)
                    continue;
                if (n < 8)
                    return false;
                *values[i] = number(field, 8);
                field += 8;
                n -= 8;
            }
            return true;
        }
        extra += 4 + n;
        n_extra -= 4 + n;
    }
    return true;
}

static cf_status check_entry(const cf_zip *zip, const uint8_t *record, const cf_zip_entry *entry,
                             uint64_t n_compressed, cf_error *error)
{
    uint64_t flags = number(record + 8, 2), method = number(record + 10, 2);
    int n_shown = (int)(entry->n_name > 100 ? 100 : entry->n_name);
    if ((flags & FLAG_ENCRYPTED) != 0)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "%s: zip archive: %.*s is encrypted",
                       zip->file, n_shown, entry->name);
    if (method != 0)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "%s: zip archive: %.*s has compression method %" PRIu64
                       ", expected 0, stored",
                       zip->file, n_shown, entry->name, method);
    if (n_compressed != entry->n_bytes)
        return damaged(zip, "a stored entry has two different sizes", error);
    if (entry->header > zip->n_bytes || entry->n_bytes > zip->n_bytes - entry->header)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: zip archive: %.*s ends beyond the file's %zu bytes", zip->file, n_shown,
                       entry->name, zip->n_bytes);
    return CF_STATUS_OK;
}

/* Names stand in messages; those that PyTorch writes are all plain. */
static bool is_plain(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (name[i] < ' ' || name[i] > '~')
            return false;
    return n > 0;
}

/* Reads one record of the directory at `record`, at most `n_left` bytes, and moves it on. */
static cf_status read_entry(const cf_zip *zip, const uint8_t **record, uint64_t *n_left,
                            cf_zip_entry *entry, cf_error *error)
{
    const uint8_t *at = *record;
    if (*n_left < CENTRAL_BYTES || number(at, 4) != CENTRAL_SIGNATURE)
        return damaged(zip, "a record of its directory is missing", error);
    size_t n_name = number(at + 28, 2), n_extra = number(at + 30, 2), n_note = number(at + 32, 2);
    uint64_t n_record = CENTRAL_BYTES + n_name + n_extra + n_note;
    if (*n_left < n_record)
        return damaged(zip, "a record of its directory ends too late", error);
    uint64_t n_compressed = number(at + 20, 4);
    *entry = (cf_zip_entry){.name = (const char *)at + CENTRAL_BYTES,
                            .n_name = n_name,
                            .header = number(at + 42, 4),
                            .n_bytes = number(at + 24, 4)};
    uint64_t *values[3] = {&entry->n_bytes, &n_compressed, &entry->header};
    if (!is_plain(entry->name, n_name))
        return damaged(zip, "an entry has an unreadable name", error);
    if (!read_extra64(at + CENTRAL_BYTES + n_name, n_extra, values))
        return damaged(zip, "an entry's zip64 field is too short", error);
    *record += n_record;
    *n_left -= n_record;
    return check_entry(zip, at, entry, n_compressed, error);
}

static int compare_headers(const void *left, const void *right)
{
    const cf_zip_entry *a = left, *b = right;
    return a->header < b->header ? -1 : a->header > b->header;
}

/* Overlapping entries would let a small file describe a large one. */
static cf_status check_overlap(const cf_zip *zip, cf_error *error)
{
    for (size_t i = 1; i < zip->n_entries; i++) {
        const cf_zip_entry *a = &zip->entries[i - 1], *b = &zip->entries[i];
        if (a->header + LOCAL_BYTES + a->n_name + a->n_bytes > b->header)
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: zip archive: %.*s and %.*s overlap",
                           zip->file, (int)(a->n_name > 100 ? 100 : a->n_name), a->name,
                           (int)(b->n_name > 100 ? 100 : b->n_name), b->name);
    }
    return CF_STATUS_OK;
}

cf_status cf_zip_open(const void *bytes, size_t n_bytes, const char *file, cf_arena *arena,
                      cf_zip *zip, cf_error *error)
{
    *zip = (cf_zip){.file = file, .bytes = bytes, .n_bytes = n_bytes};
    directory where = {0};
    CF_TRY(find_directory(zip, &where, error));
    CF_TRY(CF_ARENA_TAKE(arena, &zip->entries, (size_t)where.n_entries, "zip directory", error));
    const uint8_t *record = zip->bytes + where.offset;
    uint64_t n_left = where.n_bytes;
    for (size_t i = 0; i < where.n_entries; i++)
        CF_TRY(read_entry(zip, &record, &n_left, &zip->entries[i], error));
    zip->n_entries = (size_t)where.n_entries;
    if (zip->n_entries > 0)
        qsort(zip->entries, zip->n_entries, sizeof *zip->entries, compare_headers);
    return check_overlap(zip, error);
}

cf_status cf_zip_bytes(const cf_zip *zip, const cf_zip_entry *entry, const uint8_t **bytes,
                       cf_error *error)
{
    uint64_t n_left = zip->n_bytes - entry->header;
    const uint8_t *header = zip->bytes + entry->header;
    uint64_t n_header = LOCAL_BYTES;
    if (n_left >= LOCAL_BYTES && number(header, 4) == LOCAL_SIGNATURE)
        n_header += number(header + 26, 2) + number(header + 28, 2);
    else
        n_left = 0;
    if (n_left < n_header || entry->n_bytes > n_left - n_header)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: zip archive: %.*s has a damaged header or ends beyond the file",
                       zip->file, (int)(entry->n_name > 100 ? 100 : entry->n_name), entry->name);
    *bytes = header + n_header;
    return CF_STATUS_OK;
}
