// Python bindings of sparse SIFT.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "bindings.h"
#include "sift/sift.h"
#include "sift/sift_grid.h"
#include "tensor_caster.h"

namespace preimage::sift {

namespace py = pybind11;

namespace {

/// Allocate the arrays here, unlike elsewhere, because the number of keypoints is known only at the end.
py::tuple to_arrays(const std::vector<Keypoints>& images) {
    std::vector<py::ssize_t> offsets{0};
    for (const Keypoints& image : images) {
        offsets.push_back(offsets.back() + static_cast<py::ssize_t>(image.frames.size() / kFrame));
    }
    py::array_t<float> frames({py::ssize_t{kFrame}, offsets.back()});
    py::array_t<float> descriptors({offsets.back(), py::ssize_t{kDescriptor}});
    py::array_t<std::int64_t> bounds(static_cast<py::ssize_t>(offsets.size()));
    float* fields = frames.mutable_data();
    float* described = descriptors.mutable_data();
    std::copy(offsets.begin(), offsets.end(), bounds.mutable_data());
    {
        const py::gil_scoped_release released;
        for (std::size_t index = 0; index < images.size(); ++index) {
            const Keypoints& image = images[index];
            std::copy(image.descriptors.begin(), image.descriptors.end(), described + offsets[index] * kDescriptor);
            for (std::size_t position = 0; position < image.frames.size(); ++position) {
                const auto field = static_cast<py::ssize_t>(position % kFrame);
                const auto keypoint = offsets[index] + static_cast<py::ssize_t>(position / kFrame);
                fields[field * offsets.back() + keypoint] = image.frames[position];
            }
        }
    }
    return py::make_tuple(frames, descriptors, bounds);
}

py::tuple sift(const TensorView& images, int levels, int first_octave, double peak_threshold, double edge_threshold,
               int threads, int octaves, double magnification, double window_size, double norm_threshold,
               const std::optional<TensorDescription>& frames, bool orient) {
    const Parameters parameters{levels,  first_octave,  peak_threshold, edge_threshold,
                                octaves, magnification, window_size,    norm_threshold};
    std::optional<GivenFrames> given;
    if (frames) {
        given.emplace(GivenFrames{TensorView(*frames), orient});
    }
    std::vector<Keypoints> found;
    {
        const py::gil_scoped_release released;
        found = compute(images, parameters, threads, given);
    }
    return to_arrays(found);
}

void sift_grid(const TensorView& x, const TensorView& y, const TensorView& scale, const TensorView& angle,
               const TensorView& descriptors, const std::vector<std::int64_t>& offsets, const TensorView& output,
               const std::array<std::int64_t, 2>& image_size, std::int64_t cell, std::int64_t seed,
               double descriptor_scale, int threads, const std::optional<TensorDescription>& colors) {
    const GridParameters parameters{image_size[0], image_size[1], cell, static_cast<std::uint64_t>(seed),
                                    static_cast<float>(descriptor_scale)};
    GridInput keypoints{x, y, scale, angle, descriptors, std::nullopt, offsets};
    if (colors) {
        keypoints.colors.emplace(*colors);
    }
    draw_grid(keypoints, parameters, output, threads);
}

}  // namespace

void register_ops(py::module_& module) {
    const Parameters defaults{3, 0, 0.0, 10.0};
    module.def("sift", &sift, py::arg("images"), py::arg("levels"), py::arg("first_octave"), py::arg("peak_threshold"),
               py::arg("edge_threshold"), py::arg("threads"), py::arg("octaves") = defaults.octaves,
               py::arg("magnification") = defaults.magnification, py::arg("window_size") = defaults.window_size,
               py::arg("norm_threshold") = defaults.norm_threshold, py::arg("frames") = py::none(),
               py::arg("orient") = false);
    module.def("sift_grid", &sift_grid, py::arg("x"), py::arg("y"), py::arg("scale"), py::arg("angle"),
               py::arg("descriptors"), py::arg("offsets"), py::arg("output"), py::arg("image_size"), py::arg("cell"),
               py::arg("seed"), py::arg("descriptor_scale"), py::arg("threads"), py::arg("colors") = py::none(),
               py::call_guard<py::gil_scoped_release>());
}

}  // namespace preimage::sift
