// The CPU kernel of dense SIFT, compiled once per instruction set (CMakeLists.txt).
//
// Everything here has internal linkage and uses no templates of the standard library: host_device.h explains why.
//
// The kernel goes down the image, strip by strip. Every row of pixels becomes a row of votes, and then a row of sums
// along x (in the order described in dense_sift_cpu.h). These are kept in a ring buffer of as many rows as a descriptor
// covers. After the last row of a row of descriptors, the sums along y are computed, normalized and written. Every sum
// has the same order, however the image is divided into bands and strips.
#include <cstring>

#include "common/image_rows.h"
#include "dense_sift/dense_sift_cpu.h"
#include "dense_sift/dense_sift_cpu_sums.h"
#include "dense_sift/dense_sift_cpu_votes.h"
#include "dense_sift/dense_sift_cpu_write.h"

namespace preimage::dense_sift::PREIMAGE_ISA {
namespace {

/// Return the image columns needed for the gradients of a strip, as an image.
Image part_of(const Image& image, std::int64_t first, std::int64_t last) {
    Image part = image;
    part.pixels += first * image.column_stride;
    part.width = last - first;
    return part;
}

class Strip {
public:
    Strip(const Band& band, const Plan& plan, const Scratch& scratch, std::int64_t column)
        : band_(band),
          plan_(plan),
          scratch_(scratch),
          column_(column),
          count_(minimum(plan.strip, band.columns - column)),
          columns_(columns_of(band, plan, column)),
          origin_(maximum(columns_.first - 1, 0)),
          part_(part_of(band.image, origin_, minimum(columns_.last + 1, band.image.width))),
          lines_(part_, 1, scratch.lines, scratch.line_pitch, 3) {}

    void run() {
        const std::int64_t step = band_.parameters.step;
        // Every row overwrites the phases, except for elements that only padding lanes read.
        const auto bytes = static_cast<std::size_t>(phases_size()) * sizeof(float);
        std::memset(scratch_.phased_directions, 0, bytes);
        std::memset(scratch_.phased_lengths, 0, bytes);
        for (std::int64_t position = 0; position <= extent(band_.parameters.bin_size); ++position) {
            scratch_.ready[position] = -1;
        }
        std::int64_t next = band_.first_row * step;  // next position along y to be added
        for (std::int64_t row = band_.first_row; row < band_.last_row; ++row) {
            for (next = maximum(next, row * step); next < row * step + plan_.positions; ++next) {
                add_row(next);
            }
            finish_row(row);
        }
    }

private:
    static StripColumns columns_of(const Band& band, const Plan& plan, std::int64_t column) {
        const Parameters& parameters = band.parameters;
        const std::int64_t begin = parameters.left + column * parameters.step - (parameters.bin_size - 1);
        const std::int64_t count = minimum(plan.strip, band.columns - column);
        const std::int64_t span = (count - 1) * parameters.step + plan.positions;
        return {begin, span, maximum(begin, 0), minimum(begin + span, band.image.width)};
    }

    std::int64_t phases_size() const { return plan_.phases * plan_.phase_pitch; }

    /// Add position `next` along y: row top - (bin_size - 1) + next of the image, or the nearest row inside it.
    void add_row(std::int64_t next) {
        const Parameters& parameters = band_.parameters;
        const std::int64_t wanted = parameters.top - (parameters.bin_size - 1) + next;
        const std::int64_t y = minimum(maximum(wanted, 0), band_.image.height - 1);
        lines_.require(y - 1, y + 2);
        gradient_row(lines_, origin_, y, band_.image, columns_, scratch_.directions, scratch_.lengths);
        to_phases(scratch_.directions, columns_.span, plan_, parameters.step, scratch_.phased_directions);
        to_phases(scratch_.lengths, columns_.span, plan_, parameters.step, scratch_.phased_lengths);
        split_votes(scratch_.phased_directions, scratch_.phased_lengths, phases_size(), scratch_.bins, scratch_.first,
                    scratch_.second);
        spread_votes(scratch_.bins, scratch_.first, scratch_.second, phases_size(), scratch_.votes);
        sum_across(band_, plan_, scratch_, next % plan_.positions);
    }

    void finish_row(std::int64_t row) {
        const std::int64_t first = row * band_.parameters.step;
        for (std::int64_t position = 0; position < plan_.positions; ++position) {
            scratch_.slots[position] = (first + position) % plan_.positions * kOrientations * kChunk;
        }
        if (band_.parameters.window == Window::gaussian) {
            sum_down(band_, plan_, scratch_);
        } else {
            gather_shared(band_, plan_, scratch_, first);
        }
        write_row(band_, plan_, scratch_, row, column_, count_);
    }

    const Band& band_;
    const Plan& plan_;
    const Scratch& scratch_;
    const std::int64_t column_, count_;  // first column and number of the strip's descriptors
    const StripColumns columns_;
    const std::int64_t origin_;  // the first column of `part_`
    const Image part_;
    ImageRows lines_;
};

}  // namespace

void band(const Band& band, const Plan& plan, const Scratch& scratch) {
    for (std::int64_t column = 0; column < band.columns; column += plan.strip) {
        Strip(band, plan, scratch, column).run();
    }
}

}  // namespace preimage::dense_sift::PREIMAGE_ISA
