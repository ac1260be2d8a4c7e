// The only place where an address from Python becomes a pointer.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>

namespace preimage {

enum class ScalarType { uint8, float16, bfloat16, float32, float64 };

constexpr std::int64_t size_of(ScalarType type) {
    return type == ScalarType::uint8 ? 1 : type == ScalarType::float32 ? 4 : type == ScalarType::float64 ? 8 : 2;
}

/// A tensor as Python describes it: (address, shape, strides in bytes, dtype, device), always of rank 4.
using TensorDescription =
    std::tuple<std::uintptr_t, std::array<std::int64_t, 4>, std::array<std::int64_t, 4>, std::string, std::string>;

/// A description that passed the checks: rank 4, a known type, no negative sizes, and no overflow in address
/// computations. It does not own the memory, which the caller keeps alive during the call.
struct TensorView {
    std::byte* data;
    std::array<std::int64_t, 4> shape;
    std::array<std::int64_t, 4> strides;  // bytes; any sign, zero for a broadcast axis
    ScalarType type;
    int device;  // index of the CUDA device, -1 for the CPU

    explicit TensorView(const TensorDescription& description)
        : data(reinterpret_cast<std::byte*>(std::get<0>(description))),
          shape(std::get<1>(description)),
          strides(std::get<2>(description)),
          type(scalar_type(std::get<3>(description))),
          device(device_index(std::get<4>(description))) {
        check_extent();
    }

    /// Throw std::invalid_argument unless the tensor is on this device.
    void require_device(int expected) const {
        if (device != expected) {
            throw std::invalid_argument("expected a tensor on " + device_name(expected) + ", got one on " +
                                        device_name(device));
        }
    }

    std::int64_t element_size() const { return size_of(type); }

    /// An empty tensor is contiguous whatever its strides, which NumPy sets to zero.
    bool is_contiguous() const {
        if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
            return true;
        }
        std::int64_t expected = element_size();
        for (std::size_t axis = 4; axis-- > 0;) {
            if (shape[axis] > 1 && strides[axis] != expected) {
                return false;
            }
            expected *= shape[axis];
        }
        return true;
    }

private:
    static ScalarType scalar_type(std::string_view name) {
        if (name == "uint8") {
            return ScalarType::uint8;
        }
        if (name == "float16") {
            return ScalarType::float16;
        }
        if (name == "bfloat16") {
            return ScalarType::bfloat16;
        }
        if (name == "float32") {
            return ScalarType::float32;
        }
        if (name == "float64") {
            return ScalarType::float64;
        }
        throw std::invalid_argument("expected dtype uint8, float16, bfloat16, float32 or float64, got " +
                                    std::string(name));
    }

    static int device_index(std::string_view name) {
        constexpr std::string_view cuda = "cuda:";
        if (name == "cpu") {
            return -1;
        }
        int index = -1;
        if (name.substr(0, cuda.size()) == cuda) {
            const char* end = name.data() + name.size();
            const auto [rest, error] = std::from_chars(name.data() + cuda.size(), end, index);
            index = error == std::errc() && rest == end ? index : -1;
        }
        if (index < 0) {
            throw std::invalid_argument("expected device cpu or cuda:N, got " + std::string(name));
        }
        return index;
    }

    static std::string device_name(int index) { return index < 0 ? "cpu" : "cuda:" + std::to_string(index); }

    void check_extent() const {
        std::int64_t count = 1;
        std::int64_t reach = 0;
        bool overflow = false;
        for (std::size_t axis = 0; axis < 4; ++axis) {
            if (shape[axis] < 0) {
                throw std::invalid_argument("a tensor's sizes cannot be negative");
            }
            std::int64_t step = 0;
            const std::int64_t last = shape[axis] > 0 ? shape[axis] - 1 : 0;
            overflow = overflow || __builtin_mul_overflow(count, shape[axis], &count);
            overflow = overflow || __builtin_mul_overflow(strides[axis], last, &step);
            overflow = overflow || (step < 0 ? __builtin_sub_overflow(reach, step, &reach)
                                             : __builtin_add_overflow(reach, step, &reach));
        }
        if (overflow) {
            throw std::invalid_argument("a tensor's sizes and strides reach beyond 64-bit addresses");
        }
        if (count == 0) {
            return;
        }
        const auto address = reinterpret_cast<std::uintptr_t>(data);
        bool aligned = address % static_cast<std::uintptr_t>(element_size()) == 0;
        for (std::size_t axis = 0; axis < 4; ++axis) {
            aligned = aligned && (shape[axis] == 1 || strides[axis] % element_size() == 0);
        }
        if (address == 0 || !aligned) {
            throw std::invalid_argument("a tensor's address and strides must be multiples of its element size");
        }
    }
};

}  // namespace preimage
