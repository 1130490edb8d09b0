# divergen_fuzz(NAME SOURCES ... [LIBS ...])  one libFuzzer program fuzz_NAME and the test fuzz.NAME, label fuzz
#
#   SOURCES  the target (it defines LLVMFuzzerTestOneInput) and those files of src whose branches the fuzzer shall see:
#            they are compiled again, with clang, coverage, AddressSanitizer and UBSan
#   LIBS     what they need otherwise: linked as the normal build made it (divergen_base, divergen::dep::json, ...).
#            A library whose sources stand in SOURCES too is harmless: the linker takes it only for what is missing.
#   For sources that several programs share: divergen_fuzz_library(NAME SOURCES ... [LIBS ...]) makes the library
#   fuzzed_NAME of them, once; name it in LIBS.
#   Seeds    lie in corpus/NAME beside the CMakeLists.txt, where there is such a folder; they are never written to.
#
# Each test runs 5 s, or DIVERGEN_FUZZ_SECONDS. Without a clang that has libFuzzer and std::source_location (16 and
# newer; 14 lacks the latter) the test is there and says that it was skipped. Builds with DIVERGEN_SANITIZE bring
# another sanitizer runtime along and skip them too.

set(_fuzz_flags -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined)

function(_divergen_find_fuzz_compiler)
  if(DEFINED CACHE{DIVERGEN_FUZZ_CXX})
    return()
  endif()
  set(_probe ${CMAKE_BINARY_DIR}/fuzz_probe)
  file(WRITE ${_probe}.cpp "#include <cstddef>\n#include <cstdint>\n#include <source_location>\n"
    "extern \"C\" int LLVMFuzzerTestOneInput(const std::uint8_t*, std::size_t) {\n"
    "  return std::source_location::current().line() == 0;\n}\n")
  foreach(_name clang++-19 clang++-18 clang++-17 clang++-16 clang++)
    find_program(_fuzz_candidate_${_name} ${_name})
    mark_as_advanced(_fuzz_candidate_${_name})
    if(_fuzz_candidate_${_name})
      execute_process(COMMAND ${_fuzz_candidate_${_name}} -std=c++20 ${_fuzz_flags} ${_probe}.cpp -o ${_probe}
                      RESULT_VARIABLE _failed OUTPUT_QUIET ERROR_QUIET)
      if(NOT _failed)
        set(DIVERGEN_FUZZ_CXX ${_fuzz_candidate_${_name}} CACHE FILEPATH "clang++ with libFuzzer, for the fuzz tests")
        return()
      endif()
    endif()
  endforeach()
  message(STATUS "No clang++ with libFuzzer (packages clang-16 and libclang-rt-16-dev): fuzz tests are skipped")
endfunction()

# The programs are ordinary targets, with all that comes with their LIBS, but this script stands between CMake and the
# compiler: it drops the compiler that CMake names, and calls clang with the sanitizers instead.
function(_divergen_write_fuzz_launcher)
  string(JOIN " " _flags ${_fuzz_flags})
  if(CCACHE_PROGRAM)
    set(_ccache "'${CCACHE_PROGRAM}' ")
  endif()
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/fuzz_clang @ONLY NEWLINE_STYLE UNIX CONTENT
"#!/bin/sh
# Called as: fuzz_clang COMPILER ARGUMENT...
shift
exec @_ccache@'@DIVERGEN_FUZZ_CXX@' @_flags@ -g -Wno-unknown-warning-option \"$@\"
")
  file(CHMOD ${CMAKE_BINARY_DIR}/fuzz_clang PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE)
endfunction()

_divergen_find_fuzz_compiler()
if(DIVERGEN_FUZZ_CXX)
  _divergen_write_fuzz_launcher()
endif()

set(_fuzz_why "")
if(NOT DIVERGEN_FUZZ_CXX)
  set(_fuzz_why "there is no clang++ with libFuzzer here: install clang-16 and libclang-rt-16-dev (tools/setup.sh)")
elseif(DIVERGEN_SANITIZE)
  set(_fuzz_why "this build has other sanitizers (DIVERGEN_SANITIZE): the release build runs them")
endif()

function(divergen_fuzz_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  if(_fuzz_why)
    return()
  endif()
  add_library(fuzzed_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(fuzzed_${name} PUBLIC divergen_flags ${ARG_LIBS})
  set_target_properties(fuzzed_${name} PROPERTIES CXX_COMPILER_LAUNCHER ${CMAKE_BINARY_DIR}/fuzz_clang)
endfunction()

function(divergen_fuzz name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  if(_fuzz_why)
    add_test(NAME fuzz.${name} COMMAND ${CMAKE_COMMAND} -E echo "SKIPPED: ${_fuzz_why}")
    set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz SKIP_REGULAR_EXPRESSION "^SKIPPED")
    return()
  endif()
  add_executable(fuzz_${name} ${ARG_SOURCES})
  target_link_libraries(fuzz_${name} PRIVATE divergen_flags ${ARG_LIBS})
  target_include_directories(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  set_target_properties(fuzz_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests
    CXX_COMPILER_LAUNCHER ${CMAKE_BINARY_DIR}/fuzz_clang CXX_LINKER_LAUNCHER ${CMAKE_BINARY_DIR}/fuzz_clang)
  add_test(NAME fuzz.${name} COMMAND ${CMAKE_SOURCE_DIR}/tests/fuzz/run_fuzz.sh $<TARGET_FILE:fuzz_${name}>
           ${CMAKE_CURRENT_SOURCE_DIR}/corpus/${name} ${CMAKE_BINARY_DIR}/fuzz/${name})
  # Full length is 30 s; an hour is what a release takes.
  set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz TIMEOUT 4000)
endfunction()
