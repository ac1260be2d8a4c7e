// Working memory for kernels, aligned for the widest vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace preimage {

constexpr std::int64_t kAlignment = 64;  // bytes

struct AlignedDelete {
    void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t{kAlignment}); }
};
using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;

inline AlignedFloats aligned_floats(std::int64_t count) {
    const auto bytes = static_cast<std::size_t>(count) * sizeof(float);
    return AlignedFloats(static_cast<float*>(::operator new[](bytes, std::align_val_t{kAlignment})));
}

}  // namespace preimage
