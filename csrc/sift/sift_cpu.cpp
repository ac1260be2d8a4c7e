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
constexpr double kDoubleEpsilon = 2.220446049250313e-16;
constexpr double kMostMagnification = 1000.0;
constexpr float kLargestScale = 1048576.0f;  // pixels
constexpr float kLargestAngle = 1000.0f;     // radians

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
        octaves = wanted.octaves >= 0 ? wanted.octaves : std::max(log_side - octave - 3, 1);
        // Later ones are too small for an extremum.
        const std::int64_t shorter = std::min(first.width, first.height);
        int visible = 0;
        while ((shorter >> visible) >= kMinSide) {
            ++visible;
        }
        octaves = std::min(octaves, visible);
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

/// Detects the keypoints of one image, or describes given frames.
class Detector {
public:
    /// `memory`: plan.floats() uninitialized floats. `given`: null, or outlives this.
    Detector(const Plan& plan, float* memory, const GivenFrames* given)
        : plan_(plan), given_(given), size_(plan.first) {
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
        if (plan_.octaves > 0) {
            load(image);
            smooth(level(0), -1);
            for (octave_ = plan_.parameters.first_octave;; ++octave_) {
                for (int s = 0; s <= plan_.parameters.levels + 1; ++s) {
                    smooth(level(s - 1), s);
                }
                if (given_ != nullptr) {
                    describe_given();
                } else {
                    detect();
                }
                if (octave_ + 1 == plan_.parameters.first_octave + plan_.octaves) {
                    break;
                }
                halve(Plan::sized(size_.width / 2, size_.height / 2));
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
        gradient_level_ = kNone;
        for (int s = 0; s < plan_.parameters.levels; ++s) {
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

    /// Describe the given frames that are nearest to a level of this octave, as `vl_sift_keypoint_init` assigns them.
    void describe_given() {
        gradient_level_ = kNone;
        const int first = plan_.parameters.first_octave;
        const int levels = plan_.parameters.levels;
        const float* frame = reinterpret_cast<const float*>(given_->frames.data);
        for (std::int64_t index = 0; index < given_->frames.shape[2]; ++index, frame += kGivenFrame) {
            const double position = std::log2((static_cast<double>(frame[2]) + kDoubleEpsilon) / plan_.sigma);
            const double nearest = std::floor(position + 0.5 / levels);
            if (std::clamp<double>(nearest, first, first + plan_.octaves - 1) == octave_) {
                const double s = std::floor(levels * (position - octave_) + 0.5);
                add_frame(frame[0], frame[1], frame[2], 0.0f, static_cast<int>(std::clamp(s, 0.0, levels - 1.0)),
                          given_->orient ? nullptr : frame + 3);
            }
        }
    }

    /// Add one keypoint per direction.
    void add(const Extremum& extremum, int s) {
        // VLFeat stores keypoints in float32, in pixels of the image, and continues from these rounded values.
        const double scale = std::pow(2.0, octave_);
        const auto x = static_cast<float>(extremum.x * scale);
        const auto y = static_cast<float>(extremum.y * scale);
        const auto sigma =
            static_cast<float>(plan_.sigma * std::pow(2.0, extremum.level / plan_.parameters.levels) * scale);
        add_frame(x, y, sigma, static_cast<float>(std::abs(extremum.value)), s, nullptr);
    }

    /// Add a keypoint with the given angle, or one per direction if it is null, on level s.
    void add_frame(float x, float y, float sigma, float response, int s, const float* given_angle) {
        if (gradient_level_ != s) {
            plan_.kernels.gradients(level(s), size_, lengths_, angles_);
            gradient_level_ = s;
        }
        const double scale = std::pow(2.0, octave_);
        const Patch patch{lengths_,
                          angles_,
                          size_,
                          static_cast<double>(x) / scale,
                          static_cast<double>(y) / scale,
                          static_cast<double>(sigma) / scale};
        const bool inside = patch.x > -0.5 && patch.x + 0.5 < static_cast<double>(size_.width) && patch.y > -0.5 &&
                            patch.y + 0.5 < static_cast<double>(size_.height);
        double angles[4];
        int count = 0;
        if (given_angle != nullptr) {
            angles[0] = std::fmod(static_cast<double>(*given_angle), kTwoPi);
            angles[0] += angles[0] < 0.0 ? kTwoPi : 0.0;
            count = 1;
        } else if (inside) {
            double histogram[kOrientationBins];
            plan_.kernels.orientations(patch, histogram);
            count = peaks(histogram, angles);
        }
        for (int k = 0; k < count; ++k) {
            const std::size_t begin = found_.descriptors.size();
            found_.descriptors.resize(begin + kDescriptor);
            float* const descriptor = found_.descriptors.data() + begin;
            if (inside && !plan_.kernels.describe(patch, plan_.parameters, angles[k], descriptor)) {
                if (given_angle == nullptr) {
                    found_.descriptors.resize(begin);
                    continue;
                }
                std::fill(descriptor, descriptor + kDescriptor, 0.0f);
            }
            constexpr auto turn = static_cast<float>(kTwoPi);
            const auto computed = static_cast<float>(angles[k]);
            const float angle = given_angle != nullptr ? *given_angle : computed < turn ? computed : 0.0f;
            found_.frames.insert(found_.frames.end(), {x, y, sigma, angle, response});
        }
    }

    static constexpr int kNone = -1;

    const Plan& plan_;
    const GivenFrames* given_;
    Size size_;
    int octave_ = 0;
    float *levels_, *differences_, *lengths_, *angles_, *line_, *work_;
    std::int32_t* columns_;
    int gradient_level_ = kNone;  // whose gradients are in lengths_ and angles_
    Keypoints found_;
};

void check(const Parameters& parameters) {
    require(parameters.levels >= 1 && parameters.levels <= kMaxLevels, "levels must be in 1 ... 32");
    require(parameters.first_octave >= -1 && parameters.first_octave < 30, "first_octave must be in -1 ... 29");
    require(parameters.peak_threshold >= 0.0 && std::isfinite(parameters.peak_threshold),
            "peak_threshold must be at least 0");
    require(parameters.edge_threshold > 0.0 && std::isfinite(parameters.edge_threshold),
            "edge_threshold must be above 0");
    require(parameters.octaves >= -1, "octaves must be at least -1");
    require(parameters.magnification > 0.0 && parameters.magnification <= kMostMagnification,
            "magnification must be above 0 and at most 1000");
    require(parameters.window_size > 0.0 && std::isfinite(parameters.window_size), "window_size must be above 0");
    require(std::isfinite(parameters.norm_threshold), "norm_threshold must be finite");
}

void check(const GivenFrames& given, std::int64_t batch) {
    require(batch == 1, "frames must be those of a single image");
    given.frames.require_device(-1);
    require(given.frames.type == ScalarType::float32 && given.frames.is_contiguous() && given.frames.shape[0] == 1 &&
                given.frames.shape[1] == 1 && given.frames.shape[3] == kGivenFrame,
            "frames must be contiguous float32 of shape (1, 1, N, 4)");
    const float* frame = reinterpret_cast<const float*>(given.frames.data);
    for (std::int64_t index = 0; index < given.frames.shape[2]; ++index, frame += kGivenFrame) {
        require(std::isfinite(frame[0]) && std::isfinite(frame[1]) && std::isfinite(frame[3]) && frame[2] > 0.0f &&
                    frame[2] <= kLargestScale && std::abs(frame[3]) <= kLargestAngle,
                "frames must be finite, with scales above 0 and at most 2^20 pixels, and angles of at most 1000 rad");
    }
}

}  // namespace

std::vector<Keypoints> compute(const TensorView& images, const Parameters& parameters, int threads,
                               const std::optional<GivenFrames>& given) {
    images.require_device(-1);
    const Image image = first_image(images);
    check(parameters);
    const std::int64_t batch = images.shape[0];
    if (given) {
        check(*given, batch);
    }
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
        Detector detector(plan, memory.get() + plan.floats() * worker, given ? &*given : nullptr);
        found[static_cast<std::size_t>(index)] = detector.run(one);
    });
    return found;
}

}  // namespace preimage::sift
