# The CUDA kernels, as an extension of their own: the CPU build stays small and quick, and needs no CUDA toolkit.
# XMKERN_CUDA: OFF (default), ON (a missing toolkit is an error) or AUTO (built where nvcc is found).

set(XMKERN_CUDA OFF CACHE STRING "Build the CUDA extension: OFF, ON or AUTO")
set_property(CACHE XMKERN_CUDA PROPERTY STRINGS OFF ON AUTO)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100) # machine code for each, and PTX for what comes later
endif()

set(xmkern_cuda ${XMKERN_CUDA})
if(XMKERN_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  set(xmkern_cuda ${CMAKE_CUDA_COMPILER})
endif()

if(xmkern_cuda AND NOT XMKERN_NATIVE_TESTS)
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17) # CMake 3.24 knows no later one for nvcc
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  pybind11_add_module(_cuda python/cuda_hamming.cpp csrc/hamming/hamming.cu)
  target_include_directories(_cuda PRIVATE csrc ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  install(TARGETS _cuda LIBRARY DESTINATION xmkern)
endif()
