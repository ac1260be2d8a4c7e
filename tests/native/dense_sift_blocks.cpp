// Runs the block programs of dense SIFT on the host: see tests/helpers/host_blocks.py.
//
// dense_sift ORDER INPUT OUTPUT BYTES BATCH CHANNELS HEIGHT WIDTH STEP BIN_SIZE FLAT WINDOW_SIZE TOP LEFT BOTTOM RIGHT
//            FRAMES BACKWARD TYPE SHARED
//
// INPUT contains the images, uint8 if BYTES, else float32; with BACKWARD, which needs float32, the gradients of
// descriptors and norms follow. OUTPUT receives descriptors and norms, or the images' gradient. FRAMES is the number of
// descriptors per block, 0 for the number used on a GPU with SHARED bytes of shared memory per multiprocessor; TYPE
// that of the descriptors (ScalarType).
#include <array>
#include <cstring>
#include <memory>

#include "common/memory.h"
#include "dense_sift/dense_sift_backward_blocks.h"
#include "dense_sift/dense_sift_blocks.h"
#include "dense_sift/dense_sift_flat_blocks.h"
#include "host_run.h"

namespace {

using namespace preimage;
using namespace preimage::dense_sift;
using Block = HostBlock<kBlockThreads>;

struct Run {
    ThreadOrder order;
    Parameters parameters;
    std::int64_t batch;
    Image image;  // the first
    std::int64_t image_bytes;
    Grid grid;
    BlockPlan plan;
    ScalarType type;  // of the descriptors

    Image at(std::int64_t index) const {
        Image one = image;
        one.pixels += index * image_bytes;
        return one;
    }
    std::int64_t frames() const { return std::int64_t{grid.y.frames} * grid.x.frames; }
    std::int64_t pixels() const { return std::int64_t{grid.y.pixels} * grid.x.pixels; }
    std::uint32_t blocks() const { return plan.division.blocks(); }
};

/// Shared memory of a block, of exactly the size it is launched with, filled with what must not be read.
AlignedFloats shared_memory(std::int64_t floats) {
    AlignedFloats memory = aligned_floats(floats);
    std::memset(memory.get(), 0xff, static_cast<std::size_t>(floats) * sizeof(float));
    return memory;
}

std::vector<float> votes_of(const Run& run, std::int64_t index) {
    std::vector<float> votes(static_cast<std::size_t>(vote_floats(run.grid)));
    const std::uint32_t tiles = tiles_along(run.grid.y.pixels) * tiles_along(run.grid.x.pixels);
    for (std::uint32_t tile = 0; tile < tiles; ++tile) {
        Block block(run.order);
        const AlignedFloats shared = shared_memory(kTilePitch * kTilePitch);
        vote_program(block, run.at(index), run.grid, tile, Votes(votes.data()), shared.get());
    }
    return votes;
}

/// An image's descriptors with the flat window.
void flat(const Run& run, const Votes& votes, const Output& output) {
    FlatPlan plan = flat_plan(run.grid, run.parameters);
    std::vector<float> sums(static_cast<std::size_t>(center_floats(plan)));
    for (std::uint32_t number = 0; number < plan.center_blocks.blocks(); ++number) {
        Block block(run.order);
        const AlignedFloats shared = shared_memory(center_shared_floats(plan));
        center_program(block, plan, number, votes, sums.data(), shared.get());
    }
    for (std::uint32_t number = 0; number < plan.blocks.blocks(); ++number) {
        Block block(run.order);
        const AlignedFloats shared = shared_memory(kPartials * kBlockThreads);
        flat_program(block, plan, number, sums.data(), output, shared.get());
    }
}

/// Descriptors of the whole batch, then norms.
std::vector<std::byte> forward(const Run& run) {
    const std::int64_t feature_bytes = run.frames() * kChannels * size_of(run.type);
    std::vector<std::byte> out(static_cast<std::size_t>(run.batch * (feature_bytes + run.frames() * 4)));
    auto* norms = reinterpret_cast<float*>(out.data() + run.batch * feature_bytes);
    for (std::int64_t index = 0; index < run.batch; ++index) {
        std::vector<float> votes = votes_of(run, index);
        const Output output{out.data() + index * feature_bytes, run.type, norms + index * run.frames()};
        if (can_share_bins(run.grid, run.parameters)) {
            flat(run, Votes(votes.data()), output);
            continue;
        }
        for (std::uint32_t number = 0; number < run.blocks(); ++number) {
            Block block(run.order);
            const AlignedFloats shared = shared_memory(shared_floats(run.plan));
            with_block_shape(run.plan, [&](auto shape) {
                descriptor_program<decltype(shape)>(block, run.plan, number, Votes(votes.data()), output, shared.get());
            });
        }
    }
    return out;
}

struct Table {
    std::vector<Contribution> contributions;
    std::vector<std::int32_t> counts;
    ContributionTable table;

