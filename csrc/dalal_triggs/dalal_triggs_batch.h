// A batch of images with its buffers, and the steps from histograms to features: one call per cell or block, shared by
// the GPU kernels and the gradient.
#pragma once

#include "dalal_triggs/dalal_triggs.h"
#include "dalal_triggs/dalal_triggs_math.h"

namespace preimage::dalal_triggs {

struct Batch {
    Image image;                // the first; the others follow image_stride bytes apart
    std::int64_t image_stride;  // bytes
    std::int64_t images;
    Parameters parameters;
    Directions directions;
    Grid grid;
    int planes;
    double* cells;  // (B, N, Hc, Wc): histograms
    double* norms;  // (B, Hc, Wc): what each cell adds to the norm of its blocks
    float* output;  // (B, channels, Hb, Wb)

    PREIMAGE_HOST_DEVICE const double* cell(std::int64_t number, std::int64_t row, std::int64_t column) const {
        return cells + number * parameters.orientations * grid.cells() + row * grid.cell_columns + column;
    }
    PREIMAGE_HOST_DEVICE std::int64_t pixels() const { return image.height * image.width; }
};

/// Return the checked batch, without buffers.
inline Batch whole_batch(const TensorView& images, const Parameters& parameters) {
    Batch batch{};
    batch.image = checked_image(images);
    batch.image_stride = images.strides[0];
    batch.images = images.shape[0];
    batch.parameters = parameters;
    batch.grid = checked_grid(batch.image, parameters);
    batch.directions = make_directions(parameters.orientations);
    batch.planes = planes_of(batch.image, parameters.color);
    return batch;
}

/// Return the gradient of pixel (y, x) of image `number`.
template <int kPlanes>
PREIMAGE_INLINE Gradient gradient_at(const Batch& batch, std::int64_t number, std::int64_t y, std::int64_t x) {
    Image image = batch.image;
    image.pixels += number * batch.image_stride;
    const bool border_row = y == 0 || y == image.height - 1;
    const bool border_column = x == 0 || x == image.width - 1;
    const bool single = is_single(image, kPlanes);
    return strongest_gradient<kPlanes>(single, border_row, border_column,
                                       [&](int plane, std::int64_t dy, std::int64_t dx) {
                                           return value_at(image, batch.parameters, kPlanes, plane, y + dy, x + dx);
                                       });
}

PREIMAGE_INLINE void norm_step(const Batch& batch, std::int64_t number, std::int64_t row, std::int64_t column) {
    const double* cell = batch.cell(number, row, column);
    const bool l1 = is_l1(batch.parameters.norm);
    double norm = 0.0;
    for (int bin = 0; bin < batch.parameters.orientations; ++bin) {
        norm += norm_term(l1, cell[bin * batch.grid.cells()]);
    }
    batch.norms[number * batch.grid.cells() + row * batch.grid.cell_columns + column] = norm;
}

/// Return the factor of the block whose first cell is (row, column).
PREIMAGE_INLINE double factor_of(const Batch& batch, std::int64_t number, std::int64_t row, std::int64_t column) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < batch.parameters.block_height; ++i) {
        const double* norms = batch.norms + number * batch.grid.cells() + (row + i) * batch.grid.cell_columns + column;
        for (std::int64_t j = 0; j < batch.parameters.block_width; ++j) {
            sum += norms[j];
        }
    }
    return block_factor(is_l1(batch.parameters.norm), sum);
}

/// Call step(channel, value of the histogram) for every channel of the block.
template <class Step>
PREIMAGE_INLINE void for_channels(const Batch& batch, std::int64_t number, std::int64_t row, std::int64_t column,
                                  const Step& step) {
    std::int64_t channel = 0;
    for (std::int64_t i = 0; i < batch.parameters.block_height; ++i) {
        for (std::int64_t j = 0; j < batch.parameters.block_width; ++j) {
            const double* cell = batch.cell(number, row + i, column + j);
            for (int bin = 0; bin < batch.parameters.orientations; ++bin, ++channel) {
                step(channel, cell[bin * batch.grid.cells()]);
            }
        }
    }
}

/// Return the factor after clipping; 1 for other norms than L2-Hys.
PREIMAGE_INLINE double second_factor(const Batch& batch, std::int64_t number, std::int64_t row, std::int64_t column,
                                     double factor) {
    if (batch.parameters.norm != Norm::l2_hys) {
        return 1.0;
    }
    double sum = 0.0;
    for_channels(batch, number, row, column, [&](std::int64_t, double value) {
        const double clipped = clip(value * factor);
        sum += clipped * clipped;
    });
    return block_factor(false, sum);
}

/// Return a feature from a histogram's value and the block's factors.
PREIMAGE_INLINE double feature(Norm norm, double value, double factor, double second) {
    const double normalized = value * factor;
    return norm == Norm::l2_hys    ? clip(normalized) * second
           : norm == Norm::l1_sqrt ? square_root(normalized)
                                   : normalized;
}

PREIMAGE_INLINE void block_step(const Batch& batch, std::int64_t number, std::int64_t row, std::int64_t column) {
    const double factor = factor_of(batch, number, row, column);
    const double second = second_factor(batch, number, row, column, factor);
    float* output = batch.output + number * batch.parameters.channels() * batch.grid.blocks() +
                    row * batch.grid.block_columns + column;
    for_channels(batch, number, row, column, [&](std::int64_t channel, double value) {
        output[channel * batch.grid.blocks()] =
            static_cast<float>(feature(batch.parameters.norm, value, factor, second));
    });
}

}  // namespace preimage::dalal_triggs
