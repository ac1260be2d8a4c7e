// How images of three channels are reduced to one gradient per pixel.
#pragma once

#include <stdexcept>
#include <string>

#include "common/image.h"

namespace preimage {

enum class Color {
    luma,      // Rec. 601 of three channels
    strongest  // per pixel, the channel with the longest gradient (the first of equals)
};

inline Color color_named(const std::string& name) {
    if (name == "luma") {
        return Color::luma;
    }
    if (name == "strongest") {
        return Color::strongest;
    }
    throw std::invalid_argument("color must be 'luma' or 'strongest', got '" + name + "'");
}

/// Return the number of planes whose gradients are computed: 1 for luma.
PREIMAGE_INLINE int planes_of(const Image& image, Color color) {
    return image.channels == 3 && color == Color::strongest ? 3 : 1;
}

}  // namespace preimage
