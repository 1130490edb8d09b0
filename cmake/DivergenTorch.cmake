# LibTorch as imported targets, without the wheel's own CMake package, which wants a CUDA toolkit.
#
#   divergen::dep::torch       libtorch_cpu + libc10: everything that runs on a CPU, and all headers
#   divergen::dep::torch_cuda  libtorch_cuda + libc10_cuda and the NCCL headers; only if the LibTorch has them
#
# Where LibTorch is: -DDIVERGEN_TORCH_ROOT=<folder with include/ and lib/>, else the folder that tools/setup.sh fills.

set(_divergen_deps "$ENV{DIVERGEN_DEPS}")
if(NOT _divergen_deps)
  if(DEFINED ENV{XDG_CACHE_HOME})
    set(_divergen_deps "$ENV{XDG_CACHE_HOME}/divergen")
  else()
    set(_divergen_deps "$ENV{HOME}/.cache/divergen")
  endif()
endif()
set(DIVERGEN_TORCH_ROOT "${_divergen_deps}/torch-2.11.0/torch" CACHE PATH "Folder of LibTorch (include/, lib/)")
if(NOT EXISTS "${DIVERGEN_TORCH_ROOT}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch was not found in ${DIVERGEN_TORCH_ROOT}. Run tools/setup.sh, or pass "
                      "-DDIVERGEN_TORCH_ROOT=<folder with include/ and lib/>, or build without it: -DDIVERGEN_TORCH=OFF")
endif()

get_filename_component(_site "${DIVERGEN_TORCH_ROOT}" DIRECTORY)
file(GLOB _nvidia_libs "${_site}/nvidia/*/lib")
file(GLOB _nvidia_includes "${_site}/nvidia/cu*/include" "${_site}/nvidia/nccl/include")

add_library(divergen_dep_torch INTERFACE)
target_include_directories(divergen_dep_torch SYSTEM INTERFACE
  ${DIVERGEN_TORCH_ROOT}/include ${DIVERGEN_TORCH_ROOT}/include/torch/csrc/api/include)
target_compile_definitions(divergen_dep_torch INTERFACE USE_DISTRIBUTED)
target_link_libraries(divergen_dep_torch INTERFACE
  "-Wl,--push-state,--no-as-needed" ${DIVERGEN_TORCH_ROOT}/lib/libtorch_cpu.so ${DIVERGEN_TORCH_ROOT}/lib/libc10.so
  "-Wl,--pop-state" Threads::Threads)
target_link_options(divergen_dep_torch INTERFACE "-Wl,-rpath,${DIVERGEN_TORCH_ROOT}/lib")
foreach(_dir IN LISTS _nvidia_libs ITEMS ${DIVERGEN_TORCH_ROOT}/lib)
  target_link_options(divergen_dep_torch INTERFACE "-Wl,-rpath-link,${_dir}")
endforeach()
add_library(divergen::dep::torch ALIAS divergen_dep_torch)

# Headers of packages of their own (nvidia-cuda-crt, nvidia-cuda-cccl: tools/setup.sh), or of a CUDA toolkit.
find_path(DIVERGEN_CUDA_CRT crt/host_defines.h HINTS ${_nvidia_includes} /usr/local/cuda/include)
find_path(DIVERGEN_CUDA_CCCL nv/target HINTS ${_nvidia_includes} /usr/local/cuda/include /usr/local/cuda/include/cccl)
if(EXISTS "${DIVERGEN_TORCH_ROOT}/lib/libtorch_cuda.so" AND _nvidia_includes AND DIVERGEN_CUDA_CRT AND DIVERGEN_CUDA_CCCL)
  set(DIVERGEN_HAVE_TORCH_CUDA ON)
  add_library(divergen_dep_torch_cuda INTERFACE)
  target_include_directories(divergen_dep_torch_cuda SYSTEM INTERFACE ${_nvidia_includes} ${DIVERGEN_CUDA_CRT} ${DIVERGEN_CUDA_CCCL})
  target_compile_definitions(divergen_dep_torch_cuda INTERFACE USE_C10D_NCCL)
  target_link_libraries(divergen_dep_torch_cuda INTERFACE divergen_dep_torch
    ${DIVERGEN_TORCH_ROOT}/lib/libtorch_cuda.so ${DIVERGEN_TORCH_ROOT}/lib/libc10_cuda.so)
  add_library(divergen::dep::torch_cuda ALIAS divergen_dep_torch_cuda)
endif()
