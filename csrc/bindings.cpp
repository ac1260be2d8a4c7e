// What the native module offers: an index, no arithmetic.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "common/cpu_features.h"
#include "common/cuda_device.h"
#include "hog/hog.h"
#include "lbp/lbp.h"
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

using Description = preimage::TensorDescription;

preimage::hog::Parameters hog_parameters(std::int64_t cell_size, const std::string& colour) {
    return {cell_size, colour_from(colour)};
}

void hog(const Description& images, const Description& output, std::int64_t cell_size, const std::string& colour,
         const std::string& instruction_set, int threads) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView output_view(output);
    const preimage::hog::Parameters parameters = hog_parameters(cell_size, colour);
    const preimage::InstructionSet chosen = preimage::choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    preimage::hog::compute(image_view, output_view, parameters, chosen, threads);
}

void hog_backward(const Description& output, const Description& images, const Description& gradients,
                  std::int64_t cell_size, const std::string& colour, const std::string& instruction_set, int threads) {
    const preimage::TensorView output_view(output);
    const preimage::TensorView image_view(images);
    const preimage::TensorView gradient_view(gradients);
    const preimage::hog::Parameters parameters = hog_parameters(cell_size, colour);
    const preimage::InstructionSet chosen = preimage::choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    preimage::hog::compute_backward(output_view, image_view, gradient_view, parameters, chosen, threads);
}

#ifdef PREIMAGE_CUDA_KERNELS
std::int64_t hog_cuda_scratch(const Description& images, std::int64_t cell_size, const std::string& colour,
                              bool backward) {
    return preimage::hog::cuda_scratch(preimage::TensorView(images), hog_parameters(cell_size, colour), backward);
}

void hog_cuda(const Description& images, const Description& scratch, const Description& output, std::int64_t cell_size,
              const std::string& colour, std::uintptr_t stream) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView scratch_view(scratch);
    const preimage::TensorView output_view(output);
    const preimage::hog::Parameters parameters = hog_parameters(cell_size, colour);
    const py::gil_scoped_release released;
    preimage::hog::compute_cuda(image_view, scratch_view, output_view, parameters, stream);
}

void hog_backward_cuda(const Description& output, const Description& images, const Description& scratch,
                       const Description& gradients, std::int64_t cell_size, const std::string& colour,
                       std::uintptr_t stream) {
    const preimage::TensorView output_view(output);
    const preimage::TensorView image_view(images);
    const preimage::TensorView scratch_view(scratch);
    const preimage::TensorView gradient_view(gradients);
    const preimage::hog::Parameters parameters = hog_parameters(cell_size, colour);
    const py::gil_scoped_release released;
    preimage::hog::compute_backward_cuda(output_view, image_view, scratch_view, gradient_view, parameters, stream);
}
#endif

void lbp(const Description& images, const Description& output, std::int64_t cell_size,
         const std::string& instruction_set, int threads) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView output_view(output);
    const preimage::InstructionSet chosen = preimage::choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    preimage::lbp::compute(image_view, output_view, cell_size, chosen, threads);
}

void lbp_codes(const Description& images, const Description& output, const std::string& instruction_set, int threads) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView output_view(output);
    const preimage::InstructionSet chosen = preimage::choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    preimage::lbp::compute_codes(image_view, output_view, chosen, threads);
}

#ifdef PREIMAGE_CUDA_KERNELS
void lbp_cuda(const Description& images, const Description& output, std::int64_t cell_size, std::uintptr_t stream) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView output_view(output);
    const py::gil_scoped_release released;
    preimage::lbp::compute_cuda(image_view, output_view, cell_size, stream);
}

void lbp_codes_cuda(const Description& images, const Description& output, std::uintptr_t stream) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView output_view(output);
    const py::gil_scoped_release released;
    preimage::lbp::compute_codes_cuda(image_view, output_view, stream);
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
    module.def("lbp", &lbp, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("instruction_set"),
               py::arg("threads"));
    module.def("lbp_codes", &lbp_codes, py::arg("images"), py::arg("output"), py::arg("instruction_set"),
               py::arg("threads"));
#ifdef PREIMAGE_CUDA_KERNELS
    module.def("lbp_cuda", &lbp_cuda, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("stream"));
    module.def("lbp_codes_cuda", &lbp_codes_cuda, py::arg("images"), py::arg("output"), py::arg("stream"));
#endif
    module.def("instruction_sets", &preimage::instruction_sets);
    module.def("cuda_devices", &cuda_devices);
}
