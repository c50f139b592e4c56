# The server, with its page as a part of it.
set(page_source ${PROJECT_BINARY_DIR}/page.c)
set(page ${PROJECT_SOURCE_DIR}/src/serve/page.html)
add_custom_command(OUTPUT ${page_source}
  COMMAND ${CMAKE_COMMAND} -DINPUT=${page} -DOUTPUT=${page_source}
          -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
  DEPENDS ${page} cmake/embed.cmake VERBATIM)
file(GLOB cf_serve_sources CONFIGURE_DEPENDS src/serve/*.c)
add_library(cf_serve STATIC ${cf_serve_sources} ${page_source})
target_link_libraries(cf_serve PUBLIC clusterfusion_static PkgConfig::MICROHTTPD)

# The command line, and tools that are built but not installed.
file(GLOB cf_cli_sources CONFIGURE_DEPENDS src/cli/*.c)
if(cf_cli_sources)
  add_executable(clusterfusion_cli ${cf_cli_sources})
  set_target_properties(clusterfusion_cli PROPERTIES OUTPUT_NAME clusterfusion)
  target_link_libraries(clusterfusion_cli PRIVATE cf_serve)
endif()

file(GLOB cf_tool_sources CONFIGURE_DEPENDS tools/*.c bench/*.c)
if(CF_BUILD_CUDA)
  file(GLOB cf_cuda_benches CONFIGURE_DEPENDS bench/cuda/bench_*.c)
endif()
foreach(source ${cf_tool_sources} ${cf_cuda_benches})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE clusterfusion_static)
endforeach()
foreach(source ${cf_cuda_benches})
  get_filename_component(name ${source} NAME_WE)
  target_sources(${name} PRIVATE bench/cuda/random_model.c)
endforeach()
