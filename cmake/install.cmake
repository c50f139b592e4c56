# Installing: header, both libraries, program, bundled model, man page, CMake and pkg-config files.
include(CMakePackageConfigHelpers)

install(TARGETS clusterfusion EXPORT clusterfusion-targets
        PUBLIC_HEADER DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES $<TARGET_FILE:clusterfusion_static> DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET clusterfusion_cli)
  install(TARGETS clusterfusion_cli)
endif()
if(EXISTS ${PROJECT_SOURCE_DIR}/models/classics)
  install(DIRECTORY models/classics
          DESTINATION ${CMAKE_INSTALL_DATADIR}/clusterfusion/models)
endif()
if(EXISTS ${PROJECT_SOURCE_DIR}/docs/clusterfusion.1)
  install(FILES docs/clusterfusion.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()

install(EXPORT clusterfusion-targets NAMESPACE clusterfusion::
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/clusterfusion FILE clusterfusion-config.cmake)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/clusterfusion-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/clusterfusion-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/clusterfusion)

# Relative to the file, so that `cmake --install --prefix` may choose another place.
file(RELATIVE_PATH cf_pkgconfig_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
     ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/clusterfusion.pc.in ${PROJECT_BINARY_DIR}/clusterfusion.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/clusterfusion.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
