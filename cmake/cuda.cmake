# Sets PREIMAGE_CUDA_FOUND and, where it is true, enables the CUDA language.
if(NOT PREIMAGE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "PREIMAGE_CUDA must be AUTO, ON or OFF, got '${PREIMAGE_CUDA}'.")
endif()

set(PREIMAGE_CUDA_FOUND FALSE)
if(NOT PREIMAGE_CUDA STREQUAL "OFF")
  if(CMAKE_CUDA_COMPILER AND NOT EXISTS "${CMAKE_CUDA_COMPILER}")
    set(cuda_compiler_works FALSE)  # named by the caller and not there
  else()
    include(CheckLanguage)
    check_language(CUDA)  # no compiler, or one that does not get along with the host's: not found
    set(cuda_compiler_works ${CMAKE_CUDA_COMPILER})
  endif()
  if(cuda_compiler_works)
    set(PREIMAGE_CUDA_FOUND TRUE)
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      # Explicit, never `native`: what is built must not depend on the card in the building machine.
      set(CMAKE_CUDA_ARCHITECTURES 80 90 100 120)
      execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --version OUTPUT_VARIABLE nvcc_version)
      if(nvcc_version MATCHES "release ([0-9.]+)" AND CMAKE_MATCH_1 VERSION_LESS 12.8)
        set(CMAKE_CUDA_ARCHITECTURES 80 90)  # the newer two are unknown to it
      endif()
    endif()
    # Linked in, so that the module loads where there is no CUDA at all.
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    enable_language(CUDA)
  elseif(PREIMAGE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PREIMAGE_CUDA=ON needs nvcc, and no working one was found: "
                        "put it on PATH, name it in CMAKE_CUDA_COMPILER, or build with PREIMAGE_CUDA=AUTO.")
  endif()
endif()
message(STATUS "CUDA code: ${PREIMAGE_CUDA_FOUND}")
