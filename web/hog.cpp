// HOG for WebAssembly: the CPU kernel of csrc/hog, built for its portable instruction set, behind two C functions.
#include <array>
#include <cstdint>

#include "hog/hog.h"

namespace preimage::hog {
namespace {

constexpr std::int64_t kCell = 8;  // pixels, that of `hog-compact`, as is the reduction to luma

TensorView view_of(const void* data, const std::array<std::int64_t, 4>& shape,
                   const std::array<std::int64_t, 4>& strides, const char* type) {
    return TensorView(TensorDescription{reinterpret_cast<std::uintptr_t>(data), shape, strides, type, "cpu"});
}

}  // namespace

extern "C" {

/// Return the number of cells along a side of `pixels`, 0 for a side of less than half a cell.
int hog_cells(int pixels) { return static_cast<int>(pixels > 0 ? cell_count(pixels, kCell) : 0); }

/// Compute HOG of an image: `rgba` (height, width, 4) uint8, whose alpha is ignored, as a canvas has it -> `features`
/// (31, hog_cells(height), hog_cells(width)) float32. Neither side may be without cells.
void hog(const std::uint8_t* rgba, int height, int width, float* features) {
    const std::int64_t row = 4 * std::int64_t{width};
    const auto image = view_of(rgba, {1, 3, height, width}, {row * height, 1, row, 4}, "uint8");
    const std::int64_t rows = hog_cells(height);
    const std::int64_t columns = hog_cells(width);
    const std::int64_t plane = rows * columns;
    const auto output =
        view_of(features, {1, kChannels, rows, columns}, {4 * kChannels * plane, 4 * plane, 4 * columns, 4}, "float32");
    Parameters parameters{};
    parameters.cell_size = kCell;
    parameters.color = Color::luma;
    compute(image, output, parameters, 1);
}
}

}  // namespace preimage::hog
