// Dalal and Triggs's HOG on the CPU: checks arguments, divides the batch into bands and runs the kernel on them in
// parallel.
#include <algorithm>

#include "common/parallel.h"
#include "dalal_triggs/dalal_triggs.h"

namespace preimage::dalal_triggs {
namespace {

constexpr std::int64_t kRowsPerBand = 8;  // block rows; each band computes block_height - 1 cell rows more
constexpr std::int64_t kChunkSize = 16;   // elements that the kernel reads and writes together
constexpr std::int64_t kLine = kAlignment / static_cast<std::int64_t>(sizeof(float));  // cache line in floats

/// Return a number of floats padded to whole cache lines.
std::int64_t padded(std::int64_t floats) { return (floats + kLine - 1) / kLine * kLine; }

struct Layout {
    std::int64_t line_pitch, lines, line_floats, sums, cell_pitch, cell_rows;
    int bins;

    explicit Layout(const Band& band) {
        bins = band.parameters.orientations;
        line_pitch = padded(band.image.width + 3 * kChunkSize);
        line_floats = is_exact(band.image, band.parameters) ? 1 : 2;
        lines = 3 * planes_of(band.image, band.parameters.color);
        sums = padded(2 * band.grid.cell_columns * kCopies * (bins + 2));
        cell_pitch = padded(band.grid.cell_columns + kChunkSize);
        cell_rows = band.parameters.block_height;
    }

    std::int64_t floats() const {
        return (lines + 1) * line_floats * line_pitch + 2 * line_pitch + sums + 2 * cell_rows * (bins + 1) * cell_pitch;
    }

    Scratch scratch(float* memory) const {
        Scratch scratch{};
        const auto take = [&memory](std::int64_t floats) {
            float* taken = memory;
            memory += floats;
            return taken;
        };
        scratch.line_pitch = line_pitch;
        scratch.cell_pitch = cell_pitch;
        scratch.lines = reinterpret_cast<std::byte*>(take(lines * line_floats * line_pitch));
        scratch.zeros = reinterpret_cast<std::byte*>(take(line_floats * line_pitch));
        scratch.lengths = take(line_pitch);
        scratch.bins = reinterpret_cast<std::int32_t*>(take(line_pitch));
        scratch.sums = reinterpret_cast<double*>(take(sums));
        scratch.cells = reinterpret_cast<double*>(take(2 * cell_rows * bins * cell_pitch));
        scratch.norms = reinterpret_cast<double*>(take(2 * cell_rows * cell_pitch));
        return scratch;
    }
};

/// `whole` is the first of `batch` images, `stride` bytes apart.
void compute_bands(const Band& whole, std::int64_t batch, std::int64_t stride, int threads) {
    const auto run = PREIMAGE_KERNEL(band);
    const Layout layout(whole);
    const std::int64_t output_bytes = whole.parameters.channels() * whole.grid.blocks() * size_of(whole.type);
    const std::int64_t rows = whole.raw ? whole.grid.cell_rows : whole.grid.block_rows;
    for_each_band(batch, whole.image.height * whole.image.width, rows, kRowsPerBand, threads, layout.floats(),
                  [&](std::int64_t index, std::int64_t first_row, std::int64_t last_row, float* memory) {
                      Band band = whole;
                      band.image.pixels += index * stride;
                      band.output += index * output_bytes;
                      band.first_row = first_row;
                      band.last_row = last_row;
                      const Scratch scratch = layout.scratch(memory);
                      // The kernel computes whole chunks; what lies beyond the last cell is not written.
                      std::fill(scratch.cells, scratch.norms + layout.cell_rows * layout.cell_pitch, 0.0);
                      run(band, scratch);
                  });
}

}  // namespace

void compute(const TensorView& images, const TensorView& output, const Parameters& parameters, int threads) {
    images.require_device(-1);
    output.require_device(-1);
    Band whole{};
    whole.image = checked_image(images);
    whole.parameters = parameters;
    whole.grid = checked_grid(whole.image, parameters);
    constexpr const char* kOutput =
        "the output must be contiguous float32 or float16 of shape (B, block_height * block_width * N, Hb, Wb)";
    require(output.type == ScalarType::float32 || output.type == ScalarType::float16, kOutput);
    check_features(output, images.shape[0], parameters, whole.grid, kOutput);
    const Directions directions = make_directions(parameters.orientations);
    whole.directions = &directions;
    whole.output = output.data;
    whole.type = output.type;
    compute_bands(whole, images.shape[0], images.strides[0], threads);
}

void histograms(const Image& image, const Parameters& parameters, const Directions& directions, double* cells,
                int threads) {
    Band whole{};
    whole.image = image;
    whole.parameters = parameters;
    whole.grid = checked_grid(image, parameters);
    whole.directions = &directions;
    whole.output = reinterpret_cast<std::byte*>(cells);
    whole.type = ScalarType::float32;
    whole.raw = true;
    compute_bands(whole, 1, 0, threads);
}

}  // namespace preimage::dalal_triggs
