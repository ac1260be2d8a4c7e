# PREIMAGE_KERNELS_ARCHIVE: a libpreimage_kernels.a that was built elsewhere from the same sources, for a machine where
# compiling the kernels would take too long. Each archive contains a line with the digest of its sources.
set(PREIMAGE_KERNELS_ARCHIVE "" CACHE FILEPATH "Archive of the kernels to link instead of compiling them")

file(GLOB_RECURSE preimage_sources RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}"
     cmake/*.cmake csrc/*.h csrc/*.cpp csrc/*.cu csrc/*.cuh)
list(APPEND preimage_sources CMakeLists.txt)
set(preimage_digest "")
foreach(source ${preimage_sources})
  file(SHA256 "${CMAKE_CURRENT_SOURCE_DIR}/${source}" digest)
  string(SHA256 preimage_digest "${preimage_digest} ${source} ${digest}")
endforeach()

# Returns in `result` the GPU architectures of an archive, or "cpu". Fails if it was built from other sources, or does
# not have the architectures that are asked for.
function(preimage_archive_contents archive result)
  if(NOT EXISTS "${archive}")
    message(FATAL_ERROR "PREIMAGE_KERNELS_ARCHIVE: there is no file ${archive}")
  endif()
  file(STRINGS "${archive}" found REGEX "preimage kernels [0-9a-f]+ for ")
  string(REGEX MATCH "preimage kernels ([0-9a-f]+) for ([^ ]+)" found "${found}")
  set(contents "${CMAKE_MATCH_2}")
  if(NOT CMAKE_MATCH_1 STREQUAL preimage_digest)
    message(FATAL_ERROR "PREIMAGE_KERNELS_ARCHIVE: ${archive} was built from other sources (digest '${CMAKE_MATCH_1}', "
                        "expected '${preimage_digest}'): configure it again and build its target preimage_kernels")
  endif()
  if(CMAKE_CUDA_ARCHITECTURES AND NOT "${CMAKE_CUDA_ARCHITECTURES}" STREQUAL "${contents}")
    message(FATAL_ERROR "PREIMAGE_KERNELS_ARCHIVE: ${archive} is for ${contents}, not ${CMAKE_CUDA_ARCHITECTURES}")
  endif()
  set(${result} "${contents}" PARENT_SCOPE)
endfunction()

# Links a target with the archive, as it would be with preimage_kernels.
function(preimage_link_archive target)
  target_link_libraries(${target} PRIVATE "${PREIMAGE_KERNELS_ARCHIVE}" preimage_options)
  if(NOT preimage_archive STREQUAL "cpu")
    find_package(CUDAToolkit REQUIRED)
    target_link_libraries(${target} PRIVATE CUDA::cudart_static)
    target_compile_definitions(${target} PRIVATE PREIMAGE_CUDA_KERNELS)
  endif()
endfunction()

if(PREIMAGE_KERNELS_ARCHIVE)
  preimage_archive_contents("${PREIMAGE_KERNELS_ARCHIVE}" preimage_archive)
  set(PREIMAGE_CUDA OFF)
endif()
