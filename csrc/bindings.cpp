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

void hog(const preimage::TensorDescription& images, const preimage::TensorDescription& output, std::int64_t cell_size,
         const std::string& colour, const std::string& instruction_set, int threads) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView output_view(output);
    const preimage::hog::Parameters parameters{cell_size, colour_from(colour)};
    const preimage::InstructionSet chosen = preimage::choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    preimage::hog::compute(image_view, output_view, parameters, chosen, threads);
}

void lbp(const preimage::TensorDescription& images, const preimage::TensorDescription& output, std::int64_t cell_size,
         const std::string& instruction_set, int threads) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView output_view(output);
    const preimage::InstructionSet chosen = preimage::choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    preimage::lbp::compute(image_view, output_view, cell_size, chosen, threads);
}

void lbp_codes(const preimage::TensorDescription& images, const preimage::TensorDescription& output,
               const std::string& instruction_set, int threads) {
    const preimage::TensorView image_view(images);
    const preimage::TensorView output_view(output);
    const preimage::InstructionSet chosen = preimage::choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    preimage::lbp::compute_codes(image_view, output_view, chosen, threads);
}

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
    module.def("lbp", &lbp, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("instruction_set"),
               py::arg("threads"));
    module.def("lbp_codes", &lbp_codes, py::arg("images"), py::arg("output"), py::arg("instruction_set"),
               py::arg("threads"));
    module.def("instruction_sets", &preimage::instruction_sets);
    module.def("cuda_devices", &cuda_devices);
}
