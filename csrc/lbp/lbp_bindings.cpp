// Python bindings of LBP.
#include "lbp/lbp.h"

#include <pybind11/pybind11.h>

#include "bindings.h"
#include "tensor_caster.h"

namespace preimage::lbp {

namespace py = pybind11;

void register_ops(py::module_& module) {
    using Released = py::call_guard<py::gil_scoped_release>;
    module.def("lbp", &compute, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("threads"),
               Released());
    module.def("lbp_codes", &compute_codes, py::arg("images"), py::arg("output"), py::arg("threads"), Released());
#ifdef PREIMAGE_CUDA_KERNELS
    module.def("lbp_cuda", &compute_cuda, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("stream"),
               Released());
    module.def("lbp_codes_cuda", &compute_codes_cuda, py::arg("images"), py::arg("output"), py::arg("stream"),
               Released());
#endif
}

}  // namespace preimage::lbp
