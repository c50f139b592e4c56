# The command line, and tools that are built but not installed.
file(GLOB cf_cli_sources CONFIGURE_DEPENDS src/cli/*.c src/serve/*.c)
if(cf_cli_sources)
  add_executable(clusterfusion_cli ${cf_cli_sources})
  set_target_properties(clusterfusion_cli PROPERTIES OUTPUT_NAME clusterfusion)
  target_link_libraries(clusterfusion_cli PRIVATE clusterfusion_static)
endif()

file(GLOB cf_tool_sources CONFIGURE_DEPENDS tools/*.c bench/*.c)
foreach(source ${cf_tool_sources})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE clusterfusion_static)
endforeach()
