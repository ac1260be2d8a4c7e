// Sparse SIFT on the CPU: checks arguments, builds the scale space octave by octave, and runs images in parallel.
#include "sift/sift.h"

#include <algorithm>
#include <cmath>

#include "common/memory.h"
#include "common/parallel.h"
#include "sift/sift_refine.h"

namespace preimage::sift {
namespace {

constexpr double kSigma = 1.6;        // blur of the lowest level of an octave
constexpr double kImageSigma = 0.5;   // assumed blur of the image, in its pixels
constexpr std::int64_t kMinSide = 3;  // an extremum needs neighbors

/// Return the float32 Gaussian of this standard deviation; its weights sum to about 1.
std::vector<float> gaussian(double sigma) {
    const std::int64_t radius = std::max<std::int64_t>(static_cast<std::int64_t>(std::ceil(4.0 * sigma)), 1);
    std::vector<float> weights(static_cast<std::size_t>(2 * radius + 1));
    float sum = 0.0f;
    for (std::size_t tap = 0; tap < weights.size(); ++tap) {
        const float z = static_cast<float>(static_cast<std::int64_t>(tap) - radius) / static_cast<float>(sigma);
        weights[tap] = static_cast<float>(std::exp(-0.5 * static_cast<double>(z * z)));
        sum += weights[tap];
    }
    for (float& weight : weights) {
        weight /= sum;
    }
    return weights;
}

/// Sizes and filters shared by all images of a batch.
struct Plan {
    Parameters parameters;
    Kernels kernels;
    Size first;  // size of the first octave
    int octaves;
    std::int64_t plane;                       // floats from one plane of an octave to the next
    std::int64_t line;                        // floats of a row with margins
    double sigma;                             // blur of level 0
    std::vector<std::vector<float>> filters;  // from level s - 1 to s, starting with that from the image to level -1

    Plan(const Image& image, const Parameters& wanted)
        : parameters(wanted), kernels(PREIMAGE_KERNEL(kernels)()), first(), octaves(1) {
        const int octave = wanted.first_octave;
        const auto scaled = [octave](std::int64_t side) { return octave < 0 ? side << -octave : side >> octave; };
        first = sized(scaled(image.width), scaled(image.height));
        // More memory than any machine has; below this limit no sum of sizes overflows. (A tensor may repeat one pixel
        // without limit.)
        require(first.height <= (std::int64_t{1} << 40) / first.pitch, "an image must have fewer than 2^40 pixels");
        std::int64_t side = std::min(image.width, image.height);
        int log_side = 0;
        while (side >>= 1) {
            ++log_side;
        }
        octaves = std::max(log_side - octave - 3, 1);
        plane = first.pitch * first.height + 64;
        const double factor = std::pow(2.0, 1.0 / wanted.levels);
        sigma = kSigma * factor;
        const double lowest = sigma * std::pow(factor, -1);
        const double given = kImageSigma * std::pow(2.0, -octave);
        filters.push_back(gaussian(std::sqrt(lowest * lowest - given * given)));
        const double step = sigma * std::sqrt(1.0 - 1.0 / (factor * factor));
        for (int level = 0; level <= wanted.levels + 1; ++level) {
            filters.push_back(gaussian(step * std::pow(factor, level)));
        }
        std::int64_t widest = 0;
        for (const std::vector<float>& filter : filters) {
            widest = std::max(widest, static_cast<std::int64_t>(filter.size()));
        }
        line = std::max(first.pitch, image.width) + widest + 64;
    }

    /// Return the size with rows padded to an odd number of cache lines, so that columns do not share a cache set.
    static Size sized(std::int64_t width, std::int64_t height) {
        const std::int64_t lines = (width + 15) / 16;
        return {width, height, (lines + 1 + lines % 2) * 16};
    }

