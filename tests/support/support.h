/* What tests share: cmocka with its prerequisites, scratch folders, the golden data. */
#ifndef CF_TESTS_SUPPORT_H
#define CF_TESTS_SUPPORT_H

/* cmocka.h needs these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "clusterfusion.h"

/* Fails the running test with the error's message unless `status` is OK. */
#define assert_ok(status, error) test_assert_ok((status), &(error), __FILE__, __LINE__)

/* Fails unless `status` is `expected` and the message contains `part`. */
#define assert_fails(status, expected, error, part)                                                \
    test_assert_fails((status), (expected), &(error), (part), __FILE__, __LINE__)

void test_assert_ok(cf_status status, const cf_error *error, const char *file, int line);
void test_assert_fails(cf_status status, cf_status expected, const cf_error *error,
                       const char *part, const char *file, int line);

/* Path of a file of the project, from its root; valid until the next but three calls. */
const char *test_path(const char *relative);

/*
 * Path of test data too large for the project, in the folder that the environment variable
 * CF_TEST_DATA names, else in shared/data beside the checkout; NULL where it is not there: skip()
 * then.
 */
const char *test_shared_path(const char *relative);

/* Makes an empty scratch folder; removed with its contents by test_scratch_remove(). */
const char *test_scratch_create(void);
void test_scratch_remove(const char *folder);

/* Writes a file into a folder. Returns its path, valid until the next but three calls. */
const char *test_write(const char *folder, const char *name, const void *data, size_t n_bytes);

/* Reads a whole file; free() it. Fails the test if it is not there. A zero byte follows. */
void *test_read(const char *path, size_t *n_bytes);

/* ‖a − b‖ / ‖b‖ in float64; infinite if anything is not finite. */
double test_relative_error(const float *a, const float *b, size_t n);

/* The largest |a − b|; infinite if anything is not finite. */
double test_max_error(const float *a, const float *b, size_t n);

#endif
