// Python bindings of dense SIFT.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "dense_sift/dense_sift.h"
#include "tensor_caster.h"

namespace preimage::dense_sift {

namespace py = pybind11;

namespace {

using Bounds = std::array<std::int64_t, 4>;  // top, left, bottom, right

Window window_named(const std::string& name) {
    if (name == "gaussian") {
        return Window::gaussian;
    }
    if (name == "flat") {
        return Window::flat;
    }
    throw std::invalid_argument("window must be 'gaussian' or 'flat', got '" + name + "'");
}

Parameters make_parameters(std::int64_t step, std::int64_t bin_size, const std::string& window, double window_size,
                           const Bounds& bounds) {
    const auto [top, left, bottom, right] = bounds;
    return {step, bin_size, window_named(window), static_cast<float>(window_size), top, left, bottom, right};
}

void dense_sift(const TensorView& images, const TensorView& features, const TensorView& norms, std::int64_t step,
                std::int64_t bin_size, const std::string& window, double window_size, const Bounds& bounds,
                int threads) {
    compute(images, features, norms, make_parameters(step, bin_size, window, window_size, bounds), threads);
}

void dense_sift_backward(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                         const TensorView& grad_images, std::int64_t step, std::int64_t bin_size,
                         const std::string& window, double window_size, const Bounds& bounds, int threads) {
    compute_backward(grad_features, grad_norms, images, grad_images,
                     make_parameters(step, bin_size, window, window_size, bounds), threads);
}

#ifdef PREIMAGE_CUDA_KERNELS
std::int64_t dense_sift_cuda_scratch(const TensorView& images, std::int64_t step, std::int64_t bin_size,
                                     const std::string& window, double window_size, const Bounds& bounds,
                                     bool backward) {
    return cuda_scratch(images, make_parameters(step, bin_size, window, window_size, bounds), backward);
}

void dense_sift_cuda(const TensorView& images, const TensorView& scratch, const TensorView& features,
                     const TensorView& norms, std::int64_t step, std::int64_t bin_size, const std::string& window,
                     double window_size, const Bounds& bounds, std::uintptr_t stream) {
    compute_cuda(images, scratch, features, norms, make_parameters(step, bin_size, window, window_size, bounds),
                 stream);
}

void dense_sift_backward_cuda(const TensorView& grad_features, const TensorView& grad_norms, const TensorView& images,
                              const TensorView& scratch, const TensorView& grad_images, std::int64_t step,
                              std::int64_t bin_size, const std::string& window, double window_size,
                              const Bounds& bounds, std::uintptr_t stream) {
    compute_backward_cuda(grad_features, grad_norms, images, scratch, grad_images,
                          make_parameters(step, bin_size, window, window_size, bounds), stream);
}
#endif

}  // namespace

void register_ops(py::module_& module) {
    using Released = py::call_guard<py::gil_scoped_release>;
    module.def("dense_sift", &dense_sift, py::arg("images"), py::arg("features"), py::arg("norms"), py::arg("step"),
               py::arg("bin_size"), py::arg("window"), py::arg("window_size"), py::arg("bounds"), py::arg("threads"),
               Released());
    module.def("dense_sift_backward", &dense_sift_backward, py::arg("grad_features"), py::arg("grad_norms"),
               py::arg("images"), py::arg("grad_images"), py::arg("step"), py::arg("bin_size"), py::arg("window"),
               py::arg("window_size"), py::arg("bounds"), py::arg("threads"), Released());
#ifdef PREIMAGE_CUDA_KERNELS
    module.def("dense_sift_cuda_scratch", &dense_sift_cuda_scratch, py::arg("images"), py::arg("step"),
               py::arg("bin_size"), py::arg("window"), py::arg("window_size"), py::arg("bounds"), py::arg("backward"));
    module.def("dense_sift_cuda", &dense_sift_cuda, py::arg("images"), py::arg("scratch"), py::arg("features"),
               py::arg("norms"), py::arg("step"), py::arg("bin_size"), py::arg("window"), py::arg("window_size"),
               py::arg("bounds"), py::arg("stream"), Released());
    module.def("dense_sift_backward_cuda", &dense_sift_backward_cuda, py::arg("grad_features"), py::arg("grad_norms"),
               py::arg("images"), py::arg("scratch"), py::arg("grad_images"), py::arg("step"), py::arg("bin_size"),
               py::arg("window"), py::arg("window_size"), py::arg("bounds"), py::arg("stream"), Released());
#endif
}

}  // namespace preimage::dense_sift
