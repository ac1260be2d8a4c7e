// What the native module offers of HOG.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "bindings.h"
#include "common/cpu_features.h"
#include "hog/hog.h"
#include "tensor_view.h"

namespace preimage::hog {

namespace py = pybind11;
using Description = TensorDescription;

namespace {

Colour colour_from(const std::string& name) {
    if (name == "luma") {
        return Colour::luma;
    }
    if (name == "strongest") {
        return Colour::strongest;
    }
    throw py::value_error("colour must be 'luma' or 'strongest', got '" + name + "'");
}

Parameters hog_parameters(std::int64_t cell_size, const std::string& colour) {
    return {cell_size, colour_from(colour)};
}

void hog(const Description& images, const Description& output, std::int64_t cell_size, const std::string& colour,
         const std::string& instruction_set, int threads) {
    const TensorView image_view(images);
    const TensorView output_view(output);
    const Parameters parameters = hog_parameters(cell_size, colour);
    const InstructionSet chosen = choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    compute(image_view, output_view, parameters, chosen, threads);
}

void hog_backward(const Description& output, const Description& images, const Description& gradients,
                  std::int64_t cell_size, const std::string& colour, const std::string& instruction_set, int threads) {
    const TensorView output_view(output);
    const TensorView image_view(images);
    const TensorView gradient_view(gradients);
    const Parameters parameters = hog_parameters(cell_size, colour);
    const InstructionSet chosen = choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    compute_backward(output_view, image_view, gradient_view, parameters, chosen, threads);
}

#ifdef PREIMAGE_CUDA_KERNELS
std::int64_t hog_cuda_scratch(const Description& images, std::int64_t cell_size, const std::string& colour,
                              bool backward) {
    return cuda_scratch(TensorView(images), hog_parameters(cell_size, colour), backward);
}

void hog_cuda(const Description& images, const Description& scratch, const Description& output, std::int64_t cell_size,
              const std::string& colour, std::uintptr_t stream) {
    const TensorView image_view(images);
    const TensorView scratch_view(scratch);
    const TensorView output_view(output);
    const Parameters parameters = hog_parameters(cell_size, colour);
    const py::gil_scoped_release released;
    compute_cuda(image_view, scratch_view, output_view, parameters, stream);
}

void hog_backward_cuda(const Description& output, const Description& images, const Description& scratch,
                       const Description& gradients, std::int64_t cell_size, const std::string& colour,
                       std::uintptr_t stream) {
    const TensorView output_view(output);
    const TensorView image_view(images);
    const TensorView scratch_view(scratch);
    const TensorView gradient_view(gradients);
    const Parameters parameters = hog_parameters(cell_size, colour);
    const py::gil_scoped_release released;
    compute_backward_cuda(output_view, image_view, scratch_view, gradient_view, parameters, stream);
}
#endif

}  // namespace

void register_ops(py::module_& module) {
    module.def("hog", &hog, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("colour"),
               py::arg("instruction_set"), py::arg("threads"));
    module.def("hog_backward", &hog_backward, py::arg("output"), py::arg("images"), py::arg("gradients"),
               py::arg("cell_size"), py::arg("colour"), py::arg("instruction_set"), py::arg("threads"));
#ifdef PREIMAGE_CUDA_KERNELS
    module.def("hog_cuda_scratch", &hog_cuda_scratch, py::arg("images"), py::arg("cell_size"), py::arg("colour"),
               py::arg("backward"));
    module.def("hog_cuda", &hog_cuda, py::arg("images"), py::arg("scratch"), py::arg("output"), py::arg("cell_size"),
               py::arg("colour"), py::arg("stream"));
    module.def("hog_backward_cuda", &hog_backward_cuda, py::arg("output"), py::arg("images"), py::arg("scratch"),
               py::arg("gradients"), py::arg("cell_size"), py::arg("colour"), py::arg("stream"));
#endif
}

}  // namespace preimage::hog
