// Checks, cuts the batch into bands, and hands them to threads.
#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "common/parallel.h"
#include "hog/hog.h"

namespace preimage::hog {
namespace {

constexpr std::int64_t kAlignment = 64;             // bytes; also what rows are padded to, in floats
constexpr std::int64_t kPixelsPerThread = 1 << 16;  // about 0.2 ms of work, several times what a thread costs
constexpr std::int64_t kRowsPerBand = 8;            // cell rows; each band computes about two more than it keeps

std::int64_t padded(std::int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

struct Layout {
    std::int64_t line_pitch, line_count, cell_pitch, column_pitch;

    explicit Layout(const Band& band) {
        const bool fast = band.parameters.cell_size == 8;
        const int planes = band.channels == 3 && band.parameters.colour == Colour::strongest ? 3 : 1;
        line_pitch = padded(band.width + 32);
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

struct AlignedDelete {
    void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t{kAlignment}); }
};
using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;

AlignedFloats aligned_floats(std::int64_t count) {
    const auto bytes = static_cast<std::size_t>(count) * sizeof(float);
    return AlignedFloats(static_cast<float*>(::operator new[](bytes, std::align_val_t{kAlignment})));
}

void require(bool holds, const char* problem) {
    if (!holds) {
        throw std::invalid_argument(problem);
    }
}

Band whole_image(const TensorView& images, const TensorView& output, const Parameters& parameters) {
    const auto [batch, channels, height, width] = images.shape;
    require(channels == 1 || channels == 3, "HOG takes 1 or 3 channels");
    require(parameters.cell_size >= 1, "cell_size must be at least 1");
    // Keeps every sum of sizes far from overflow, and columns inside 32 bits.
    require(std::max({height, width, parameters.cell_size}) < (std::int64_t{1} << 30),
            "an image's sides and cell_size must be below 2^30");
    Band band{};
    band.type = images.type;
    band.channels = static_cast<int>(channels);
    band.height = height;
    band.width = width;
    band.channel_stride = images.strides[1];
    band.row_stride = images.strides[2];
    band.column_stride = images.strides[3];
    band.parameters = parameters;
    band.cell_rows = cell_count(height, parameters.cell_size);
    band.cell_columns = cell_count(width, parameters.cell_size);
    require(height > 0 && width > 0 && band.cell_rows > 0 && band.cell_columns > 0, "the image is smaller than a cell");
    const std::array<std::int64_t, 4> expected{batch, kChannels, band.cell_rows, band.cell_columns};
    require(output.type == ScalarType::float32 && output.shape == expected && output.is_contiguous(),
            "the output must be contiguous float32 of shape (B, 31, Hc, Wc)");
    return band;
}

auto band_function(InstructionSet instruction_set) {
#ifdef PREIMAGE_X86_KERNELS
    if (instruction_set == InstructionSet::avx512) {
        return band_avx512;
    }
    if (instruction_set == InstructionSet::avx2) {
        return band_avx2;
    }
#endif
    (void)instruction_set;
    return band_portable;
}

/// Bands per image: enough for every thread to have work, few enough not to repeat much at their borders.
std::int64_t bands_per_image(std::int64_t batch, std::int64_t cell_rows, int threads) {
    if (threads == 1 || batch >= 4 * threads) {
        return 1;
    }
    const std::int64_t wanted = batch == 1 ? threads : (2 * threads + batch - 1) / batch;
    return std::clamp<std::int64_t>(cell_rows / kRowsPerBand, 1, wanted);
}

}  // namespace

void compute(const TensorView& images, const TensorView& output, const Parameters& parameters,
             InstructionSet instruction_set, int threads) {
    const Band image = whole_image(images, output, parameters);
    const std::int64_t batch = images.shape[0];
    if (batch == 0) {
        return;
    }
    const std::int64_t useful = std::max<std::int64_t>(1, batch * image.height * image.width / kPixelsPerThread);
    const int allowed = static_cast<int>(std::clamp<std::int64_t>(threads, 1, useful));
    const std::int64_t bands = bands_per_image(batch, image.cell_rows, allowed);
    const std::int64_t tasks = batch * bands;
    const int workers = static_cast<int>(std::min<std::int64_t>(allowed, tasks));

    const auto run = band_function(instruction_set);
    const Layout layout(image);
    const AlignedFloats memory = aligned_floats(layout.floats() * workers);
    const std::int64_t output_size = kChannels * image.cell_rows * image.cell_columns;
    parallel_for(tasks, workers, [&](std::int64_t task, int worker) {
        const std::int64_t index = task / bands;
        const std::int64_t part = task % bands;
        Band band = image;
        band.pixels = images.data + index * images.strides[0];
        band.output = reinterpret_cast<float*>(output.data) + index * output_size;
        band.first_row = image.cell_rows * part / bands;
        band.last_row = image.cell_rows * (part + 1) / bands;
        run(band, layout.scratch(memory.get() + layout.floats() * worker));
    });
}

}  // namespace preimage::hog
