# Libraries from outside; docs/architecture.md says why each.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson>=2.13)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc>=2.5)
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas>=0.3.20)
find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)

add_library(cf_dependencies INTERFACE)
target_include_directories(cf_dependencies SYSTEM INTERFACE ${XXHASH_INCLUDE_DIR})
target_link_libraries(cf_dependencies INTERFACE PkgConfig::JANSSON PkgConfig::UTF8PROC
                      PkgConfig::OPENBLAS OpenMP::OpenMP_C Threads::Threads m)
