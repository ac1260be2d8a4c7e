// The CPU kernel of Dalal and Triggs's HOG, compiled once per instruction set (CMakeLists.txt).
//
// Everything here has internal linkage and uses no templates of the standard library: host_device.h explains why. Loops
// over kChunk are written for the compiler to vectorize.
//
// The kernel goes down the image by cell rows and keeps as many as a block has. Rows of bytes are converted to float32,
// which holds their gradients exactly; everything else is converted to double, because the orientation of a gradient is
// chosen in double precision. Gradients of float32 images are rounded to float32, as scikit-image computes them.
#include "dalal_triggs/dalal_triggs_cpu_cells.h"
#include "dalal_triggs/dalal_triggs_cpu_votes.h"

namespace preimage::dalal_triggs::PREIMAGE_ISA {
namespace {

template <class Real, int kPlanes>
void run_band(const Band& band, const Scratch& scratch) {
    Lines<Real> lines(band, scratch);
    const Cells cells(band, scratch);
    // Blocks also need the cell rows after the band.
    const std::int64_t last_row = band.raw ? band.last_row : band.last_row + band.parameters.block_height - 1;
    for (std::int64_t row = band.first_row; row < last_row; ++row) {
        cells.clear();
        const std::int64_t top = row * band.parameters.cell_height;
        for (std::int64_t y = top; y < top + band.parameters.cell_height; ++y) {
            lines.require(y);
            vote_row<Real, kPlanes>(band, lines, y, scratch.lengths, scratch.bins);
            cells.add_row(scratch.lengths, scratch.bins);
        }
        cells.finish(row);
        const std::int64_t block_row = row - band.parameters.block_height + 1;
        if (band.raw) {
            cells.write_raw(row);
        } else if (block_row >= band.first_row) {
            cells.write_blocks(block_row);
        }
    }
}

}  // namespace

void band(const Band& band, const Scratch& scratch) {
    const bool three = planes_of(band.image, band.parameters.color) == 3;
    if (is_exact(band.image, band.parameters)) {
        three ? run_band<float, 3>(band, scratch) : run_band<float, 1>(band, scratch);
    } else {
        three ? run_band<double, 3>(band, scratch) : run_band<double, 1>(band, scratch);
    }
}

}  // namespace preimage::dalal_triggs::PREIMAGE_ISA
