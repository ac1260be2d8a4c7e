// Dense SIFT on the CPU: checks arguments, plans the sums, divides the batch into bands and runs the kernel in
// parallel.
#include <algorithm>
#include <vector>

#include "common/memory.h"
#include "common/parallel.h"
#include "dense_sift/dense_sift.h"
#include "dense_sift/dense_sift_cpu.h"
#include "dense_sift/dense_sift_grid.h"
#include "dense_sift/dense_sift_math.h"

namespace preimage::dense_sift {
namespace {

constexpr std::int64_t kRowsPerBand = 16;  // rows of descriptors; each band also sums a few rows of its neighbors
// Wide strips write long runs of memory, which pays even if their sums along x, at most 1.25 MiB, do not all stay in
// the level 2 cache. Beyond 512 descriptors there is no further gain.
constexpr std::int64_t kRingFloats = 10 << 15;
constexpr std::int64_t kMaxStrip = 32 * kChunk;

std::int64_t padded(std::int64_t count, std::int64_t to = kChunk) { return (count + to - 1) / to * to; }

/// The plan, and the tables that it points to.
struct PlanTables {
    Plan plan{};
    std::vector<float> weights;
    std::vector<std::int64_t> at;
};

void plan_units(Plan& plan, const Parameters& parameters) {
    plan.units = 0;
    for (int bin = 0; bin < kSpatial; ++bin) {
        const std::int64_t first = bin * parameters.bin_size;
        int unit = 0;
        if (parameters.window == Window::gaussian) {
            unit = plan.units;
        } else {
            while (unit < plan.units && (first - plan.unit_first[unit]) % parameters.step != 0) {
                ++unit;
            }
        }
        if (unit == plan.units) {
            plan.unit_first[plan.units++] = first;
        }
        plan.unit_of[bin] = unit;
        plan.shift_of[bin] = (first - plan.unit_first[unit]) / parameters.step;
    }
}

void plan_weights(PlanTables& tables, const Parameters& parameters) {
    const std::int64_t bin_size = parameters.bin_size;
    const bool gaussian = parameters.window == Window::gaussian;
    for (int bin = 0; bin < (gaussian ? kSpatial : 1); ++bin) {
        for (std::int64_t offset = 1 - bin_size; offset < bin_size; ++offset) {
            const float triangle = triangle_at(offset, bin_size);
            const float window = gaussian ? window_at(offset, bin, bin_size, parameters.window_size) : 1.0f;
            tables.weights.push_back(triangle * window);
        }
    }
    for (int bin = 0; bin < kSpatial; ++bin) {
        tables.plan.means[bin] = gaussian ? 1.0f : window_mean(bin, bin_size, parameters.window_size);
    }
    tables.plan.weights = tables.weights.data();
}

void make_plan(PlanTables& tables, const Band& whole) {
    const Parameters& parameters = whole.parameters;
    Plan& plan = tables.plan;
    plan.positions = extent(parameters.bin_size) + tap_count(parameters.bin_size);
    plan.phases = std::min(parameters.step, plan.positions);
    plan_units(plan, parameters);
    plan_weights(tables, parameters);

    const std::int64_t ring_of_chunk = plan.units * plan.positions * kOrientations * kChunk;
    const std::int64_t chunks = padded(whole.columns) / kChunk;
    const std::int64_t most = std::clamp<std::int64_t>(kRingFloats / ring_of_chunk, 2, kMaxStrip / kChunk);
    const std::int64_t strips = (chunks + most - 1) / most;
    plan.strip = (chunks + strips - 1) / strips * kChunk;

    const std::int64_t widest = std::min(plan.strip, whole.columns);
    plan.span = (widest - 1) * parameters.step + plan.positions;
    plan.sums = padded(plan.strip + *std::max_element(plan.shift_of, plan.shift_of + kSpatial));
    // An odd number of cache lines, so that phases and orientations do not share a cache set.
    const std::int64_t threshold = padded(plan.sums + (plan.positions - 1) / parameters.step + 1);
    plan.phase_pitch = threshold / kChunk % 2 == 0 ? threshold + kChunk : threshold;
    for (std::int64_t position = 0; position < plan.positions; ++position) {
        tables.at.push_back(position % parameters.step * plan.phase_pitch + position / parameters.step);
    }
    plan.at = tables.at.data();
}

struct Layout {
    const Plan& plan;
    std::int64_t line_pitch, span_pitch, phases_size, across_size, down_pitch, down_rows, down_size;

