// A batch's images, or horizontal bands of them, shared out among threads that each have working memory.
#pragma once

#include <cstdint>

#include "common/aligned.h"
#include "common/parallel.h"

namespace preimage {

/// Calls body(image, first_row, last_row, memory) for every band of every image; `memory` is aligned, `floats` long,
/// and nobody else's for the length of the call. `rows` are an image's, of pixels, cells or frames.
template <class Body>
void over_bands(std::int64_t batch, std::int64_t pixels, std::int64_t rows, std::int64_t rows_per_band, int threads,
                std::int64_t floats, const Body& body) {
    if (batch == 0) {
        return;
    }
    const Split split = split_images(batch, pixels, rows, rows_per_band, threads);
    const AlignedFloats memory = aligned_floats(floats * split.workers);
    parallel_for(batch * split.bands, split.workers, [&](std::int64_t task, int worker) {
        const std::int64_t part = task % split.bands;
        body(task / split.bands, rows * part / split.bands, rows * (part + 1) / split.bands,
             memory.get() + floats * worker);
    });
}

}  // namespace preimage
