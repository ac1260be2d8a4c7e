// Computes the descriptors of one drawn image and prints a hash of each: the same program, compiled for another system,
// must print the same.
//
// The image is drawn with integers, so that it is the same everywhere. "…-bits" are features that depend on the C
// library's exponential, sine or cosine and may differ in the last digits between libraries.
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/dispatch.h"
#include "dalal_triggs/dalal_triggs.h"
#include "dense_sift/dense_sift.h"
#include "hog/hog.h"
#include "lbp/lbp.h"
#include "sift/sift.h"
#ifdef PREIMAGE_X86_KERNELS
#include "common/x86_features.h"
#endif

namespace {

using preimage::TensorView;

constexpr std::int64_t kHeight = 150, kWidth = 214;

std::vector<std::uint8_t> draw() {
    std::vector<std::uint8_t> image(3 * kHeight * kWidth);
    std::uint32_t state = 1;
    for (std::size_t index = 0; index < image.size(); ++index) {
        const auto pixel = static_cast<std::int64_t>(index) % (kHeight * kWidth);
        const std::int64_t y = pixel / kWidth, x = pixel % kWidth;
        state = state * 1664525u + 1013904223u;
        const std::int64_t disk = (x - 90) * (x - 90) + (y - 70) * (y - 70) < 1600 ? 90 : 0;
        const std::int64_t squares = (x / 23 + y / 17) % 2 * 70;
        image[index] = static_cast<std::uint8_t>(40 + disk + squares + (state >> 28));
    }
    return image;
}

template <class Value>
TensorView view(std::vector<Value>& values, std::array<std::int64_t, 4> shape, const char* type) {
    std::array<std::int64_t, 4> strides{};
    std::int64_t stride = sizeof(Value);
    for (std::size_t axis = 4; axis-- > 0; stride *= shape[axis]) {
        strides[axis] = stride;
    }
    values.resize(static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]));
    return TensorView({reinterpret_cast<std::uintptr_t>(values.data()), shape, strides, type, "cpu"});
}

/// Print the FNV-1a hash of an array's bytes.
template <class Value>
void print(const std::string& name, const std::vector<Value>& values) {
    std::vector<unsigned char> bytes(values.size() * sizeof(Value));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const unsigned char byte : bytes) {
        hash = (hash ^ byte) * 0x100000001b3u;
    }
    std::printf("%s %zu %08x%08x\n", name.c_str(), values.size(), static_cast<unsigned>(hash >> 32),
                static_cast<unsigned>(hash));
}

std::vector<std::int32_t> rounded(const std::vector<float>& values, float unit) {
    std::vector<std::int32_t> out;
    for (const float value : values) {
        out.push_back(static_cast<std::int32_t>(std::lround(value / unit)));
    }
    return out;
}

void print_descriptors(const TensorView& image, const std::string& set) {
    preimage::set_instruction_set(set);
    for (const std::int64_t cell : {8, 6}) {
        std::vector<float> hog;
        const auto rows = preimage::hog::cell_count(kHeight, cell), columns = preimage::hog::cell_count(kWidth, cell);
        preimage::hog::compute(image, view(hog, {1, preimage::hog::kChannels, rows, columns}, "float32"),
                               {cell, preimage::Color::strongest}, 2);
        print(set + " hog-" + std::to_string(cell), hog);
    }
    {
        namespace dalal_triggs = preimage::dalal_triggs;
        const dalal_triggs::Parameters parameters{
            8, 6, 3, 2, 9, preimage::Color::strongest, dalal_triggs::Norm::l2_hys, false};
        std::vector<float> features;
        dalal_triggs::compute(image, view(features, {1, 54, kHeight / 8 - 2, kWidth / 6 - 1}, "float32"), parameters,
                              2);
        print(set + " dalal-triggs", features);
    }
    for (const std::int64_t cell : {16, 10}) {
        std::vector<float> lbp;
        preimage::lbp::compute(image, view(lbp, {1, preimage::lbp::kLabels, kHeight / cell, kWidth / cell}, "float32"),
                               cell, 2);
        print(set + " lbp-" + std::to_string(cell), lbp);
    }
    namespace dense_sift = preimage::dense_sift;
    for (const auto window : {dense_sift::Window::flat, dense_sift::Window::gaussian}) {
        const dense_sift::Parameters parameters{4, 4, window, 2.0f, 0, 0, kHeight - 1, kWidth - 1};
        const auto rows = dense_sift::frame_count(0, kHeight - 1, parameters);
        const auto columns = dense_sift::frame_count(0, kWidth - 1, parameters);
        std::vector<float> features, norms;
        dense_sift::compute(image, view(features, {1, dense_sift::kChannels, rows, columns}, "float32"),
                            view(norms, {1, 1, rows, columns}, "float32"), parameters, 2);
        print(set + (window == dense_sift::Window::flat ? " dense-sift-flat" : " dense-sift-gaussian-bits"), features);
    }
    const auto found = preimage::sift::compute(image, {3, 0, 0.0, 10.0}, 2);
    print(set + " sift-bits", found[0].descriptors);
    print(set + " sift-frames", rounded(found[0].frames, 0.01f));
}

}  // namespace

int main() {
#ifdef PREIMAGE_X86_KERNELS
    const auto [avx2, avx512] = preimage::x86_features();
    const auto names = preimage::instruction_sets();
    const std::size_t expected = 1 + (avx2 ? 1 : 0) + (avx512 ? 1 : 0);
    if (names.size() != expected) {
        std::fprintf(stderr, "the processor and the compiler's runtime library name different instruction sets\n");
        return 1;
    }
#endif
    std::vector<std::uint8_t> pixels = draw();
    const std::vector<std::uint8_t> drawn = pixels;
    const TensorView image = view(pixels, {1, 3, kHeight, kWidth}, "uint8");
    for (const std::string& set : preimage::instruction_sets()) {
        print_descriptors(image, set);
    }
    return pixels == drawn ? 0 : 1;
}
