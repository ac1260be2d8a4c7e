// What the native module offers of the up-convolution.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "tensor_view.h"
#include "upconv/turn.h"

namespace preimage::upconv {

namespace py = pybind11;

namespace {

void turn_weight(const TensorDescription& weight, const TensorDescription& output) {
    const TensorView weight_view(weight);
    const TensorView output_view(output);
    const py::gil_scoped_release released;
    turn(weight_view, output_view);
}

}  // namespace

void register_ops(py::module_& module) {
    module.def("turn_weight", &turn_weight, py::arg("weight"), py::arg("output"));
}

}  // namespace preimage::upconv
