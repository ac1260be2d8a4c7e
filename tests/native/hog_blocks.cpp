// HOG's block program on the host: ORDER INPUT OUTPUT bytes(0|1) B C H W cell_size strongest(0|1) strip_rows(0: chosen)
#include <cmath>
#include <cstring>
#include <memory>

#include "hog/hog_blocks.h"
#include "host_run.h"

using namespace preimage;
using namespace preimage::hog;

template <int kPlanes>
void run_strips(const Batch& batch, ThreadOrder order, std::int64_t rows) {
    using Program = StripProgram<kPlanes>;
    Strips strips = Program::strips(batch);
    if (rows > 0) {
        strips.rows = rows;
        strips.down = (batch.cell_rows + rows - 1) / rows;
    }
    for (std::int64_t index = 0; index < batch.images * strips.across * strips.down; ++index) {
        const auto shared = std::make_unique<typename Program::Shared>();  // new for every block, as on a GPU
        std::memset(shared.get(), 0xff, sizeof(typename Program::Shared));
        HostBlock<Program::kThreads> block(order);
        Program::run(block, batch, strips, index, *shared);
    }
}

int main(int count, char** arguments) {
    if (count != 12) {
        host_run::fail("wrong number of arguments");
    }
    const auto number = [&](int index) { return std::int64_t{std::atoll(arguments[4 + index])}; };
    const auto pixels = host_run::read<std::byte>(arguments[2]);
    const std::int64_t channels = number(2), height = number(3), width = number(4);

    Batch batch{};
    batch.image = host_run::first_image(pixels.data(), number(0) != 0, channels, height, width);
    batch.image_stride = host_run::image_bytes(batch.image);
    batch.images = number(1);
    batch.cell_size = number(5);
    batch.cell_rows = cell_count(height, batch.cell_size);
    batch.cell_columns = cell_count(width, batch.cell_size);
    const std::int64_t cells = batch.images * batch.cell_rows * batch.cell_columns;
    const float unwritten = std::nanf("");
    std::vector<float> histograms(static_cast<std::size_t>(kBins * cells), unwritten);
    std::vector<float> energies(static_cast<std::size_t>(cells), unwritten);
    std::vector<float> output(static_cast<std::size_t>(kChannels * cells), unwritten);
    batch.cells = histograms.data();
    batch.energies = energies.data();
    batch.output = output.data();

    const ThreadOrder order = host_run::order_named(arguments[1]);
    if (channels == 3 && number(6) != 0) {
        run_strips<3>(batch, order, number(7));
    } else {
        run_strips<1>(batch, order, number(7));
    }
    for (std::int64_t index = 0; index < cells; ++index) {
        const std::int64_t row = index / batch.cell_columns;
        normalize_cell(batch, row / batch.cell_rows, row % batch.cell_rows, index % batch.cell_columns);
    }
    host_run::write(arguments[3], output);
}
