// The gradient of HOG with respect to the image: element-wise steps shared by CPU and GPU.
//
// Each element gathers what it needs in a fixed order, so the result depends neither on the number of threads nor on
// the device. Sub-gradients: a clipped value passes no gradient, a vote keeps its direction (and, with several
// channels, its channel), and a gradient of length zero passes none.
#pragma once

#include "hog/hog_blocks.h"

namespace preimage::hog {

/// Buffers of the gradients, contiguous float32, in the order of the chain rule. The batch's cells and energies are
/// inputs.
struct Backward {
    Batch batch;
    int planes;
    const float* output;  // (B, 31, Hc, Wc)
    float* squares;       // (B, Hc + 1, Wc + 1): with respect to the energies of 2x2 squares of cells
    float* cells;         // (B, 18, Hc, Wc)
    float* votes;   // (B, planes == 1 ? 2 : 3, H, W): with respect to gx and gy, and the plane that these came from
    float* images;  // (B, C, H, W)

    PREIMAGE_HOST_DEVICE std::int64_t plane() const { return batch.cell_rows * batch.cell_columns; }
    PREIMAGE_HOST_DEVICE std::int64_t pixels() const { return batch.image.height * batch.image.width; }
    PREIMAGE_HOST_DEVICE std::int64_t vote_planes() const { return planes == 1 ? 2 : 3; }
};

/// Return the number of floats of working memory for `backward.batch.images` images.
inline std::int64_t backward_scratch(const Backward& backward) {
    const Batch& batch = backward.batch;
    return batch.images * ((2 * kBins + 1) * backward.plane() + (batch.cell_rows + 1) * (batch.cell_columns + 1) +
                           backward.vote_planes() * backward.pixels());
}

inline void place_scratch(Backward& backward, float* memory) {
    Batch& batch = backward.batch;
    const auto take = [&memory, &batch](std::int64_t count) {
        float* taken = memory;
        memory += batch.images * count;
        return taken;
    };
    batch.cells = take(kBins * backward.plane());
    batch.energies = take(backward.plane());
    backward.cells = take(kBins * backward.plane());
    backward.squares = take((batch.cell_rows + 1) * (batch.cell_columns + 1));
    backward.votes = take(backward.vote_planes() * backward.pixels());
}

/// Return the checked batch, without buffers.
inline Batch whole_batch(const TensorView& images, const Parameters& parameters) {
    Batch batch{};
    batch.image = checked_image(images, parameters);
    batch.image_stride = images.strides[0];
    batch.images = images.shape[0];
    batch.cell_size = parameters.cell_size;
    batch.cell_rows = cell_count(batch.image.height, parameters.cell_size);
    batch.cell_columns = cell_count(batch.image.width, parameters.cell_size);
    return batch;
}

/// Return the checked gradient, without working memory.
inline Backward whole_backward(const TensorView& output, const TensorView& images, const TensorView& gradients,
                               const Parameters& parameters) {
    Backward backward{};
    backward.batch = whole_batch(images, parameters);
    backward.planes = planes_of(backward.batch.image, parameters.color);
    check_float_features(output, images.shape[0], backward.batch.cell_rows, backward.batch.cell_columns,
                         "the output's gradient must be contiguous float32 of shape (B, 31, Hc, Wc)");
    require(gradients.type == ScalarType::float32 && gradients.shape == images.shape && gradients.is_contiguous(),
            "the images' gradient must be contiguous float32 of the images' shape");
    backward.output = reinterpret_cast<const float*>(output.data);
    backward.images = reinterpret_cast<float*>(gradients.data);
    return backward;
}

/// Return the gradient before clipping: zero above the clipping level.
PREIMAGE_INLINE float clip_backward(float value, float gradient) { return kClip < value ? 0.0f : gradient; }

/// Gradients with respect to the factor of one square, and to bins k and k + 9 of a cell normalized by it.
struct ScaledGradient {
    float factor, forward, opposite;
};

/// `output` points to channel 0 of the cell, `cells` to bin 0.
PREIMAGE_INLINE ScaledGradient scaled_gradient(const float* output, const float* cells, std::int64_t plane, int k,
                                               int square, float factor) {
    const float forward = cells[k * plane];
    const float opposite = cells[(k + kOrientations) * plane];
    const float texture = kTextureScale * output[(kBins + kOrientations + square) * plane];
    const float undirected =
        clip_backward(forward * factor + opposite * factor, 0.5f * output[(k + kBins) * plane] + texture);
    const float of_forward = clip_backward(forward * factor, 0.5f * output[k * plane]) + undirected;
    const float of_opposite = clip_backward(opposite * factor, 0.5f * output[(k + kOrientations) * plane]) + undirected;
    return {of_forward * forward + of_opposite * opposite, of_forward * factor, of_opposite * factor};
}

/// Square (i, j) of image `number` consists of the cells (i - 1, j - 1) to (i, j).
PREIMAGE_INLINE void square_gradient(const Backward& backward, std::int64_t number, std::int64_t i, std::int64_t j) {
    const Batch& batch = backward.batch;
    const std::int64_t rows = batch.cell_rows;
    const std::int64_t columns = batch.cell_columns;
    const std::int64_t plane = backward.plane();
    const float* energies = batch.energies + number * plane;
    const auto energy = [&](std::int64_t y, std::int64_t x) {
        return energies[maximum(minimum(y, rows - 1), 0) * columns + maximum(minimum(x, columns - 1), 0)];
    };
    const float factor = normalizer(energy(i - 1, j - 1), energy(i - 1, j), energy(i, j - 1), energy(i, j));
    float sum = 0.0f;
    for (int corner = 0; corner < 4; ++corner) {  // the square is the first of its lower right cell, and so on
        const std::int64_t y = i - corner / 2;
        const std::int64_t x = j - corner % 2;
        if (y < 0 || y >= rows || x < 0 || x >= columns) {
            continue;
        }
        const std::int64_t cell = y * columns + x;
        const float* output = backward.output + number * kChannels * plane + cell;
        const float* cells = batch.cells + number * kBins * plane + cell;
        for (int k = 0; k < kOrientations; ++k) {
            sum += scaled_gradient(output, cells, plane, k, corner, factor).factor;
        }
    }
    backward.squares[(number * (rows + 1) + i) * (columns + 1) + j] = sum * (-0.5f * (factor * factor * factor));
}

PREIMAGE_INLINE void cell_gradient(const Backward& backward, std::int64_t number, std::int64_t row,
                                   std::int64_t column) {
    const Batch& batch = backward.batch;
    const std::int64_t columns = batch.cell_columns;
    const std::int64_t plane = backward.plane();
    const std::int64_t cell = row * columns + column;
    const float* squares = backward.squares + number * (batch.cell_rows + 1) * (columns + 1);
    float of_energy = 0.0f;
    for (int square = 0; square < 4; ++square) {
        const std::int64_t i = row + square / 2;
        const std::int64_t j = column + square % 2;
        // At the edge of the array a cell also stands in for its missing neighbor.
        const float multiplicity =
            (i == 0 || i == batch.cell_rows ? 2.0f : 1.0f) * (j == 0 || j == columns ? 2.0f : 1.0f);
        of_energy += multiplicity * squares[i * (columns + 1) + j];
    }
    float factors[4];
    cell_normalizers(batch, number, row, column, factors);
    const float* output = backward.output + number * kChannels * plane + cell;
    const float* cells = batch.cells + number * kBins * plane + cell;
    float* gradients = backward.cells + number * kBins * plane + cell;
    for (int k = 0; k < kOrientations; ++k) {
        const float undirected = 2.0f * (cells[k * plane] + cells[(k + kOrientations) * plane]) * of_energy;
        float forward = undirected;
        float opposite = undirected;
        for (int square = 0; square < 4; ++square) {
            const ScaledGradient scaled = scaled_gradient(output, cells, plane, k, square, factors[square]);
            forward += scaled.forward;
            opposite += scaled.opposite;
        }
        gradients[k * plane] = forward;
        gradients[(k + kOrientations) * plane] = opposite;
    }
}

/// Return the gradient with respect to the length of pixel (y, x)'s vote.
PREIMAGE_INLINE float length_gradient(const Backward& backward, const float* cells, std::int64_t y, std::int64_t x) {
    const Batch& batch = backward.batch;
    const std::int64_t row = cell_before(y, batch.cell_size);
    const std::int64_t column = cell_before(x, batch.cell_size);
    const float below = weight_after(y, batch.cell_size);
    const float right = weight_after(x, batch.cell_size);
    float sum = 0.0f;
    for (int corner = 0; corner < 4; ++corner) {
        const std::int64_t i = row + corner / 2;
        const std::int64_t j = column + corner % 2;
        if (i >= 0 && i < batch.cell_rows && j >= 0 && j < batch.cell_columns) {
            const float weight = (corner / 2 == 0 ? 1.0f - below : below) * (corner % 2 == 0 ? 1.0f - right : right);
            sum += weight * cells[i * batch.cell_columns + j];
        }
    }
    return sum;
}

template <int kPlanes>
PREIMAGE_INLINE void vote_gradient(const Backward& backward, std::int64_t number, std::int64_t y, std::int64_t x) {
    const Batch& batch = backward.batch;
    float of_gx = 0.0f;
    float of_gy = 0.0f;
    int plane = 0;
    if (y >= 1 && y < batch.image.height - 1 && x >= 1 && x < batch.image.width - 1) {
        const Image image = batch.at(number);
        const auto read = [&](int channel, int dy, int dx) {
            return pixel_at(image, kPlanes, channel, y + dy, x + dx);
        };
        const Gradient gradient = strongest_gradient<kPlanes>(read);
        const float vote = length(gradient);
        if (vote > 0.0f) {
            const std::int64_t bin = orientation_bin(gradient.gx, gradient.gy);
            const float* cells = backward.cells + (number * kBins + bin) * backward.plane();
            const float scale = length_gradient(backward, cells, y, x) / vote;
            of_gx = scale * gradient.gx;
            of_gy = scale * gradient.gy;
        }
        plane = gradient.plane;
    }
    float* votes = backward.votes + number * backward.vote_planes() * backward.pixels() + y * batch.image.width + x;
    votes[0] = of_gx;
    votes[backward.pixels()] = of_gy;
    if (kPlanes > 1) {
        votes[2 * backward.pixels()] = static_cast<float>(plane);
    }
}

/// Compute the gradient with respect to all channels of one pixel.
template <int kPlanes>
PREIMAGE_INLINE void image_gradient(const Backward& backward, std::int64_t number, std::int64_t y, std::int64_t x) {
    const std::int64_t pixels = backward.pixels();
    const std::int64_t width = backward.batch.image.width;
    const std::int64_t pixel = y * width + x;
    const float* votes = backward.votes + number * backward.vote_planes() * pixels;
    float sums[kPlanes] = {};
    const auto add = [&](bool inside, int direction, std::int64_t neighbor, float sign) {
        const float value = inside ? sign * votes[direction * pixels + neighbor] : 0.0f;
        const float plane = inside && kPlanes > 1 ? votes[2 * pixels + neighbor] : 0.0f;
        for (int channel = 0; channel < kPlanes; ++channel) {
            sums[channel] += plane == static_cast<float>(channel) ? value : 0.0f;
        }
    };
    add(x > 0, 0, pixel - 1, 1.0f);
    add(x + 1 < width, 0, pixel + 1, -1.0f);
    add(y > 0, 1, pixel - width, 1.0f);
    add(y + 1 < backward.batch.image.height, 1, pixel + width, -1.0f);
    const int channels = backward.batch.image.channels;
    float* images = backward.images + number * channels * pixels + pixel;
    if (channels > kPlanes) {
        images[0] = 0.299f * sums[0];
        images[pixels] = 0.587f * sums[0];
        images[2 * pixels] = 0.114f * sums[0];
        return;
    }
    for (int channel = 0; channel < kPlanes; ++channel) {
        images[channel * pixels] = sums[channel];
    }
}

}  // namespace preimage::hog