    std::int64_t planes() const { return 2 * parameters.levels + 5 + 2; }
    std::int64_t floats() const { return planes() * plane + line + 7 * first.pitch; }
};

/// Detects the keypoints of one image.
class Detector {
public:
    /// `memory`: plan.floats() uninitialized floats.
    Detector(const Plan& plan, float* memory) : plan_(plan), size_(plan.first) {
        const auto take = [&memory](std::int64_t floats) {
            float* taken = memory;
            memory += floats;
            return taken;
        };
        levels_ = take((plan.parameters.levels + 3) * plan.plane);
        differences_ = take((plan.parameters.levels + 2) * plan.plane);
        lengths_ = take(plan.plane);
        angles_ = take(plan.plane);
        line_ = take(plan.line);
        work_ = take(5 * plan.first.pitch);
        columns_ = reinterpret_cast<std::int32_t*>(take(plan.first.pitch));
    }

    Keypoints run(const Image& image) {
        if (std::min(size_.width, size_.height) >= kMinSide) {
            load(image);
            smooth(level(0), -1);
            for (octave_ = plan_.parameters.first_octave;; ++octave_) {
                for (int s = 0; s <= plan_.parameters.levels + 1; ++s) {
                    smooth(level(s - 1), s);
                }
                detect();
                const Size next = Plan::sized(size_.width / 2, size_.height / 2);
                if (octave_ + 1 == plan_.parameters.first_octave + plan_.octaves ||
                    std::min(next.width, next.height) < kMinSide) {
                    break;
                }
                halve(next);
            }
        }
        return std::move(found_);
    }

private:
    float* level(int s) { return levels_ + (s + 1) * plan_.plane; }

    /// Return the difference of levels s and s + 1.
    float* difference(int s) { return differences_ + (s + 1) * plan_.plane; }

    /// Load the image at the first octave's size into the memory of level 0, from which it is smoothed into level -1.
    void load(const Image& image) {
        float* out = level(0);
        const int octave = plan_.parameters.first_octave;
        if (octave < 0) {
            load_doubled(image);
            return;
        }
        const std::int64_t step = std::int64_t{1} << octave;
        for (std::int64_t y = 0; y < size_.height; ++y, out += size_.pitch) {
            if (step == 1) {
                plan_.kernels.read_row(image, y, out);
                continue;
            }
            plan_.kernels.read_row(image, y * step, line_);
            for (std::int64_t x = 0; x < size_.width; ++x) {
                out[x] = line_[x * step];
            }
        }
    }

    /// Every second pixel is the mean of its neighbors; the last one repeats its neighbor.
    void load_doubled(const Image& image) {
        float* const out = level(0);
        for (std::int64_t y = 0; y < image.height; ++y) {
            plan_.kernels.read_row(image, y, line_);
            line_[image.width] = line_[image.width - 1];
            float* row = out + 2 * y * size_.pitch;
            for (std::int64_t x = 0; x < image.width; ++x) {
                row[2 * x] = line_[x];
                row[2 * x + 1] = 0.5f * (line_[x] + line_[x + 1]);
            }
        }
        for (std::int64_t y = 1; y < size_.height; y += 2) {
            float* row = out + y * size_.pitch;
            const float* above = row - size_.pitch;
            const float* below = y + 1 < size_.height ? row + size_.pitch : above;
            for (std::int64_t x = 0; x < size_.width; ++x) {
                row[x] = 0.5f * (above[x] + below[x]);
            }
        }
    }

    /// Start the next octave with every second pixel of level `levels` - 1, whose blur is twice that of level -1.
    void halve(const Size& next) {
        const float* from = level(plan_.parameters.levels - 1);
        float* to = level(-1);
        for (std::int64_t y = 0; y < next.height; ++y) {
            for (std::int64_t x = 0; x < next.width; ++x) {
                to[y * next.pitch + x] = from[2 * y * size_.pitch + 2 * x];
            }
        }
        size_ = next;
    }

    void smooth(const float* in, int s) {
        const std::vector<float>& weights = plan_.filters[static_cast<std::size_t>(s + 1)];
        const Filter filter{weights.data(), static_cast<std::int64_t>(weights.size() / 2)};
        plan_.kernels.smooth(in, size_, filter, line_, level(s), s < 0 ? nullptr : difference(s - 1));
    }

    void detect() {
        for (int s = 0; s < plan_.parameters.levels; ++s) {
            has_gradients_ = false;
            for (std::int64_t y = 1; y < size_.height - 1; ++y) {
                const std::int64_t count = plan_.kernels.extrema(difference(s - 1), difference(s), difference(s + 1),
                                                                 size_, y, work_, columns_);
                for (std::int64_t k = 0; k < count; ++k) {
                    check(columns_[k], y, s);
                }
            }
        }
    }

