# The CUDA backend on an emulated GPU (-DCF_CUDA=EMULATED; tests/emulator/machine.h says what that
# is): the token kernel and its host side, compiled for the CPU with the toolkit's headers alone.
enable_language(CXX)
find_package(CUDAToolkit 12.8 REQUIRED)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
message(STATUS "CUDA backend: on an emulated GPU")

set(cf_emulator ${PROJECT_SOURCE_DIR}/tests/emulator)
file(GLOB cf_emulated_kernels CONFIGURE_DEPENDS src/backend/cuda/kernel/token_*.cu)
file(GLOB cf_cuda_sources CONFIGURE_DEPENDS src/backend/cuda/host/*.c tests/emulator/*.c
     tests/emulator/*.cpp)
list(FILTER cf_cuda_sources EXCLUDE REGEX "host/(blaslt|prompt|layer)[^/]*\\.c$")
list(APPEND cf_cuda_sources ${cf_emulated_kernels})
# Its device/ comes before the one of src/. A product's rounding is the GPU's: nothing is contracted
# that the kernel does not contract itself.
set_source_files_properties(${cf_emulated_kernels} PROPERTIES LANGUAGE CXX
  INCLUDE_DIRECTORIES ${cf_emulator}
  COMPILE_OPTIONS "-x;c++;-include;keywords.h;-ffp-contract=off;-Wno-unknown-pragmas")

target_compile_definitions(cf_options INTERFACE CF_HAVE_CUDA CF_CUDA_EMULATED)
target_include_directories(cf_options SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(cf_dependencies INTERFACE stdc++)
set(cf_private_libs " -lstdc++")
