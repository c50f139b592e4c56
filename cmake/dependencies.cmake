# Libraries from outside; docs/architecture.md says why each.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
if(CF_SANITIZE MATCHES "thread")
  include(cmake/thread.cmake)
else()
  find_package(OpenMP REQUIRED COMPONENTS C)
endif()
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson>=2.13)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc>=2.5)
find_path(DNNL_INCLUDE_DIR dnnl.h REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
pkg_check_modules(MICROHTTPD REQUIRED IMPORTED_TARGET libmicrohttpd>=0.9.71)
find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)

add_library(cf_dependencies INTERFACE)
target_include_directories(cf_dependencies SYSTEM INTERFACE ${XXHASH_INCLUDE_DIR}
                           ${DNNL_INCLUDE_DIR})
target_link_libraries(cf_dependencies INTERFACE PkgConfig::JANSSON PkgConfig::UTF8PROC
                      ${DNNL_LIBRARY} OpenMP::OpenMP_C Threads::Threads m)
