/* Names and sizes of the header's small enumerations. */
#include "clusterfusion.h"

#define TEXT(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT(major) "." TEXT(minor) "." TEXT(patch)

const char *cf_version(void)
{
    return VERSION_TEXT(CF_VERSION_MAJOR, CF_VERSION_MINOR, CF_VERSION_PATCH);
}

const char *cf_dtype_name(cf_dtype dtype)
{
    switch (dtype) {
    case CF_DTYPE_F32:
        return "F32";
    case CF_DTYPE_F16:
        return "F16";
    case CF_DTYPE_BF16:
        return "BF16";
    case CF_DTYPE_DEFAULT:
        break;
    }
    return "?";
}

size_t cf_dtype_bytes(cf_dtype dtype)
{
    switch (dtype) {
    case CF_DTYPE_F32:
        return 4;
    case CF_DTYPE_F16:
    case CF_DTYPE_BF16:
        return 2;
    case CF_DTYPE_DEFAULT:
        break;
    }
    return 0;
}

const char *cf_backend_name(cf_backend backend)
{
    switch (backend) {
    case CF_BACKEND_AUTO:
        return "auto";
    case CF_BACKEND_CPU:
        return "cpu";
    case CF_BACKEND_CUDA:
        return "cuda";
    }
    return "?";
}

const char *cf_finish_name(cf_finish finish)
{
    switch (finish) {
    case CF_FINISH_LENGTH:
        return "length";
    case CF_FINISH_EOS:
    case CF_FINISH_STOP:
        return "stop";
    case CF_FINISH_CANCELLED:
        return "cancelled";
    case CF_FINISH_NONE:
        break;
    }
    return "none";
}
