// Runs block programs on the host: files in, every order of a phase's threads, files out.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/block_program.h"
#include "common/image.h"

namespace host_run {

inline void fail(const std::string& problem) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    std::exit(1);
}

/// A whole file as values of one type.
template <class Value>
std::vector<Value> read(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (file == nullptr) {
        fail(std::string("cannot open ") + path);
    }
    std::vector<Value> values;
    Value value;
    while (std::fread(&value, sizeof(Value), 1, file) == 1) {
        values.push_back(value);
    }
    std::fclose(file);
    return values;
}

template <class Value>
void write(const char* path, const std::vector<Value>& values) {
    std::FILE* file = std::fopen(path, "wb");
    if (file == nullptr || std::fwrite(values.data(), sizeof(Value), values.size(), file) != values.size()) {
        fail(std::string("cannot write ") + path);
    }
    std::fclose(file);
}

/// "forward", "reverse" or "shuffled".
inline preimage::ThreadOrder order_named(const std::string& name) {
    return name == "forward"   ? preimage::ThreadOrder::forward
           : name == "reverse" ? preimage::ThreadOrder::reverse
                               : preimage::ThreadOrder::shuffled;
}

/// The first image of a contiguous batch (B, C, H, W), uint8 or else float32.
inline preimage::Image first_image(const std::byte* pixels, bool bytes, std::int64_t channels, std::int64_t height,
                                   std::int64_t width) {
    const std::int64_t size = bytes ? 1 : 4;
    const auto type = bytes ? preimage::ScalarType::uint8 : preimage::ScalarType::float32;
    return {pixels, type, static_cast<int>(channels), height, width, size * height * width, size * width, size};
}

/// Bytes from one such image to the next.
inline std::int64_t image_bytes(const preimage::Image& image) { return image.channels * image.channel_stride; }

}  // namespace host_run
