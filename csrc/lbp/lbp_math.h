// Arithmetic of one pixel and of one cell, in integers except for the last step.
#pragma once

#include <cstdint>

#include "common/float16.h"
#include "common/host_device.h"
#include "lbp/lbp.h"

namespace preimage::lbp {

/// Return the code: one bit per neighbor, clockwise from the right (y down), set where it is greater than the center.
/// Comparisons with NaN are false.
PREIMAGE_INLINE std::uint32_t code_at(const float* above, const float* here, const float* below) {
    const float center = here[0];
    return (here[1] > center ? 1u : 0u) | (below[1] > center ? 2u : 0u) | (below[0] > center ? 4u : 0u) |
           (below[-1] > center ? 8u : 0u) | (here[-1] > center ? 16u : 0u) | (above[-1] > center ? 32u : 0u) |
           (above[0] > center ? 64u : 0u) | (above[1] > center ? 128u : 0u);
}

/// Return the same code from fewer instructions on a GPU: a comparison and a sum per neighbor. The terms are denormal
/// numbers, whose bits add up like integers.
PREIMAGE_INLINE std::uint32_t summed_code(const float* above, const float* here, const float* below) {
    const float neighbors[8] = {here[1], below[1], below[0], below[-1], here[-1], above[-1], above[0], above[1]};
    float code = 0.0f;
    for (int bit = 0; bit < 8; ++bit) {
        code = multiply_add(neighbors[bit] > here[0] ? 1.0f : 0.0f, float_from_bits(1 << bit), code);
    }
    return static_cast<std::uint32_t>(float_bits(code));
}

/// Return the label of a code: a run of 1 ... 7 ones that begins at a bit is label 7 * bit + length - 1.
PREIMAGE_HOST_DEVICE constexpr int label_of(std::uint32_t code) {
    const std::uint32_t previous = ((code << 1) | (code >> 7)) & 255u;
    const std::uint32_t begins = code & ~previous;  // ones whose predecessor is zero
    if (begins == 0) {
        return kFlatLabel;
    }
    if ((begins & (begins - 1)) != 0) {
        return kMixedLabel;
    }
    int label = -1;
    for (std::uint32_t rest = code; rest != 0; rest &= rest - 1) {
        ++label;
    }
    for (std::uint32_t rest = begins; rest != 1; rest >>= 1) {
        label += 7;
    }
    return label;
}

// Along each axis, cells are `cell_size` pixels wide, and block i is the run of pixels between the centers of the cells
// i - 1 and i. Weights are in units of 1 / (2 cell_size). 32-bit integers suffice for cells of 16, and are faster.

/// Return the first pixel of block i.
template <class Integer>
PREIMAGE_INLINE Integer block_start(Integer index, Integer cell_size) {
    return index * cell_size - (cell_size + 1) / 2;
}

/// Return the weight of the pixel at `offset` of a block for the following cell; that for the preceding cell is 2
/// cell_size minus this.
template <class Integer>
PREIMAGE_INLINE Integer weight_after(Integer offset, Integer cell_size) {
    return 2 * offset + 1 - cell_size % 2;
}

/// Return the weight of the pixel at `position` for a cell within its reach.
template <class Integer>
PREIMAGE_INLINE Integer weight_at(Integer position, Integer cell, Integer cell_size) {
    const Integer offset = position - block_start(cell, cell_size);
    return offset < cell_size ? weight_after(offset, cell_size)
                              : 2 * cell_size - weight_after(offset - cell_size, cell_size);
}

/// Return the sum of weights of the first `count` of the 2 cell_size pixels that reach a cell.
template <class Integer>
PREIMAGE_INLINE Integer weights_before(Integer count, Integer cell_size) {
    const Integer reach = count < 0 ? 0 : count < 2 * cell_size ? count : 2 * cell_size;
    const Integer odd = cell_size % 2;
    const Integer rest = 2 * cell_size - reach;
    return reach <= cell_size ? reach * (reach - odd) : 2 * cell_size * cell_size - rest * (rest + odd);
}

/// Return the total weight of a cell along an axis of `pixels`, of which the first and the last do not vote. The votes
/// of a cell always sum to the product of both axes' totals.
template <class Integer>
PREIMAGE_INLINE Integer weight_sum(Integer cell, Integer cell_size, Integer pixels) {
    const Integer start = block_start(cell, cell_size);
    return weights_before(pixels - 1 - start, cell_size) - weights_before(1 - start, cell_size);
}

/// Return the square root, or 1 for a sum of 0, so that the division in `feature` gives 0.
template <class Integer>
PREIMAGE_INLINE float root_of_sum(Integer sum) {
    return sum > 0 ? square_root(static_cast<float>(sum)) : 1.0f;
}

/// Return the feature of a label with `votes` in a cell. The units cancel, exactly if the cell size is a power of two.
/// VLFeat adds 1e-10 to the root of the sum, which is less than half a unit in its last place.
template <class Integer>
PREIMAGE_INLINE float feature(Integer votes, float root) {
    return square_root(static_cast<float>(votes)) / root;
}

}  // namespace preimage::lbp
