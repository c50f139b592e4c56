# The Python package's share of the build: pip (scikit-build-core) installs this component alone.
# Everything lies inside the package, as in a prefix, so that the program finds its model.
install(PROGRAMS $<TARGET_FILE:clusterfusion> DESTINATION lib COMPONENT python
        RENAME libclusterfusion.so)
install(PROGRAMS $<TARGET_FILE:clusterfusion_cli> DESTINATION bin COMPONENT python)
install(DIRECTORY models/classics DESTINATION share/clusterfusion/models COMPONENT python)

get_target_property(cf_definitions cf_options INTERFACE_COMPILE_DEFINITIONS)
if("CF_HAVE_CUDA" IN_LIST cf_definitions)
  message(NOTICE "clusterfusion: building with CUDA")
else()
  message(NOTICE "clusterfusion: building for the CPU only")
endif()
