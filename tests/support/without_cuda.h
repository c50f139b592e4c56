/* The whole of a program of GPU tests where the library has no CUDA: one test, skipped by name. */
#ifndef CF_TESTS_WITHOUT_CUDA_H
#define CF_TESTS_WITHOUT_CUDA_H

#include "support/support.h"

static void the_library_was_built_without_cuda(void **state)
{
    (void)state;
    skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_library_was_built_without_cuda)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
