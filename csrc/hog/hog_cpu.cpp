// HOG on the CPU: checks arguments, divides the batch into bands and runs the kernel on them in parallel.
#include <algorithm>

#include "common/parallel.h"
#include "hog/hog.h"

namespace preimage::hog {
namespace {

constexpr std::int64_t kRowsPerBand = 8;  // cell rows; each band computes about two more than it writes

/// Return the count padded to whole cache lines, in groups of four.
std::int64_t padded(std::int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

struct Layout {
    std::int64_t line_pitch, line_count, cell_pitch, column_pitch;

    explicit Layout(const Band& band) {
        const bool fast = band.parameters.cell_size == 8;
        const int planes = planes_of(band.image, band.parameters.color);
        line_pitch = padded(band.image.width + 32);
        line_count = planes * (fast ? 10 : 3);
        // An odd number of cache lines, so that the 18 bins of a cell do not share a cache set.
        cell_pitch = padded(band.cell_columns + 2 + 16) + 16;
        column_pitch = fast ? 0 : line_pitch;
    }

    std::int64_t floats() const { return line_pitch * line_count + cell_pitch * 3 * (kBins + 1) + column_pitch * 4; }

    Scratch scratch(float* memory) const {
        Scratch scratch{};
        const auto take = [&memory](std::int64_t count) {
            float* taken = memory;
            memory += count;
            return taken;
        };
        scratch.line_pitch = line_pitch;
        scratch.cell_pitch = cell_pitch;
        scratch.lines = take(line_pitch * line_count);
        scratch.cells = take(cell_pitch * 3 * kBins);
        scratch.norms = take(cell_pitch * 3);
        scratch.lengths = take(column_pitch);
        scratch.right_weights = take(column_pitch);
        scratch.bins = reinterpret_cast<std::int32_t*>(take(column_pitch));
        scratch.left_cells = reinterpret_cast<std::int32_t*>(take(column_pitch));
        return scratch;
    }
};

Band whole_band(const Image& image, const Parameters& parameters) {
    Band band{};
    band.image = image;
    band.parameters = parameters;
    band.cell_rows = cell_count(image.height, parameters.cell_size);
    band.cell_columns = cell_count(image.width, parameters.cell_size);
    return band;
}

/// `whole` is the first of `batch` images, `stride` bytes apart.
void compute_bands(const Band& whole, std::int64_t batch, std::int64_t stride, int threads) {
    const auto run = PREIMAGE_KERNEL(band);
    const Layout layout(whole);
    const std::int64_t channels = whole.raw ? kBins : kChannels;
    const std::int64_t output_bytes = channels * whole.cell_rows * whole.cell_columns * size_of(whole.type);
    for_each_band(batch, whole.image.height * whole.image.width, whole.cell_rows, kRowsPerBand, threads,
                  layout.floats(),
                  [&](std::int64_t index, std::int64_t first_row, std::int64_t last_row, float* memory) {
                      Band band = whole;
                      band.image.pixels += index * stride;
                      band.output += index * output_bytes;
                      band.first_row = first_row;
                      band.last_row = last_row;
                      run(band, layout.scratch(memory));
                  });
}

}  // namespace

void compute(const TensorView& images, const TensorView& output, const Parameters& parameters, int threads) {
    images.require_device(-1);
    output.require_device(-1);
    Band whole = whole_band(checked_image(images, parameters), parameters);
    constexpr const char* kOutput = "the output must be contiguous float32 or float16 of shape (B, 31, Hc, Wc)";
    require(output.type == ScalarType::float32 || output.type == ScalarType::float16, kOutput);
    check_features(output, images.shape[0], whole.cell_rows, whole.cell_columns, kOutput);
    whole.output = output.data;
    whole.type = output.type;
    compute_bands(whole, images.shape[0], images.strides[0], threads);
}

void compute_histograms(const TensorView& images, const TensorView& output, const Parameters& parameters, int threads) {
    images.require_device(-1);
    output.require_device(-1);
    Band whole = whole_band(checked_image(images, parameters), parameters);
    check_float_features(output, images.shape[0], whole.cell_rows, whole.cell_columns,
                         "the output must be contiguous float32 of shape (B, 18, Hc, Wc)", kBins);
    whole.output = output.data;
    whole.type = output.type;
    whole.raw = true;
    compute_bands(whole, images.shape[0], images.strides[0], threads);
}

void histograms(const Image& image, const Parameters& parameters, float* cells, int threads) {
    Band whole = whole_band(image, parameters);
    whole.output = reinterpret_cast<std::byte*>(cells);
    whole.type = ScalarType::float32;
    whole.raw = true;
    compute_bands(whole, 1, 0, threads);
}

}  // namespace preimage::hog
