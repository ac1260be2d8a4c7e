// Large outputs are fresh memory: every page of it is handed over by the system at its first use, which for pages of
// 4 KiB takes longer than everything the kernels do.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace preimage {

/// Asks the system for 2 MiB pages where [memory, memory + bytes) spans some; it may not grant them. Changes no value.
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
