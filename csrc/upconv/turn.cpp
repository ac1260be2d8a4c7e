#include "upconv/turn.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>

namespace preimage::upconv {

namespace {

// Outputs that are written side by side: a cache line of float32, whose sources stay in the nearest cache meanwhile.
constexpr std::int64_t kBlock = 16;

/// A tensor's strides in elements.
struct Strides {
    std::int64_t out, in, y, x;
};

template <class Element, bool kSideBySide>
void turn_block(const Element* source, Strides from, Element* target, Strides to, std::int64_t rows,
                std::int64_t columns, std::int64_t count) {
    for (std::int64_t y = 0; y < rows; ++y) {
        for (std::int64_t x = 0; x < columns; ++x) {
            const Element* read = source + (rows - 1 - y) * from.y + (columns - 1 - x) * from.x;
            Element* write = target + y * to.y + x * to.x;
            for (std::int64_t out = 0; out < count; ++out) {
                write[kSideBySide ? out : out * to.out] = read[out * from.out];
            }
        }
    }
}

template <class Element>
void turn_all(const TensorView& weight, const TensorView& output) {
    constexpr auto size = static_cast<std::int64_t>(sizeof(Element));
    const Strides from{weight.strides[0] / size, weight.strides[1] / size, weight.strides[2] / size,
                       weight.strides[3] / size};
    const Strides to{output.strides[1] / size, output.strides[0] / size, output.strides[2] / size,
                     output.strides[3] / size};
    const auto [inputs, outputs, rows, columns] = output.shape;
    const auto* source = reinterpret_cast<const Element*>(weight.data);
    auto* target = reinterpret_cast<Element*>(output.data);
    for (std::int64_t in = 0; in < inputs; ++in) {
        for (std::int64_t out = 0; out < outputs; out += kBlock) {
            const std::int64_t count = std::min(kBlock, outputs - out);
            const Element* read = source + in * from.in + out * from.out;
            Element* write = target + in * to.in + out * to.out;
            if (to.out == 1 && count == kBlock) {
                turn_block<Element, true>(read, from, write, to, rows, columns, kBlock);
            } else {
                turn_block<Element, false>(read, from, write, to, rows, columns, count);
            }
        }
    }
}

}  // namespace

void turn(const TensorView& weight, const TensorView& output) {
    weight.require_device(-1);
    output.require_device(-1);
    const auto [inputs, outputs, rows, columns] = output.shape;
    if (weight.shape != std::array<std::int64_t, 4>{outputs, inputs, rows, columns} || weight.type != output.type) {
        throw std::invalid_argument("weight (Co, Ci, H, W) is turned into output (Ci, Co, H, W) of the same dtype");
    }
    if (inputs * outputs * rows * columns == 0) {
        return;
    }
    switch (weight.element_size()) {
        case 2:
            return turn_all<std::uint16_t>(weight, output);
        case 4:
            return turn_all<std::uint32_t>(weight, output);
        default:
            throw std::invalid_argument("weights are float32, float16 or bfloat16, got uint8");
    }
}

}  // namespace preimage::upconv
