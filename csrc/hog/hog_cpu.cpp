// Checks, cuts the batch into bands, and hands them to threads.
#include <algorithm>

#include "common/aligned.h"
#include "common/parallel.h"
#include "hog/hog.h"

namespace preimage::hog {
namespace {

constexpr std::int64_t kRowsPerBand = 8;  // cell rows; each band computes about two more than it keeps

/// Rows are padded to whole cache lines, four of them.
std::int64_t padded(std::int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

struct Layout {
    std::int64_t line_pitch, line_count, cell_pitch, column_pitch;

    explicit Layout(const Band& band) {
        const bool fast = band.parameters.cell_size == 8;
        const int planes = planes_of(band.image, band.parameters);
        line_pitch = padded(band.image.width + 32);
        line_count = planes * (fast ? 10 : 3);
        // An odd number of cache lines, so that the 18 bins of a cell do not all fall into one cache set.
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
        scratch.right_shares = take(column_pitch);
        scratch.bins = reinterpret_cast<std::int32_t*>(take(column_pitch));
        scratch.left_cells = reinterpret_cast<std::int32_t*>(take(column_pitch));
        return scratch;
    }
};

Band whole_image(const TensorView& images, const TensorView& output, const Parameters& parameters) {
    require(parameters.cell_size >= 1 && parameters.cell_size < (std::int64_t{1} << 30),
            "cell_size must be at least 1 and below 2^30");
    Band band{};
    band.image = first_image(images);
    band.parameters = parameters;
    band.cell_rows = cell_count(band.image.height, parameters.cell_size);
    band.cell_columns = cell_count(band.image.width, parameters.cell_size);
    require(band.cell_rows > 0 && band.cell_columns > 0, "the image is smaller than a cell");
    const std::array<std::int64_t, 4> expected{images.shape[0], kChannels, band.cell_rows, band.cell_columns};
    require(output.type == ScalarType::float32 && output.shape == expected && output.is_contiguous(),
            "the output must be contiguous float32 of shape (B, 31, Hc, Wc)");
    return band;
}

}  // namespace

void compute(const TensorView& images, const TensorView& output, const Parameters& parameters,
             InstructionSet instruction_set, int threads) {
    images.require_device(-1);
    output.require_device(-1);
    const Band whole = whole_image(images, output, parameters);
    const std::int64_t batch = images.shape[0];
    if (batch == 0) {
        return;
    }
    const Split split =
        split_images(batch, whole.image.height * whole.image.width, whole.cell_rows, kRowsPerBand, threads);
    const std::int64_t bands = split.bands;
#ifdef PREIMAGE_X86_KERNELS
    const auto run = pick(instruction_set, band_portable, band_avx2, band_avx512);
#else
    const auto run = pick(instruction_set, band_portable);
#endif
    const Layout layout(whole);
    const AlignedFloats memory = aligned_floats(layout.floats() * split.workers);
    const std::int64_t output_size = kChannels * whole.cell_rows * whole.cell_columns;
    parallel_for(batch * bands, split.workers, [&](std::int64_t task, int worker) {
        const std::int64_t index = task / bands;
        const std::int64_t part = task % bands;
        Band band = whole;
        band.image.pixels = images.data + index * images.strides[0];
        band.output = reinterpret_cast<float*>(output.data) + index * output_size;
        band.first_row = whole.cell_rows * part / bands;
        band.last_row = whole.cell_rows * (part + 1) / bands;
        run(band, layout.scratch(memory.get() + layout.floats() * worker));
    });
}

}  // namespace preimage::hog
