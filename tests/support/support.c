#include "support/support.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_PATHS 4
#define PATH_BYTES 4096

/* A ring of path buffers, so that a few results can be used in one expression. */
static char *next_path(void)
{
    static char paths[N_PATHS][PATH_BYTES];
    static unsigned turn;
    return paths[turn++ % N_PATHS];
}

void test_assert_ok(cf_status status, const cf_error *error, const char *file, int line)
{
    if (status == CF_STATUS_OK)
        return;
    print_error("status %d (%s): %s\n", status, cf_status_text(status), error->message);
    _fail(file, line);
}

void test_assert_fails(cf_status status, cf_status expected, const cf_error *error,
                       const char *part, const char *file, int line)
{
    if (status != expected)
        print_error("status %d (%s), expected %d (%s); message: %s\n", status,
                    cf_status_text(status), expected, cf_status_text(expected),
                    status == CF_STATUS_OK ? "" : error->message);
    else if (strstr(error->message, part) == NULL)
        print_error("message \"%s\" does not contain \"%s\"\n", error->message, part);
    else
        return;
    _fail(file, line);
}

const char *test_path(const char *relative)
{
    char *path = next_path();
    snprintf(path, PATH_BYTES, "%s/%s", CF_SOURCE_DIR, relative);
    return path;
}

const char *test_shared_path(const char *relative)
{
    char *path = next_path();
    const char *folder = getenv("CF_TEST_DATA");
    if (folder != NULL)
        snprintf(path, PATH_BYTES, "%s/%s", folder, relative);
    else
        snprintf(path, PATH_BYTES, "%s/../shared/data/%s", CF_SOURCE_DIR, relative);
    return access(path, R_OK) == 0 ? path : NULL;
}

const char *test_scratch_create(void)
{
    char *path = next_path();
    const char *folder = getenv("TMPDIR");
    snprintf(path, PATH_BYTES, "%s/clusterfusion-test-XXXXXX", folder != NULL ? folder : "/tmp");
    if (mkdtemp(path) == NULL)
        fail_msg("mkdtemp %s failed", path);
    return strdup(path);
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status, (void)kind, (void)walk;
    return remove(path);
}

void test_scratch_remove(const char *folder)
{
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free((void *)(uintptr_t)folder);
}

const char *test_write(const char *folder, const char *name, const void *data, size_t n_bytes)
{
    char *path = next_path();
    snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, n_bytes, file) != n_bytes || fclose(file) != 0)
        fail_msg("writing %s failed", path);
    return path;
}

void *test_read(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail_msg("%s cannot be opened", path);
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(size + 1);
    if (data == NULL || fread(data, 1, size, file) != size)
        fail_msg("reading %s failed", path);
    data[size] = 0;
    fclose(file);
    if (n_bytes != NULL)
        *n_bytes = size;
    return data;
}

double test_relative_error(const float *a, const float *b, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i]))
            return INFINITY;
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / norm);
}

double test_max_error(const float *a, const float *b, size_t n)
{
    double largest = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i]))
            return INFINITY;
        largest = fmax(largest, fabs((double)a[i] - b[i]));
    }
    return largest;
}
