// What the native module offers of dense SIFT.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "bindings.h"
#include "common/cpu_features.h"
#include "dense_sift/dense_sift.h"
#include "dense_sift/dense_sift_backward.h"
#ifdef PREIMAGE_CUDA_KERNELS
#include "dense_sift/dense_sift_cuda.h"
#endif
#include "tensor_view.h"

namespace preimage::dense_sift {

namespace py = pybind11;
using Description = TensorDescription;

namespace {

Window window_from(const std::string& name) {
    if (name == "gaussian") {
        return Window::gaussian;
    }
    if (name == "flat") {
        return Window::flat;
    }
    throw py::value_error("window must be 'gaussian' or 'flat', got '" + name + "'");
}

Parameters sift_parameters(std::int64_t step, std::int64_t bin_size, const std::string& window, double window_size,
                           const std::array<std::int64_t, 4>& bounds) {
    const auto [top, left, bottom, right] = bounds;
    return {step, bin_size, window_from(window), static_cast<float>(window_size), top, left, bottom, right};
}

void dense_sift(const Description& images, const Description& features, const Description& norms, std::int64_t step,
                std::int64_t bin_size, const std::string& window, double window_size,
                const std::array<std::int64_t, 4>& bounds, const std::string& instruction_set, int threads) {
    const TensorView image_view(images);
    const TensorView feature_view(features);
    const TensorView norm_view(norms);
    const Parameters parameters = sift_parameters(step, bin_size, window, window_size, bounds);
    const InstructionSet chosen = choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    compute(image_view, feature_view, norm_view, parameters, chosen, threads);
}

void dense_sift_backward(const Description& grad_features, const Description& grad_norms, const Description& images,
                         const Description& grad_images, std::int64_t step, std::int64_t bin_size,
                         const std::string& window, double window_size, const std::array<std::int64_t, 4>& bounds,
                         int threads) {
    const TensorView features_view(grad_features);
    const TensorView norms_view(grad_norms);
    const TensorView image_view(images);
    const TensorView gradient_view(grad_images);
    const Parameters parameters = sift_parameters(step, bin_size, window, window_size, bounds);
    const py::gil_scoped_release released;
    compute_backward(features_view, norms_view, image_view, gradient_view, parameters, threads);
}

#ifdef PREIMAGE_CUDA_KERNELS
std::int64_t dense_sift_cuda_scratch(const Description& images, std::int64_t step, std::int64_t bin_size,
                                     const std::string& window, double window_size,
                                     const std::array<std::int64_t, 4>& bounds, bool backward) {
    return cuda_scratch(TensorView(images), sift_parameters(step, bin_size, window, window_size, bounds), backward);
}

void dense_sift_cuda(const Description& images, const Description& scratch, const Description& features,
                     const Description& norms, std::int64_t step, std::int64_t bin_size, const std::string& window,
                     double window_size, const std::array<std::int64_t, 4>& bounds, std::uintptr_t stream) {
    const TensorView image_view(images);
    const TensorView scratch_view(scratch);
    const TensorView features_view(features);
    const TensorView norms_view(norms);
    const Parameters parameters = sift_parameters(step, bin_size, window, window_size, bounds);
    const py::gil_scoped_release released;
    compute_cuda(image_view, scratch_view, features_view, norms_view, parameters, stream);
}

void dense_sift_backward_cuda(const Description& grad_features, const Description& grad_norms,
                              const Description& images, const Description& scratch, const Description& grad_images,
                              std::int64_t step, std::int64_t bin_size, const std::string& window, double window_size,
                              const std::array<std::int64_t, 4>& bounds, std::uintptr_t stream) {
    const TensorView features_view(grad_features);
    const TensorView norms_view(grad_norms);
    const TensorView image_view(images);
    const TensorView scratch_view(scratch);
    const TensorView gradient_view(grad_images);
    const Parameters parameters = sift_parameters(step, bin_size, window, window_size, bounds);
    const py::gil_scoped_release released;
    compute_backward_cuda(features_view, norms_view, image_view, scratch_view, gradient_view, parameters, stream);
}
#endif

}  // namespace

void register_ops(py::module_& module) {
    module.def("dense_sift", &dense_sift, py::arg("images"), py::arg("features"), py::arg("norms"), py::arg("step"),
               py::arg("bin_size"), py::arg("window"), py::arg("window_size"), py::arg("bounds"),
               py::arg("instruction_set"), py::arg("threads"));
    module.def("dense_sift_backward", &dense_sift_backward, py::arg("grad_features"), py::arg("grad_norms"),
               py::arg("images"), py::arg("grad_images"), py::arg("step"), py::arg("bin_size"), py::arg("window"),
               py::arg("window_size"), py::arg("bounds"), py::arg("threads"));
#ifdef PREIMAGE_CUDA_KERNELS
    module.def("dense_sift_cuda_scratch", &dense_sift_cuda_scratch, py::arg("images"), py::arg("step"),
               py::arg("bin_size"), py::arg("window"), py::arg("window_size"), py::arg("bounds"), py::arg("backward"));
    module.def("dense_sift_cuda", &dense_sift_cuda, py::arg("images"), py::arg("scratch"), py::arg("features"),
               py::arg("norms"), py::arg("step"), py::arg("bin_size"), py::arg("window"), py::arg("window_size"),
               py::arg("bounds"), py::arg("stream"));
    module.def("dense_sift_backward_cuda", &dense_sift_backward_cuda, py::arg("grad_features"), py::arg("grad_norms"),
               py::arg("images"), py::arg("scratch"), py::arg("grad_images"), py::arg("step"), py::arg("bin_size"),
               py::arg("window"), py::arg("window_size"), py::arg("bounds"), py::arg("stream"));
#endif
}

}  // namespace preimage::dense_sift
