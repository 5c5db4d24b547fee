# Mends include directories so that the interfaces build against ROS 2 wheels in a virtual environment.
#
# 1. The wheels' imported targets carry the include directory of the machine that built the wheel. CMake refuses a
#    target with an include directory that does not exist, so such directories are dropped.
# 2. CMake refuses to export a target with an include directory inside the source tree, where numpy's headers lie if
#    the virtual environment does. Such directories are needed while building only, and are marked so.
#
# Without effect on a ROS 2 distribution, where every directory exists and lies elsewhere.
function(fpo_ros_mend_includes)
  get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  get_property(own DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS imported own)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT directories)
      continue()
    endif()
    set(kept)
    foreach(directory IN LISTS directories)
      if(directory MATCHES "\\$<")
        list(APPEND kept "${directory}")
      elseif(NOT EXISTS "${directory}")
        continue()
      elseif(target IN_LIST own)
        list(APPEND kept "$<BUILD_INTERFACE:${directory}>")
      else()
        list(APPEND kept "${directory}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()
cmake_language(DEFER CALL fpo_ros_mend_includes)

# Compile the type support of all interfaces of a target as few files: the generated files are short, their headers long.
# (The other generated targets hold static names that clash when put together.)
function(fpo_ros_join_sources target)
  foreach(kind typesupport_c typesupport_cpp typesupport_introspection_c typesupport_introspection_cpp
               typesupport_fastrtps_c typesupport_fastrtps_cpp)
    if(TARGET ${target}__rosidl_${kind})
      set_target_properties(${target}__rosidl_${kind} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
      # each of the files declares the same functions of other packages
      target_compile_options(${target}__rosidl_${kind} PRIVATE -Wno-redundant-decls)
    endif()
  endforeach()
endfunction()

# Leave out the C++ side of the interfaces, which Python does not use: this halves the time of the build.
macro(fpo_ros_leave_out_cpp)
  list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX "_cpp:")
endmacro()