    Layout(const Band& band, const Plan& from) : plan(from) {
        const bool flat = band.parameters.window == Window::flat;
        line_pitch = padded(std::min(plan.span + 2, band.image.width) + 32);
        span_pitch = padded(plan.span) + 2 * kMargin;
        phases_size = plan.phases * plan.phase_pitch;
        across_size = plan.units * plan.sums * plan.positions * kOrientations;
        down_pitch = plan.sums + kChunk;
        down_rows = extent(band.parameters.bin_size) + 1;
        down_size = flat ? down_rows * plan.units * kOrientations * down_pitch : 0;
    }

    std::int64_t floats() const {
        return 3 * line_pitch + 2 * span_pitch + (5 + kOrientations) * phases_size + across_size + down_size +
               padded(2 * (down_rows + plan.positions)) + (kChannels + 2) * plan.strip;
    }

    Scratch scratch(float* memory) const {
        Scratch scratch{};
        const auto take = [&memory](std::int64_t count) {
            float* taken = memory;
            memory += count;
            return taken;
        };
        scratch.line_pitch = line_pitch;
        scratch.down_pitch = down_pitch;
        scratch.lines = take(3 * line_pitch);
        scratch.directions = take(span_pitch) + kMargin;
        scratch.lengths = take(span_pitch) + kMargin;
        scratch.phased_directions = take(phases_size);
        scratch.phased_lengths = take(phases_size);
        scratch.bins = reinterpret_cast<std::int32_t*>(take(phases_size));
        scratch.first = take(phases_size);
        scratch.second = take(phases_size);
        scratch.votes = take(kOrientations * phases_size);
        scratch.across = take(across_size);
        scratch.down = take(down_size);
        scratch.raw = take(kChannels * plan.strip);
        scratch.squares = take(plan.strip);
        scratch.totals = take(plan.strip);
        scratch.ready = reinterpret_cast<std::int64_t*>(take(2 * down_rows));
        scratch.slots = reinterpret_cast<std::int64_t*>(take(2 * plan.positions));
        return scratch;
    }
};

Band whole_image(const TensorView& images, const TensorView& features, const TensorView& norms,
                 const Parameters& parameters) {
    Band band{};
    band.image = first_image(images);
    band.parameters = parameters;
    const Grid grid = checked_grid(band.image, parameters);
    band.rows = grid.y.frames;
    band.columns = grid.x.frames;
    band.type = features.type;
    require_descriptors(features, images.shape[0], kChannels, grid,
                        "the features must be contiguous of shape (B, 128, h, w)");
    constexpr const char* kNorms = "the norms must be contiguous float32 of shape (B, 1, h, w)";
    require_descriptors(norms, images.shape[0], 1, grid, kNorms);
    require(norms.type == ScalarType::float32, kNorms);
    return band;
}

}  // namespace

void compute(const TensorView& images, const TensorView& features, const TensorView& norms,
             const Parameters& parameters, int threads) {
    images.require_device(-1);
    features.require_device(-1);
    norms.require_device(-1);
    const Band whole = whole_image(images, features, norms, parameters);
    const std::int64_t batch = images.shape[0];
    const auto run = PREIMAGE_KERNEL(band);
    PlanTables tables;
    make_plan(tables, whole);
    const Layout layout(whole, tables.plan);
    const std::int64_t frames = whole.rows * whole.columns;
    const std::int64_t feature_bytes = kChannels * frames * size_of(features.type);
    prefer_large_pages(features.data, batch * feature_bytes);
    for_each_band(batch, whole.image.height * whole.image.width, whole.rows, kRowsPerBand, threads, layout.floats(),
                  [&](std::int64_t index, std::int64_t first_row, std::int64_t last_row, float* memory) {
                      Band band = whole;
                      band.image.pixels += index * images.strides[0];
                      band.features = features.data + index * feature_bytes;
                      band.norms = reinterpret_cast<float*>(norms.data) + index * frames;
                      band.first_row = first_row;
                      band.last_row = last_row;
                      run(band, tables.plan, layout.scratch(memory));
                  });
}

}  // namespace preimage::dense_sift
