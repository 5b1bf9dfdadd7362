# Flags that everything shares, and the function that compiles a kernel source once per CPU capability.

add_library(xmkern_options INTERFACE)
target_include_directories(xmkern_options INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/csrc")
target_compile_options(xmkern_options INTERFACE -Wall -Wextra -Wpedantic)
find_package(OpenMP COMPONENTS CXX)
if(OpenMP_CXX_FOUND)
  target_link_libraries(xmkern_options INTERFACE OpenMP::OpenMP_CXX)
else()
  message(STATUS "xmkern: no OpenMP found; the kernels will run on one thread")
endif()
if(XMKERN_SANITIZE)
  # Lines are all that a report names; to describe variables too takes half as long again.
  target_compile_options(xmkern_options INTERFACE -g1 -fno-omit-frame-pointer -fsanitize=address,undefined
                                                  -fno-sanitize-recover=all)
  target_link_options(xmkern_options INTERFACE -fsanitize=address,undefined)
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(XMKERN_X86 1)
else()
  set(XMKERN_X86 0)
endif()
if(XMKERN_X86 AND XMKERN_AVX512)
  set(xmkern_with_avx512 1)
else()
  set(xmkern_with_avx512 0)
endif()
target_compile_definitions(xmkern_options INTERFACE XMKERN_X86=${XMKERN_X86} XMKERN_AVX512=${xmkern_with_avx512})

set(xmkern_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
set(xmkern_flags_baseline "")
set(xmkern_flags_avx2 -march=x86-64-v3)
set(xmkern_flags_avx512 ${xmkern_avx512})
set(xmkern_flags_avx512_vpopcntdq ${xmkern_avx512} -mavx512vpopcntdq)
set(xmkern_flags_avx512_bf16 ${xmkern_avx512} -mavx512vpopcntdq -mavx512bf16)

# Under sanitizers what counts is how long the compiler takes, and that is a quarter.
set(xmkern_optimise -O3)
if(XMKERN_SANITIZE)
  set(xmkern_optimise -O1)
endif()

# xmkern_kernels(target source capability...): compiles `source` once per capability into `target`, each time with
# XMKERN_CAPABILITY defined as its name. Processors other than x86-64 get the baseline alone.
function(xmkern_kernels target source)
  if(NOT XMKERN_X86)
    set(ARGN baseline)
  elseif(NOT XMKERN_AVX512)
    list(FILTER ARGN EXCLUDE REGEX avx512)
  endif()
  string(MAKE_C_IDENTIFIER "${source}" stem)
  foreach(capability IN LISTS ARGN)
    set(variant "${stem}_${capability}")
    add_library(${variant} OBJECT "${source}")
    target_link_libraries(${variant} PRIVATE xmkern_options)
    target_compile_definitions(${variant} PRIVATE XMKERN_CAPABILITY=${capability})
    # GCC 12 takes the undefined pass-through operand inside its own AVX-512 intrinsics for a mistake.
    target_compile_options(${variant} PRIVATE ${xmkern_optimise} ${xmkern_flags_${capability}} -Wno-maybe-uninitialized -Wno-uninitialized)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${variant}>)
  endforeach()
endfunction()
