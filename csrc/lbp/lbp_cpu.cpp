// Checks, cuts the batch into bands, and hands them to threads.
#include <algorithm>

#include "common/aligned.h"
#include "common/parallel.h"
#include "lbp/lbp.h"
#include "lbp/lbp_checks.h"

namespace preimage::lbp {
namespace {

constexpr std::int64_t kRowsPerBand = 4;        // cell rows; each band computes half a row twice at either end
constexpr std::int64_t kPixelRowsPerBand = 64;  // of the map of labels

/// Rows are padded to whole cache lines, four of them.
std::int64_t padded(std::int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

struct Layout {
    std::int64_t line_pitch, line_count, columns, votes;  // floats but for the columns

    /// For `cell_size` 0 of the map of labels.
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

void compute(const TensorView& images, const TensorView& output, std::int64_t cell_size, InstructionSet instruction_set,
             int threads) {
    images.require_device(-1);
    output.require_device(-1);
    const Band whole = whole_image(images, output, cell_size);
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
    const Layout layout(whole.image, cell_size, whole.cell_columns);
    const AlignedFloats memory = aligned_floats(layout.floats() * split.workers);
    const std::int64_t output_size = kLabels * whole.cell_rows * whole.cell_columns;
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

void compute_codes(const TensorView& images, const TensorView& output, InstructionSet instruction_set, int threads) {
    images.require_device(-1);
    output.require_device(-1);
    const Image image = checked_image(images, output);
    const std::int64_t batch = images.shape[0];
    if (batch == 0) {
        return;
    }
    const Split split = split_images(batch, image.height * image.width, image.height, kPixelRowsPerBand, threads);
    const std::int64_t bands = split.bands;
#ifdef PREIMAGE_X86_KERNELS
    const auto run = pick(instruction_set, code_band_portable, code_band_avx2, code_band_avx512);
#else
    const auto run = pick(instruction_set, code_band_portable);
#endif
    const Layout layout(image, 0, 0);
    const AlignedFloats memory = aligned_floats(layout.floats() * split.workers);
    parallel_for(batch * bands, split.workers, [&](std::int64_t task, int worker) {
        const std::int64_t index = task / bands;
        const std::int64_t part = task % bands;
        CodeBand band{image, image.height * part / bands, image.height * (part + 1) / bands,
                      reinterpret_cast<std::uint8_t*>(output.data) + index * image.height * image.width};
        band.image.pixels = images.data + index * images.strides[0];
        run(band, layout.scratch(memory.get() + layout.floats() * worker));
    });
}

}  // namespace preimage::lbp
