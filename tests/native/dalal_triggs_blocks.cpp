// The GPU kernels of Dalal and Triggs's HOG on the host: ORDER INPUT OUTPUT size_of_pixel(1, 4, 8) B C H W cell_height
// cell_width block_height block_width orientations strongest(0|1) norm(0: L1, 1: L1-sqrt, 2: L2, 3: L2-Hys) root(0|1)
// backward(0|1)
//
// With `backward`, the input ends with the gradient of the features, float32, and the output is that of the images.
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "dalal_triggs/dalal_triggs_backward.h"
#include "dalal_triggs/dalal_triggs_blocks.h"
#include "host_run.h"

using namespace preimage;
using namespace preimage::dalal_triggs;

template <int kPlanes>
void run_cells(const Batch& batch, ThreadOrder order) {
    using Program = CellProgram<kPlanes>;
    for (std::int64_t index = 0; index < Program::blocks(batch); ++index) {
        const auto shared = std::make_unique<typename Program::Shared>();  // new for every block, as on a GPU
        std::memset(shared.get(), 0xff, sizeof(typename Program::Shared));
        HostBlock<Program::kThreads> block(order);
        Program::run(block, batch, Program::across(batch), index, *shared);
    }
}

/// Call step(number, row, column) for every element, as for_each_element does.
template <class Step>
void over(std::int64_t images, std::int64_t rows, std::int64_t columns, const Step& step) {
    for (std::int64_t index = images * rows * columns; index-- > 0;) {
        step(index / (rows * columns), index / columns % rows, index % columns);
    }
}

void run_histograms(const Batch& batch, ThreadOrder order) {
    batch.planes == 1 ? run_cells<1>(batch, order) : run_cells<3>(batch, order);
    over(batch.images, batch.grid.cell_rows, batch.grid.cell_columns,
         [&](auto number, auto row, auto column) { norm_step(batch, number, row, column); });
}

template <int kPlanes>
void run_image_gradient(const Backward& backward) {
    const Batch& batch = backward.batch;
    over(batch.images, batch.image.height, batch.image.width,
         [&](auto number, auto y, auto x) { vote_gradient<kPlanes>(backward, number, y, x); });
    over(batch.images, batch.image.height, batch.image.width,
         [&](auto number, auto y, auto x) { image_gradient<kPlanes>(backward, number, y, x); });
}

void run_backward(const Backward& backward, ThreadOrder order) {
    const Batch& batch = backward.batch;
    run_histograms(batch, order);
    over(batch.images, batch.grid.block_rows, batch.grid.block_columns,
         [&](auto number, auto row, auto column) { block_gradient(backward, number, row, column); });
    over(batch.images, batch.grid.cell_rows, batch.grid.cell_columns,
         [&](auto number, auto row, auto column) { cell_gradient(backward, number, row, column); });
    batch.planes == 1 ? run_image_gradient<1>(backward) : run_image_gradient<3>(backward);
}

int main(int count, char** arguments) {
    if (count != 18) {
        host_run::fail("wrong number of arguments");
    }
    const auto number = [&](int index) { return std::int64_t{std::atoll(arguments[4 + index])}; };
    auto input = host_run::read<std::byte>(arguments[2]);
    const std::int64_t size = number(0), images = number(1);
    const ThreadOrder order = host_run::order_named(arguments[1]);
    const Parameters parameters{number(5),
                                number(6),
                                number(7),
                                number(8),
                                static_cast<int>(number(9)),
                                number(10) != 0 ? Color::strongest : Color::luma,
                                static_cast<Norm>(number(11)),
                                number(12) != 0};
    const std::int64_t pixels = number(2) * number(3) * number(4);
    // Exactly as long as needed, so that sanitizers find reads beyond it.
    std::vector<std::byte> values(input.begin(), input.begin() + images * pixels * size);
    Backward backward{};
    Batch& batch = backward.batch;
    batch.image = host_run::first_image(values.data(), true, number(2), number(3), number(4));
    batch.image.type = size == 1 ? ScalarType::uint8 : size == 4 ? ScalarType::float32 : ScalarType::float64;
    batch.image.channel_stride *= size;
    batch.image.row_stride *= size;
    batch.image.column_stride *= size;
    batch.image_stride = host_run::image_bytes(batch.image);
    batch.images = images;
    batch.parameters = parameters;
    batch.grid = checked_grid(batch.image, parameters);
    batch.directions = make_directions(parameters.orientations);
    batch.planes = planes_of(batch.image, parameters.color);
    std::vector<double> scratch(static_cast<std::size_t>(backward_scratch(backward)), std::nan(""));
    place_scratch(backward, scratch.data());
    const auto features = static_cast<std::size_t>(images * parameters.channels() * batch.grid.blocks());
    if (number(13) == 0) {
        std::vector<float> output(features, std::nanf(""));
        batch.output = output.data();
        run_histograms(batch, order);
        over(images, batch.grid.block_rows, batch.grid.block_columns,
             [&](auto image, auto row, auto column) { block_step(batch, image, row, column); });
        host_run::write(arguments[3], output);
        return 0;
    }
    std::vector<float> output(features);
    std::memcpy(output.data(), input.data() + values.size(), features * sizeof(float));
    std::vector<float> gradients(static_cast<std::size_t>(images * pixels), std::nanf(""));
    backward.output = output.data();
    backward.images = gradients.data();
    run_backward(backward, order);
    host_run::write(arguments[3], gradients);
}
