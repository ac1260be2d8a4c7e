// LBP on the CPU: checks arguments, divides the batch into bands and runs the kernel on them in parallel.
#include <algorithm>

#include "common/parallel.h"
#include "lbp/lbp.h"

namespace preimage::lbp {
namespace {

constexpr std::int64_t kRowsPerBand = 4;        // cell rows; neighboring bands both compute half a row
constexpr std::int64_t kPixelRowsPerBand = 64;  // rows of the map of labels

/// Return the count padded to whole cache lines, in groups of four.
std::int64_t padded(std::int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

struct Layout {
    std::int64_t line_pitch, line_count, columns, votes;  // in floats, except columns

    /// With `cell_size` 0, for the map of labels.
    Layout(const Image& image, std::int64_t cell_size, std::int64_t cell_columns) {
        line_pitch = padded(image.width + 32);
        line_count = cell_size == kFastCell ? kFastCell + 2 : 3;
        columns = cell_columns;
        votes = cell_size == 0 || cell_size == kFastCell ? 0 : 2 * 2 * (cell_columns + 2) * kPaddedLabels;
    }

    std::int64_t floats() const { return line_pitch * (line_count + 1) + 2 * columns * kPaddedLabels + votes; }

    Scratch scratch(float* memory) const {
        Scratch scratch{};
        const auto take = [&memory](std::int64_t count) {
            float* taken = memory;
            memory += count;
            return taken;
        };
        scratch.line_pitch = line_pitch;
        scratch.lines = take(line_pitch * line_count);
        scratch.codes = reinterpret_cast<std::uint32_t*>(take(line_pitch));
        scratch.features = take(columns * kPaddedLabels);
        scratch.carried = reinterpret_cast<std::int32_t*>(take(columns * kPaddedLabels));
        scratch.votes = reinterpret_cast<std::int64_t*>(take(votes));
        return scratch;
    }
};

}  // namespace

void compute(const TensorView& images, const TensorView& output, std::int64_t cell_size, int threads) {
    images.require_device(-1);
    output.require_device(-1);
    const Band whole = whole_image(images, output, cell_size);
    const auto run = PREIMAGE_KERNEL(band);
    const Layout layout(whole.image, cell_size, whole.cell_columns);
    const std::int64_t output_bytes = kLabels * whole.cell_rows * whole.cell_columns * size_of(whole.type);
    for_each_band(images.shape[0], whole.image.height * whole.image.width, whole.cell_rows, kRowsPerBand, threads,
                  layout.floats(),
                  [&](std::int64_t index, std::int64_t first_row, std::int64_t last_row, float* memory) {
                      Band band = whole;
                      band.image.pixels += index * images.strides[0];
                      band.output += index * output_bytes;
                      band.first_row = first_row;
                      band.last_row = last_row;
                      run(band, layout.scratch(memory));
                  });
}

void compute_codes(const TensorView& images, const TensorView& output, int threads) {
    images.require_device(-1);
    output.require_device(-1);
    const Image image = checked_image(images, output);
    const auto run = PREIMAGE_KERNEL(code_band);
    const Layout layout(image, 0, 0);
    const std::int64_t pixels = image.height * image.width;
    for_each_band(images.shape[0], pixels, image.height, kPixelRowsPerBand, threads, layout.floats(),
                  [&](std::int64_t index, std::int64_t first_row, std::int64_t last_row, float* memory) {
                      CodeBand band{image, first_row, last_row,
                                    reinterpret_cast<std::uint8_t*>(output.data) + index * pixels};
                      band.image.pixels += index * images.strides[0];
                      run(band, layout.scratch(memory));
                  });
}

}  // namespace preimage::lbp
