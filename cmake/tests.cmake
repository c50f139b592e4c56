# tests/test_*.c is a cmocka program each; tests/cli/test_*.py are driven by pytest.
# tools/run-tests runs them all and counts single tests.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

file(GLOB cf_test_support_sources CONFIGURE_DEPENDS tests/support/*.c)
add_library(cf_test_support STATIC ${cf_test_support_sources})
target_include_directories(cf_test_support PUBLIC tests)
target_link_libraries(cf_test_support PUBLIC clusterfusion_static PkgConfig::CMOCKA)
target_compile_definitions(cf_test_support PUBLIC CF_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
# cmocka takes parameterised state through void pointers and has its own idea of integer widths.
target_compile_options(cf_test_support PUBLIC -Wno-conversion)

file(GLOB cf_test_sources CONFIGURE_DEPENDS tests/test_*.c)
foreach(source ${cf_test_sources})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE cf_test_support)
  add_test(NAME ${name} COMMAND ${name})
endforeach()
# The program is no library: this test takes the file that it is of.
target_sources(test_bench_stages PRIVATE src/cli/bench_stages.c)
