// LBP's block programs on the host: ORDER INPUT OUTPUT bytes(0|1) B C H W cell_size(0: the map of labels)
//     strip_rows(0: chosen) layout(0: planar, 1: interleaved, 2: every other column, 3: columns reversed)
#include <cmath>
#include <cstring>
#include <memory>

#include "host_run.h"
#include "lbp/lbp_blocks.h"
#include "lbp/lbp_generic_blocks.h"

using namespace preimage;
using namespace preimage::lbp;

/// Calls run(block, index, shared) for every block, with new memory, as on a GPU.
template <class Program, class Run>
void for_blocks(std::int64_t count, ThreadOrder order, const Run& run) {
    for (std::int64_t index = 0; index < count; ++index) {
        const auto shared = std::make_unique<typename Program::Shared>();
        std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(typename Program::Shared));
        HostBlock<Program::kThreads> block(order);
        run(block, index, *shared);
    }
}

void run_features(const Batch& batch, ThreadOrder order, std::int64_t rows) {
    if (batch.cell_size != kFastCell) {
        for_blocks<CellProgram>(
            batch.images * batch.cell_rows * batch.cell_columns, order,
            [&](auto& block, std::int64_t index, auto& shared) { CellProgram::run(block, batch, index, shared); });
        return;
    }
    with_pixel_format(batch.image, batch.image_stride, [&](auto format) {
        using Program = StripProgram<decltype(format)>;
        Strips strips = Program::strips(batch);
        if (rows > 0) {
            strips.rows = rows;
            strips.down = (batch.cell_rows + rows - 1) / rows;
        }
        for_blocks<Program>(
            batch.images * strips.across * strips.down, order,
            [&](auto& block, std::int64_t index, auto& shared) { Program::run(block, batch, strips, index, shared); });
    });
}

/// The first image of a batch in another layout than the planar one.
Image in_layout(Image image, std::int64_t layout) {
    const std::int64_t size = image.column_stride;
    if (layout == 1) {
        image.channel_stride = size;
        image.column_stride *= image.channels;
        image.row_stride *= image.channels;
    } else if (layout == 2) {
        image.column_stride *= 2;
        image.row_stride *= 2;
        image.channel_stride *= 2;
    } else if (layout == 3) {
        image.pixels += size * (image.width - 1);
        image.column_stride = -size;
    }
    return image;
}

int main(int count, char** arguments) {
    if (count != 12) {
        host_run::fail("wrong number of arguments");
    }
    const auto number = [&](int index) { return std::int64_t{std::atoll(arguments[4 + index])}; };
    const auto pixels = host_run::read<std::byte>(arguments[2]);
    const std::int64_t channels = number(2), height = number(3), width = number(4);

    Batch batch{};
    const Image planar = host_run::first_image(pixels.data(), number(0) != 0, channels, height, width);
    batch.image = in_layout(planar, number(7));
    batch.image_stride = host_run::image_bytes(planar) * (number(7) == 2 ? 2 : 1);
    batch.images = number(1);
    batch.cell_size = number(5);
    const ThreadOrder order = host_run::order_named(arguments[1]);
    if (batch.cell_size == 0) {
        std::vector<std::uint8_t> labels(static_cast<std::size_t>(batch.images * height * width), 200);
        batch.labels = labels.data();
        with_pixel_format(batch.image, batch.image_stride, [&](auto format) {
            using Program = CodeProgram<decltype(format)>;
            const std::int64_t across = Program::across(batch);
            const std::int64_t down = Program::down(batch);
            for_blocks<Program>(batch.images * across * down, order,
                                [&](auto& block, std::int64_t index, auto& shared) {
                                    Program::run(block, batch, across, down, index, shared);
                                });
        });
        host_run::write(arguments[3], std::vector<float>(labels.begin(), labels.end()));
        return 0;
    }
    batch.cell_rows = height / batch.cell_size;
    batch.cell_columns = width / batch.cell_size;
    const std::int64_t cells = batch.images * batch.cell_rows * batch.cell_columns;
    std::vector<float> output(static_cast<std::size_t>(kLabels * cells), std::nanf(""));
    batch.output = output.data();
    run_features(batch, order, number(6));
    host_run::write(arguments[3], output);
}
