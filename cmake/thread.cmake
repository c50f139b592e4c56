# OpenMP for ThreadSanitizer, which has to be told where OpenMP's threads wait for each other: what
# gcc's library does is hidden from it and looks like races everywhere. LLVM's has a tool that tells
# it, Archer, and runs what gcc compiled as well. It stands before gcc's, which oneDNN brings along.
file(GLOB cf_llvm_folders /usr/lib/llvm-*/lib)
find_library(CF_OMP_LIBRARY omp HINTS ${cf_llvm_folders} REQUIRED)
find_library(CF_ARCHER_LIBRARY archer HINTS ${cf_llvm_folders} REQUIRED)

add_library(OpenMP::OpenMP_C INTERFACE IMPORTED)
target_compile_options(OpenMP::OpenMP_C INTERFACE -fopenmp)
target_link_libraries(OpenMP::OpenMP_C INTERFACE
                      -Wl,--push-state,--no-as-needed ${CF_ARCHER_LIBRARY} ${CF_OMP_LIBRARY}
                      -Wl,--pop-state)
