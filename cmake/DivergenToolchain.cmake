# Compiler settings that hold for every target.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  # Sloppiness lets ccache serve files that use a precompiled header; base_dir lets clones share it.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
endif()

add_library(divergen_flags INTERFACE)
# -ffp-contract=off: the evaluator and the PIL resampler promise bit-equal doubles; a fused multiply-add would break that.
target_compile_options(divergen_flags INTERFACE
  -fPIC -Wall -Wextra -Wno-missing-field-initializers -Wno-restrict -Wno-maybe-uninitialized -ffp-contract=off -fno-math-errno
  $<$<BOOL:${DIVERGEN_MARCH}>:-march=${DIVERGEN_MARCH}>)
target_include_directories(divergen_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
if(DIVERGEN_SANITIZE)
  target_compile_options(divergen_flags INTERFACE -fsanitize=${DIVERGEN_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(divergen_flags INTERFACE -fsanitize=${DIVERGEN_SANITIZE})
endif()
