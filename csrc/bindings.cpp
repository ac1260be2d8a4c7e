// What the native module offers: an index, no arithmetic.
#include "bindings.h"

#include <pybind11/stl.h>

#include "common/cpu_features.h"
#include "common/cuda_device.h"

namespace py = pybind11;

namespace {

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
    module.def("instruction_sets", &preimage::instruction_sets);
    module.def("cuda_devices", &cuda_devices);
    preimage::hog::register_ops(module);
    preimage::lbp::register_ops(module);
    preimage::dense_sift::register_ops(module);
    preimage::sift::register_ops(module);
}
