// Bindings of what the kernels run on: compiler, instruction sets, CUDA devices.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "common/cuda_device.h"
#include "common/dispatch.h"

namespace preimage {

namespace py = pybind11;

namespace {

py::dict cuda_devices() {
    CudaReport report;
    {
        const py::gil_scoped_release released;
        report = cuda_report();
    }
    py::list devices;
    for (const CudaDevice& device : report.devices) {
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

void register_hardware(py::module_& module) {
    module.attr("compiler") = PREIMAGE_COMPILER;
    module.def("instruction_sets", &instruction_sets);
    module.def("instruction_set", [] { return name_of(instruction_set()); });
    module.def("set_instruction_set", &set_instruction_set, py::arg("name"));
    module.def("cuda_devices", &cuda_devices);
}

}  // namespace preimage
