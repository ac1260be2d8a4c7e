// The gradient of Dalal and Triggs's HOG with respect to the image: element-wise steps shared by CPU and GPU.
//
// Each element gathers what it needs in a fixed order, so the result depends neither on the number of threads nor on
// the device. Sub-gradients: a clipped value passes no gradient, a vote keeps its orientation (and, with several
// channels, its channel), and a gradient of length zero, or a root of zero, passes none.
#pragma once

#include "dalal_triggs/dalal_triggs_batch.h"

namespace preimage::dalal_triggs {

/// Buffers of the gradients, contiguous, in the order of the chain rule. The batch's cells and norms are inputs.
struct Backward {
    Batch batch;
    const float* output;  // (B, channels, Hb, Wb)
    double* blocks;       // (B, 4, Hb, Wb): see BlockGradient
    double* cells;        // (B, N, Hc, Wc): with respect to sums of lengths
    float* votes;   // (B, planes == 1 ? 2 : 3, H, W): with respect to the gradient, down and across, and the plane
    float* images;  // (B, C, H, W)

    PREIMAGE_HOST_DEVICE std::int64_t vote_planes() const { return batch.planes == 1 ? 2 : 3; }
};

/// Return the number of doubles of working memory for `backward.batch.images` images.
inline std::int64_t backward_scratch(const Backward& backward) {
    const Batch& batch = backward.batch;
    return batch.images * ((2 * batch.parameters.orientations + 1) * batch.grid.cells() + 4 * batch.grid.blocks() +
                           (backward.vote_planes() * batch.pixels() + 1) / 2);
}

inline void place_scratch(Backward& backward, double* memory) {
    Batch& batch = backward.batch;
    const auto take = [&memory, &batch](std::int64_t count) {
        double* taken = memory;
        memory += batch.images * count;
        return taken;
    };
    batch.cells = take(batch.parameters.orientations * batch.grid.cells());
    batch.norms = take(batch.grid.cells());
    backward.cells = take(batch.parameters.orientations * batch.grid.cells());
    backward.blocks = take(4 * batch.grid.blocks());
    backward.votes = reinterpret_cast<float*>(memory);
}

/// Return the checked gradient, without working memory.
inline Backward whole_backward(const TensorView& output, const TensorView& images, const TensorView& gradients,
                               const Parameters& parameters) {
    Backward backward{};
    backward.batch = whole_batch(images, parameters);
    constexpr const char* kOutput = "the output's gradient must be contiguous float32 of the output's shape";
    require(output.type == ScalarType::float32, kOutput);
    check_features(output, images.shape[0], parameters, backward.batch.grid, kOutput);
    require(gradients.type == ScalarType::float32 && gradients.shape == images.shape && gradients.is_contiguous(),
            "the images' gradient must be contiguous float32 of the images' shape");
    backward.output = reinterpret_cast<const float*>(output.data);
    backward.images = reinterpret_cast<float*>(gradients.data);
    return backward;
}

/// What all channels of a block share. A value h is normalized to s = factor * h. If d is the gradient with respect to
/// s, that with respect to h is factor * d - of_norm * (1 or h).
struct BlockGradient {
    double factor, second;
    double of_second;  // share of a clipped value in its own gradient, through `second`
    double of_norm;
};

/// Return the gradient with respect to the normalized value.
PREIMAGE_INLINE double normalized_gradient(Norm norm, double gradient, double value, const BlockGradient& block) {
    const double normalized = value * block.factor;
    if (norm == Norm::l2_hys) {
        return kClip < normalized ? 0.0 : gradient * block.second - normalized * block.of_second;
    }
    if (norm == Norm::l1_sqrt) {
        return normalized != 0.0 ? 0.5 * gradient / square_root(normalized) : 0.0;
    }
    return gradient;
}

PREIMAGE_INLINE void block_gradient(const Backward& backward, std::int64_t number, std::int64_t row,
                                    std::int64_t column) {
    const Batch& batch = backward.batch;
    const Norm norm = batch.parameters.norm;
    const std::int64_t plane = batch.grid.blocks();
    const std::int64_t at = row * batch.grid.block_columns + column;
    const float* output = backward.output + number * batch.parameters.channels() * plane + at;
    BlockGradient block{};
    block.factor = factor_of(batch, number, row, column);
    block.second = second_factor(batch, number, row, column, block.factor);
    double sum = 0.0;
    if (norm == Norm::l2_hys) {
        for_channels(batch, number, row, column, [&](std::int64_t channel, double value) {
            sum += static_cast<double>(output[channel * plane]) * clip(value * block.factor);
        });
        block.of_second = sum * (block.second * block.second * block.second);
        sum = 0.0;
    }
    for_channels(batch, number, row, column, [&](std::int64_t channel, double value) {
        sum += normalized_gradient(norm, static_cast<double>(output[channel * plane]), value, block) * value;
    });
    const double square = block.factor * block.factor;
    block.of_norm = sum * (is_l1(norm) ? square : square * block.factor);
    double* blocks = backward.blocks + number * 4 * plane + at;
    blocks[0] = block.factor;
    blocks[plane] = block.second;
    blocks[2 * plane] = block.of_second;
    blocks[3 * plane] = block.of_norm;
}

PREIMAGE_INLINE void cell_gradient(const Backward& backward, std::int64_t number, std::int64_t row,
                                   std::int64_t column) {
    const Batch& batch = backward.batch;
    const Parameters& parameters = batch.parameters;
    const bool l1 = is_l1(parameters.norm);
    const std::int64_t plane = batch.grid.blocks();
    const double* cell = batch.cell(number, row, column);
    double* gradients = backward.cells + (cell - batch.cells);
    const double area = static_cast<double>(parameters.cell_height * parameters.cell_width);
    // The blocks that contain the cell.
    const std::int64_t first_i = maximum(row - batch.grid.block_rows + 1, 0);
    const std::int64_t last_i = minimum(row + 1, parameters.block_height);
    const std::int64_t first_j = maximum(column - batch.grid.block_columns + 1, 0);
    const std::int64_t last_j = minimum(column + 1, parameters.block_width);
    for (int bin = 0; bin < parameters.orientations; ++bin) {
        const double value = cell[bin * batch.grid.cells()];
        double sum = 0.0;
        for (std::int64_t i = first_i; i < last_i; ++i) {
            for (std::int64_t j = first_j; j < last_j; ++j) {
                const std::int64_t at = (row - i) * batch.grid.block_columns + column - j;
                const double* blocks = backward.blocks + number * 4 * plane + at;
                const BlockGradient block{blocks[0], blocks[plane], blocks[2 * plane], blocks[3 * plane]};
                const std::int64_t channel = (i * parameters.block_width + j) * parameters.orientations + bin;
                const double gradient =
                    static_cast<double>(backward.output[(number * parameters.channels() + channel) * plane + at]);
                sum += normalized_gradient(parameters.norm, gradient, value, block) * block.factor -
                       block.of_norm * (l1 ? 1.0 : value);
            }
        }
        gradients[bin * batch.grid.cells()] = sum / area;
    }
}

/// Compute the gradient with respect to the gradient of pixel (y, x).
template <int kPlanes>
PREIMAGE_INLINE void vote_gradient(const Backward& backward, std::int64_t number, std::int64_t y, std::int64_t x) {
    const Batch& batch = backward.batch;
    const std::int64_t row = y / batch.parameters.cell_height;
    const std::int64_t column = x / batch.parameters.cell_width;
    const int bins = batch.parameters.orientations;
    Gradient gradient{};
    double of_length = 0.0;
    if (row < batch.grid.cell_rows && column < batch.grid.cell_columns) {
        gradient = gradient_at<kPlanes>(batch, number, y, x);
        const std::int32_t bin = vote_of(batch.directions, gradient.down, gradient.across).bin;
        const double* cell = backward.cells + (batch.cell(number, row, column) - batch.cells);
        const int first = bin > bins ? 0 : bin;
        const int last = bin > bins ? bins : minimum(bin + 1, bins);
        for (int k = first; k < last; ++k) {
            of_length += cell[k * batch.grid.cells()];
        }
    }
    const double energy = gradient.down * gradient.down + gradient.across * gradient.across;
    const double scale = energy != 0.0 ? of_length / square_root(energy) : 0.0;
    float* votes = backward.votes + number * backward.vote_planes() * batch.pixels() + y * batch.image.width + x;
    votes[0] = static_cast<float>(gradient.down * scale);
    votes[batch.pixels()] = static_cast<float>(gradient.across * scale);
    if (kPlanes > 1) {
        votes[2 * batch.pixels()] = static_cast<float>(gradient.plane);
    }
}

/// Compute the gradient with respect to all channels of pixel (y, x).
template <int kPlanes>
PREIMAGE_INLINE void image_gradient(const Backward& backward, std::int64_t number, std::int64_t y, std::int64_t x) {
    const Batch& batch = backward.batch;
    const std::int64_t height = batch.image.height;
    const std::int64_t width = batch.image.width;
    const std::int64_t pixels = batch.pixels();
    const std::int64_t at = y * width + x;
    const float* votes = backward.votes + number * backward.vote_planes() * pixels;
    float* gradients = backward.images + number * batch.image.channels * pixels + at;
    Image image = batch.image;
    image.pixels += number * batch.image_stride;
    for (int plane = 0; plane < kPlanes; ++plane) {
        const auto vote = [&](std::int64_t of, std::int64_t pixel) {
            const bool passes = kPlanes == 1 || votes[2 * pixels + pixel] == static_cast<float>(plane);
            return passes ? votes[of * pixels + pixel] : 0.0f;
        };
        // The differences across the border are constant.
        float sum = 0.0f;
        sum += y >= 2 ? vote(0, at - width) : 0.0f;
        sum -= y < height - 2 ? vote(0, at + width) : 0.0f;
        sum += x >= 2 ? vote(1, at - 1) : 0.0f;
        sum -= x < width - 2 ? vote(1, at + 1) : 0.0f;
        if (batch.parameters.square_root) {
            const double root = value_at(image, batch.parameters, kPlanes, plane, y, x);
            sum = root != 0.0 ? static_cast<float>(static_cast<double>(sum) * 0.5 / root) : 0.0f;
        }
        if (kPlanes == batch.image.channels) {
            gradients[plane * pixels] = sum;
        } else {
            gradients[0] = 0.299f * sum;
            gradients[pixels] = 0.587f * sum;
            gradients[2 * pixels] = 0.114f * sum;
        }
    }
}

}  // namespace preimage::dalal_triggs
