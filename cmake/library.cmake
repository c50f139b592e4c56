# The library: one set of objects, a static and a shared archive of them.
file(GLOB cf_library_sources CONFIGURE_DEPENDS
     src/base/*.c src/checkpoint/*.c src/text/*.c src/model/*.c src/schedule/*.c src/backend/*.c
     src/backend/cpu/*.c src/engine/*.c)

# One file of kernels an instruction set; which one runs is chosen when it runs.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(src/backend/cpu/kernels_avx2.c PROPERTIES
    COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
  set_source_files_properties(src/backend/cpu/kernels_avx512.c PROPERTIES
    COMPILE_OPTIONS "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mfma;-mf16c;-mprefer-vector-width=512")
  set_source_files_properties(src/backend/cpu/tiles.c PROPERTIES
    COMPILE_OPTIONS "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mamx-tile;-mamx-bf16")
endif()

add_library(cf_objects OBJECT ${cf_library_sources} ${cf_cuda_sources})
target_link_libraries(cf_objects PUBLIC cf_options cf_dependencies)

add_library(clusterfusion_static STATIC)
set_target_properties(clusterfusion_static PROPERTIES OUTPUT_NAME clusterfusion)
target_link_libraries(clusterfusion_static PUBLIC cf_objects)

add_library(clusterfusion SHARED)
target_link_libraries(clusterfusion PRIVATE cf_objects)
target_include_directories(clusterfusion INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set_target_properties(clusterfusion PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
  PUBLIC_HEADER include/clusterfusion.h)
