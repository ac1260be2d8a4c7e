// Python bindings of HOG.
#include "hog/hog.h"

#include <pybind11/pybind11.h>

#include <string>

#include "bindings.h"
#include "tensor_caster.h"

namespace preimage::hog {

namespace py = pybind11;

namespace {

void hog(const TensorView& images, const TensorView& output, std::int64_t cell_size, const std::string& color,
         int threads) {
    compute(images, output, {cell_size, color_named(color)}, threads);
}

void hog_histograms(const TensorView& images, const TensorView& output, std::int64_t cell_size,
                    const std::string& color, int threads) {
    compute_histograms(images, output, {cell_size, color_named(color)}, threads);
}

void hog_backward(const TensorView& output, const TensorView& images, const TensorView& gradients,
                  std::int64_t cell_size, const std::string& color, int threads) {
    compute_backward(output, images, gradients, {cell_size, color_named(color)}, threads);
}

#ifdef PREIMAGE_CUDA_KERNELS
void hog_cuda(const TensorView& images, const TensorView& output, std::int64_t cell_size, const std::string& color,
              std::uintptr_t stream) {
    compute_cuda(images, output, {cell_size, color_named(color)}, stream);
}

std::int64_t hog_backward_cuda_scratch(const TensorView& images, std::int64_t cell_size, const std::string& color) {
    return backward_cuda_scratch(images, {cell_size, color_named(color)});
}

void hog_backward_cuda(const TensorView& output, const TensorView& images, const TensorView& scratch,
                       const TensorView& gradients, std::int64_t cell_size, const std::string& color,
                       std::uintptr_t stream) {
    compute_backward_cuda(output, images, scratch, gradients, {cell_size, color_named(color)}, stream);
}
#endif

}  // namespace

void register_ops(py::module_& module) {
    using Released = py::call_guard<py::gil_scoped_release>;
    module.def("hog", &hog, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("color"),
               py::arg("threads"), Released());
    module.def("hog_histograms", &hog_histograms, py::arg("images"), py::arg("output"), py::arg("cell_size"),
               py::arg("color"), py::arg("threads"), Released());
    module.def("hog_backward", &hog_backward, py::arg("output"), py::arg("images"), py::arg("gradients"),
               py::arg("cell_size"), py::arg("color"), py::arg("threads"), Released());
#ifdef PREIMAGE_CUDA_KERNELS
    module.def("hog_cuda", &hog_cuda, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("color"),
               py::arg("stream"), Released());
    module.def("hog_backward_cuda_scratch", &hog_backward_cuda_scratch, py::arg("images"), py::arg("cell_size"),
               py::arg("color"));
    module.def("hog_backward_cuda", &hog_backward_cuda, py::arg("output"), py::arg("images"), py::arg("scratch"),
               py::arg("gradients"), py::arg("cell_size"), py::arg("color"), py::arg("stream"), Released());
#endif
}

}  // namespace preimage::hog