    void check(std::int64_t x, std::int64_t y, int s) {
        const double threshold = 0.8 * plan_.parameters.peak_threshold;
        const float* here = difference(s);
        const auto value = static_cast<double>(here[y * size_.pitch + x]);
        Extremum extremum{};
        // Minima above zero and maxima below it do not count.
        const bool maximum = value > static_cast<double>(here[y * size_.pitch + x - 1]);
        if ((maximum ? value >= threshold : value <= -threshold) &&
            refine(here, size_, plan_.plane, x, y, s, plan_.parameters, &extremum)) {
            add(extremum, s);
        }
    }

    /// Add one keypoint per direction.
    void add(const Extremum& extremum, int s) {
        if (!has_gradients_) {
            plan_.kernels.gradients(level(s), size_, lengths_, angles_);
            has_gradients_ = true;
        }
        // VLFeat stores keypoints in float32, in pixels of the image, and continues from these rounded values.
        const double scale = std::pow(2.0, octave_);
        const auto x = static_cast<float>(extremum.x * scale);
        const auto y = static_cast<float>(extremum.y * scale);
        const auto sigma =
            static_cast<float>(plan_.sigma * std::pow(2.0, extremum.level / plan_.parameters.levels) * scale);
        const Patch patch{lengths_,
                          angles_,
                          size_,
                          static_cast<double>(x) / scale,
                          static_cast<double>(y) / scale,
                          static_cast<double>(sigma) / scale};
        double histogram[kOrientationBins];
        double angles[4];
        plan_.kernels.orientations(patch, histogram);
        const int count = peaks(histogram, angles);
        for (int k = 0; k < count; ++k) {
            const std::size_t begin = found_.descriptors.size();
            found_.descriptors.resize(begin + kDescriptor);
            if (!plan_.kernels.describe(patch, angles[k], found_.descriptors.data() + begin)) {
                found_.descriptors.resize(begin);
                continue;
            }
            constexpr auto turn = static_cast<float>(kTwoPi);
            const auto angle = static_cast<float>(angles[k]);
            found_.frames.insert(found_.frames.end(), {x, y, sigma, angle < turn ? angle : 0.0f,
                                                       static_cast<float>(std::abs(extremum.value))});
        }
    }

    const Plan& plan_;
    Size size_;
    int octave_ = 0;
    float *levels_, *differences_, *lengths_, *angles_, *line_, *work_;
    std::int32_t* columns_;
    bool has_gradients_ = false;
    Keypoints found_;
};

void check(const Parameters& parameters) {
    require(parameters.levels >= 1 && parameters.levels <= kMaxLevels, "levels must be in 1 ... 32");
    require(parameters.first_octave >= -1 && parameters.first_octave < 30, "first_octave must be in -1 ... 29");
    require(parameters.peak_threshold >= 0.0 && std::isfinite(parameters.peak_threshold),
            "peak_threshold must be at least 0");
    require(parameters.edge_threshold > 0.0 && std::isfinite(parameters.edge_threshold),
            "edge_threshold must be above 0");
}

}  // namespace

std::vector<Keypoints> compute(const TensorView& images, const Parameters& parameters, int threads) {
    images.require_device(-1);
    const Image image = first_image(images);
    check(parameters);
    const std::int64_t batch = images.shape[0];
    std::vector<Keypoints> found(static_cast<std::size_t>(batch));
    if (batch == 0) {
        return found;
    }
    const Plan plan(image, parameters);
    const int workers = static_cast<int>(std::clamp<std::int64_t>(threads, 1, batch));
    const AlignedFloats memory = aligned_floats(plan.floats(), workers);
    prefer_large_pages(memory.get(), plan.floats() * workers * static_cast<std::int64_t>(sizeof(float)));
    parallel_for(batch, workers, [&](std::int64_t index, int worker) {
        Image one = image;
        one.pixels += index * images.strides[0];
        found[static_cast<std::size_t>(index)] = Detector(plan, memory.get() + plan.floats() * worker).run(one);
    });
    return found;
}

}  // namespace preimage::sift
