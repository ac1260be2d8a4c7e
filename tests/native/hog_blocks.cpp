// HOG's block program on the host: ORDER INPUT OUTPUT bytes(0|1) B C H W cell_size strongest(0|1) strip_rows(0: chosen)
// layout(0: planar, 1: interleaved, 2: gaps between rows, 3: gaps before images)
#include <cmath>
#include <cstring>
#include <memory>

#include "hog/hog_blocks.h"
#include "host_run.h"

using namespace preimage;
using namespace preimage::hog;

constexpr std::int64_t kMultiprocessors = 132;

template <class Votes>
void run_strips(const Batch& batch, ThreadOrder order, std::int64_t rows) {
    using Program = StripProgram<Votes>;
    Strips strips = Program::strips(batch, kMultiprocessors);
    if (rows > 0) {
        strips.rows = rows;
        strips.down = (batch.cell_rows + rows - 1) / rows;
    }
    for (std::int64_t index = 0; index < strips.across * strips.down; ++index) {
        const auto shared = std::make_unique<typename Program::Shared>();  // new for every block, as on a GPU
        std::memset(shared.get(), 0xff, sizeof(typename Program::Shared));
        HostBlock<Program::kThreads> block(order);
        Program::run(block, batch, strips, index, *shared);
    }
}

void run(const Batch& batch, bool strongest, ThreadOrder order, std::int64_t rows) {
    const bool planes = strongest && batch.image.channels == 3;
    if (batch.cell_size != kRowPixels) {
        planes ? run_strips<PixelVotes<3>>(batch, order, rows) : run_strips<PixelVotes<1>>(batch, order, rows);
        return;
    }
    with_pixel_format(batch.image, batch.image_stride, [&](auto format) {
        using Format = decltype(format);
        if (planes) {
            if constexpr (Format::kChannels == 3) {
                run_strips<RowVotes<Format, 3>>(batch, order, rows);
            }
        } else {
            run_strips<RowVotes<Format, 1>>(batch, order, rows);
        }
    });
}

/// Bytes from one element to the next of each dimension, and before the first one.
struct Strides {
    std::int64_t image, channel, row, column, first;
};

Strides strides_of(std::int64_t layout, std::int64_t size, std::int64_t channels, std::int64_t height,
                   std::int64_t width) {
    if (layout == 1) {
        return {size * channels * height * width, size, size * channels * width, size * channels, 0};
    }
    const std::int64_t row = size * width + (layout == 2 ? size : 0);
    const std::int64_t first = layout == 3 ? size : 0;
    return {row * height * channels + first, row * height, row, size, first};
}

int main(int count, char** arguments) {
    if (count != 13) {
        host_run::fail("wrong number of arguments");
    }
    const auto number = [&](int index) { return std::int64_t{std::atoll(arguments[4 + index])}; };
    const auto planar = host_run::read<std::byte>(arguments[2]);
    const std::int64_t images = number(1), channels = number(2), height = number(3), width = number(4);
    const std::int64_t size = number(0) != 0 ? 1 : 4;
    const Strides strides = strides_of(number(8), size, channels, height, width);

    // Exactly as long as needed and aligned like GPU memory, so that sanitizers find reads beyond it.
    const std::int64_t bytes = strides.first + (images - 1) * strides.image + (channels - 1) * strides.channel +
                               (height - 1) * strides.row + (width - 1) * strides.column + size;
    const std::unique_ptr<std::byte[], decltype(&std::free)> pixels(
        static_cast<std::byte*>(std::malloc(static_cast<std::size_t>(bytes))), &std::free);
    std::byte* const first = pixels.get() + strides.first;
    const std::byte* from = planar.data();
    for (std::int64_t image = 0; image < images; ++image) {
        for (std::int64_t channel = 0; channel < channels; ++channel) {
            for (std::int64_t y = 0; y < height; ++y) {
                for (std::int64_t x = 0; x < width; ++x, from += size) {
                    std::memcpy(first + image * strides.image + channel * strides.channel + y * strides.row +
                                    x * strides.column,
                                from, static_cast<std::size_t>(size));
                }
            }
        }
    }

    Batch batch{};
    batch.image = host_run::first_image(first, number(0) != 0, channels, height, width);
    batch.image.channel_stride = strides.channel;
    batch.image.row_stride = strides.row;
    batch.image.column_stride = strides.column;
    batch.image_stride = strides.image;
    batch.images = images;
    batch.cell_size = number(5);
    batch.cell_rows = cell_count(height, batch.cell_size);
    batch.cell_columns = cell_count(width, batch.cell_size);
    const std::int64_t plane = batch.cell_rows * batch.cell_columns;
    const std::int64_t cells = images * plane;
    const float unwritten = std::nanf("");
    std::vector<float> output(static_cast<std::size_t>(kChannels * cells), unwritten);
    batch.output = output.data();
    const ThreadOrder order = host_run::order_named(arguments[1]);
    run(batch, number(6) != 0, order, number(7));
    host_run::write(arguments[3], output);

    // The gradient starts from histograms and energies: these must give the same output.
    std::vector<float> histograms(static_cast<std::size_t>(kBins * cells), unwritten);
    std::vector<float> energies(static_cast<std::size_t>(cells), unwritten);
    batch.cells = histograms.data();
    batch.energies = energies.data();
    run(batch, number(6) != 0, order, number(7));
    std::vector<float> again(output.size(), unwritten);
    for (std::int64_t index = 0; index < cells; ++index) {
        const std::int64_t image = index / plane, row = index % plane / batch.cell_columns;
        const std::int64_t column = index % batch.cell_columns;
        float factors[4];
        cell_normalizers(batch, image, row, column, factors);
        const auto histogram = [&](int bin) {
            return histograms[static_cast<std::size_t>((image * kBins + bin) * plane + index % plane)];
        };
        write_channels(histogram, factors, plane, again.data() + image * kChannels * plane + index % plane);
    }
    if (std::memcmp(again.data(), output.data(), output.size() * sizeof(float)) != 0) {
        host_run::fail("histograms and energies do not give the same output");
    }
}
