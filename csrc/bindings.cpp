// What the native module offers: an index, no arithmetic.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "common/cpu_features.h"
#include "common/cuda_device.h"
#include "hog/hog.h"
#include "sift/sift.h"
#include "sift/sift_backward.h"
#ifdef PREIMAGE_CUDA_KERNELS
#include "sift/sift_cuda.h"
#endif
#include "tensor_view.h"

namespace py = pybind11;

namespace {

preimage::hog::Colour colour_from(const std::string& name) {
    if (name == "luma") {
        return preimage::hog::Colour::luma;
    }
    if (name == "strongest") {
        return preimage::hog::Colour::strongest;
    }
    throw py::value_error("colour must be 'luma' or 'strongest', got '" + name + "'");
}

void hog(const preimage::TensorDescription& images, const preimage::TensorDescription& output, std::int64_t cell_size,
         const std::string& colour, const std::string& instruction_set, int threads) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView output_view(output);
    const preimage::hog::Parameters parameters{cell_size, colour_from(colour)};
    const preimage::InstructionSet chosen = preimage::choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    preimage::hog::compute(image_view, output_view, parameters, chosen, threads);
}

preimage::sift::Window window_from(const std::string& name) {
    if (name == "gaussian") {
        return preimage::sift::Window::gaussian;
    }
    if (name == "flat") {
        return preimage::sift::Window::flat;
    }
    throw py::value_error("window must be 'gaussian' or 'flat', got '" + name + "'");
}

preimage::sift::Parameters sift_parameters(std::int64_t step, std::int64_t bin_size, const std::string& window,
                                           double window_size, const std::array<std::int64_t, 4>& bounds) {
    const auto [top, left, bottom, right] = bounds;
    return {step, bin_size, window_from(window), static_cast<float>(window_size), top, left, bottom, right};
}

void dense_sift(const preimage::TensorDescription& images, const preimage::TensorDescription& features,
                const preimage::TensorDescription& norms, std::int64_t step, std::int64_t bin_size,
                const std::string& window, double window_size, const std::array<std::int64_t, 4>& bounds,
                const std::string& instruction_set, int threads) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView feature_view(features);
    const preimage::TensorView norm_view(norms);
    const preimage::sift::Parameters parameters = sift_parameters(step, bin_size, window, window_size, bounds);
    const preimage::InstructionSet chosen = preimage::choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    preimage::sift::compute(image_view, feature_view, norm_view, parameters, chosen, threads);
}

void dense_sift_backward(const preimage::TensorDescription& grad_features,
                         const preimage::TensorDescription& grad_norms, const preimage::TensorDescription& images,
                         const preimage::TensorDescription& grad_images, std::int64_t step, std::int64_t bin_size,
                         const std::string& window, double window_size, const std::array<std::int64_t, 4>& bounds,
                         int threads) {
    const preimage::TensorView features_view(grad_features);
    const preimage::TensorView norms_view(grad_norms);
    const preimage::TensorView image_view(images);
    const preimage::TensorView gradient_view(grad_images);
    const preimage::sift::Parameters parameters = sift_parameters(step, bin_size, window, window_size, bounds);
    const py::gil_scoped_release released;
    preimage::sift::compute_backward(features_view, norms_view, image_view, gradient_view, parameters, threads);
}

#ifdef PREIMAGE_CUDA_KERNELS
std::int64_t dense_sift_cuda_scratch(const preimage::TensorDescription& images, std::int64_t step,
                                     std::int64_t bin_size, const std::string& window, double window_size,
                                     const std::array<std::int64_t, 4>& bounds, bool backward) {
    return preimage::sift::cuda_scratch(preimage::TensorView(images),
                                        sift_parameters(step, bin_size, window, window_size, bounds), backward);
}

void dense_sift_cuda(const preimage::TensorDescription& images, const preimage::TensorDescription& scratch,
                     const preimage::TensorDescription& features, const preimage::TensorDescription& norms,
                     std::int64_t step, std::int64_t bin_size, const std::string& window, double window_size,
                     const std::array<std::int64_t, 4>& bounds, std::uintptr_t stream) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView scratch_view(scratch);
    const preimage::TensorView features_view(features);
    const preimage::TensorView norms_view(norms);
    const preimage::sift::Parameters parameters = sift_parameters(step, bin_size, window, window_size, bounds);
    const py::gil_scoped_release released;
    preimage::sift::compute_cuda(image_view, scratch_view, features_view, norms_view, parameters, stream);
}

void dense_sift_backward_cuda(const preimage::TensorDescription& grad_features,
                              const preimage::TensorDescription& grad_norms, const preimage::TensorDescription& images,
                              const preimage::TensorDescription& scratch,
                              const preimage::TensorDescription& grad_images, std::int64_t step, std::int64_t bin_size,
                              const std::string& window, double window_size, const std::array<std::int64_t, 4>& bounds,
                              std::uintptr_t stream) {
    const preimage::TensorView features_view(grad_features);
    const preimage::TensorView norms_view(grad_norms);
    const preimage::TensorView image_view(images);
    const preimage::TensorView scratch_view(scratch);
    const preimage::TensorView gradient_view(grad_images);
    const preimage::sift::Parameters parameters = sift_parameters(step, bin_size, window, window_size, bounds);
    const py::gil_scoped_release released;
    preimage::sift::compute_backward_cuda(features_view, norms_view, image_view, scratch_view, gradient_view,
                                          parameters, stream);
}
#endif

py::dict cuda_devices() {
    preimage::CudaReport report;
    {
        const py::gil_scoped_release released;  // a driver's first answer can take seconds
        report = preimage::cuda_report();
    }
    py::list devices;
    for (const preimage::CudaDevice& device : report.devices) {
        devices.append(py::make_tuple(device.name, py::make_tuple(device.major, device.minor), device.memory));
    }
    py::dict answer;
    answer["built"] = report.built;
    answer["driver_version"] = report.driver_version;
    answer["runtime_version"] = report.runtime_version;
    answer["devices"] = devices;
    answer["reason"] = report.reason;
    return answer;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "Native kernels of preimage. Addresses come in, numbers go out; preimage.ops checks and calls them.";
    module.attr("compiler") = PREIMAGE_COMPILER;
    module.def("hog", &hog, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("colour"),
               py::arg("instruction_set"), py::arg("threads"));
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
    module.def("instruction_sets", &preimage::instruction_sets);
    module.def("cuda_devices", &cuda_devices);
}