    Table(const Run& run, const Axis& axis)
        : contributions(static_cast<std::size_t>(max_contributions(run.grid)) * static_cast<std::size_t>(axis.pixels)),
          counts(static_cast<std::size_t>(axis.pixels)),
          table{contributions.data(), counts.data(), axis.pixels} {
        for (std::int32_t position = 0; position < axis.pixels; ++position) {
            list_contributions(run.grid, axis, run.plan.weights, position, table);
        }
    }
};

/// The images' gradient, by what the GPU's kernels call for every element.
std::vector<float> backward(const Run& run, const float* grad_features, const float* grad_norms) {
    const Grid& grid = run.grid;
    const Table down(run, grid.y);
    const Table across(run, grid.x);
    const std::int64_t row_floats = std::int64_t{kSpatial * kOrientations} * grid.x.frames;
    std::vector<float> sums(static_cast<std::size_t>(run.frames() * kChannels));
    std::vector<float> rows(static_cast<std::size_t>(grid.y.pixels * row_floats));
    std::vector<float> gradient(static_cast<std::size_t>(run.batch * run.image.channels * run.pixels()));
    for (std::int64_t index = 0; index < run.batch; ++index) {
        std::vector<float> votes = votes_of(run, index);
        const BackwardInput input{grad_features + index * run.frames() * kChannels, grad_norms + index * run.frames(),
                                  sums.data()};
        for (std::uint32_t number = 0; number < run.blocks(); ++number) {
            Block block(run.order);
            const AlignedFloats shared = shared_memory(shared_floats(run.plan));
            with_block_shape(run.plan, [&](auto shape) {
                backward_program<decltype(shape)>(block, run.plan, number, Votes(votes.data()), input, shared.get());
            });
        }
        for (std::int32_t y = 0; y < grid.y.pixels; ++y) {
            float* row = rows.data() + y * row_floats;
            for (std::int64_t element = 0; element < row_floats; ++element) {
                gather_down<1>(grid, down.table, sums.data(), y, element, row + element);
            }
            for (std::int32_t x = 0; x < grid.x.pixels; ++x) {
                const DifferenceGradient difference_gradients =
                    difference_gradient(run.at(index), grid, across.table, row, y, x);
                votes[static_cast<std::size_t>(std::int64_t{y} * grid.x.pixels + x)] = difference_gradients.x;
                votes[static_cast<std::size_t>(run.pixels() + std::int64_t{y} * grid.x.pixels + x)] =
                    difference_gradients.y;
            }
        }
        for (std::int32_t y = 0; y < grid.y.pixels; ++y) {
            for (std::int32_t x = 0; x < grid.x.pixels; ++x) {
                gather_image(grid, run.image.channels, votes.data(), y, x,
                             gradient.data() + index * run.image.channels * run.pixels());
            }
        }
    }
    return gradient;
}

std::int64_t integer(const char* text) { return std::strtoll(text, nullptr, 10); }

}  // namespace

int main(int count, char** arguments) {
    if (count != 21) {
        host_run::fail("expected 20 arguments");
    }
    std::array<std::int64_t, 17> numbers{};
    for (std::size_t at = 0; at < numbers.size(); ++at) {
        numbers[at] = integer(arguments[at + 4]);
    }
    const auto [bytes, batch, channels, height, width, step, bin_size, flat, ignored, top, left, bottom, right, frames,
                wants_backward, type, available] = numbers;
    static_cast<void>(ignored);
    Run run{};
    run.order = host_run::order_named(arguments[1]);
    run.parameters = {
        step,   bin_size, flat != 0 ? Window::flat : Window::gaussian, std::strtof(arguments[12], nullptr), top, left,
        bottom, right};
    run.batch = batch;
    run.type = static_cast<ScalarType>(type);
    const std::vector<std::byte> input = host_run::read<std::byte>(arguments[2]);
    run.image = host_run::first_image(input.data(), bytes != 0, channels, height, width);
    run.image_bytes = host_run::image_bytes(run.image);
    run.grid = checked_grid(run.image, run.parameters);
    std::vector<float> weights(static_cast<std::size_t>(taps_of(run.grid)) * kSpatial);
    fill_weights(run.parameters, weights.data());
    run.plan = frames == 0 ? block_plan(run.grid, run.parameters, weights.data(), available)
                           : plan_of(run.grid, run.parameters, 1, static_cast<std::int32_t>(frames), weights.data());
    if (is_default_grid(run.grid) && 2 * (shared_floats(run.plan) * 4 + 1024) > available) {
        host_run::fail("a multiprocessor has no room for two blocks");
    }
    if (wants_backward == 0) {
        host_run::write(arguments[3], forward(run));
        return 0;
    }
    const auto* grad_features = reinterpret_cast<const float*>(input.data() + batch * run.image_bytes);
    host_run::write(arguments[3], backward(run, grad_features, grad_features + batch * run.frames() * kChannels));
    return 0;
}
