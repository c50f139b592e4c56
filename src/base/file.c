#include "base/file.h"

#include "base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t empty_file[1];

static cf_status map_descriptor(int descriptor, const char *path, cf_file *file, cf_error *error)
{
    struct stat status;
    if (fstat(descriptor, &status) != 0)
        return cf_fail(error, CF_STATUS_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return cf_fail(error, CF_STATUS_IO, "%s: not a regular file", path);
    if (status.st_size == 0) { /* mmap refuses a length of 0 */
        *file = (cf_file){.data = empty_file, .n_bytes = 0};
        return CF_STATUS_OK;
    }
    size_t n_bytes = (size_t)status.st_size;
    void *data = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    if (data == MAP_FAILED)
        return cf_fail(error, CF_STATUS_IO, "%s: mapping %zu bytes: %s", path, n_bytes,
                       strerror(errno));
    /* Pages that are read into the cache from now on may be huge; a refusal changes nothing. */
    madvise(data, n_bytes, MADV_HUGEPAGE);
    *file = (cf_file){.data = data, .n_bytes = n_bytes};
    return CF_STATUS_OK;
}

cf_status cf_file_map(const char *path, cf_file *file, cf_error *error)
{
    *file = (cf_file){0};
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        bool missing = errno == ENOENT || errno == ENOTDIR;
        return cf_fail(error, missing ? CF_STATUS_NOT_FOUND : CF_STATUS_IO, "%s: %s", path,
                       strerror(errno));
    }
    cf_status status = map_descriptor(descriptor, path, file, error);
    close(descriptor);
    return status;
}

void cf_file_unmap(cf_file *file)
{
    if (file->data != NULL && file->n_bytes > 0)
        munmap((void *)(uintptr_t)file->data, file->n_bytes);
    *file = (cf_file){0};
}

cf_status cf_path_join(char *path, size_t capacity, const char *folder, const char *name,
                       cf_error *error)
{
    int n = snprintf(path, capacity, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= capacity)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "path of %d bytes is too long, at most %zu: %.80s…", n, capacity - 1,
                       folder);
    return CF_STATUS_OK;
}

bool cf_path_is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool cf_path_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0;
}
