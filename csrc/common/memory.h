// Working memory aligned for the widest vectors, and large pages for large outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace preimage {

constexpr std::int64_t kAlignment = 64;  // bytes

struct AlignedDelete {
    void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t{kAlignment}); }
};
using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;

/// Allocate `count` uninitialized floats for each of `copies`. Throws std::bad_alloc also if there is no such number of
/// bytes.
inline AlignedFloats aligned_floats(std::int64_t count, std::int64_t copies = 1) {
    std::int64_t bytes = 0;
    if (__builtin_mul_overflow(count, copies, &bytes) ||
        __builtin_mul_overflow(bytes, static_cast<std::int64_t>(sizeof(float)), &bytes)) {
        throw std::bad_alloc();
    }
    return AlignedFloats(
        static_cast<float*>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{kAlignment})));
}

/// Ask the operating system for 2 MiB pages where [memory, memory + bytes) spans some. The request may be refused; no
/// value changes.
///
/// Freshly allocated outputs are mapped page by page at the first write, which with 4 KiB pages takes longer than the
/// kernels themselves.
inline void prefer_large_pages(void* memory, std::int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t page = std::uintptr_t{1} << 21;
    const auto begin = (reinterpret_cast<std::uintptr_t>(memory) + page - 1) / page * page;
    const auto end = (reinterpret_cast<std::uintptr_t>(memory) + static_cast<std::uintptr_t>(bytes)) / page * page;
    if (begin < end) {
        static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
    }
#else
    static_cast<void>(memory);
    static_cast<void>(bytes);
#endif
}

}  // namespace preimage
