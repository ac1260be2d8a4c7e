// What the native module offers of LBP.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "bindings.h"
#include "common/cpu_features.h"
#include "lbp/lbp.h"
#include "tensor_view.h"

namespace preimage::lbp {

namespace py = pybind11;
using Description = TensorDescription;

namespace {

void lbp(const Description& images, const Description& output, std::int64_t cell_size,
         const std::string& instruction_set, int threads) {
    const TensorView image_view(images);
    const TensorView output_view(output);
    const InstructionSet chosen = choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    compute(image_view, output_view, cell_size, chosen, threads);
}

void lbp_codes(const Description& images, const Description& output, const std::string& instruction_set, int threads) {
    const TensorView image_view(images);
    const TensorView output_view(output);
    const InstructionSet chosen = choose_instruction_set(instruction_set);
    const py::gil_scoped_release released;
    compute_codes(image_view, output_view, chosen, threads);
}

#ifdef PREIMAGE_CUDA_KERNELS
void lbp_cuda(const Description& images, const Description& output, std::int64_t cell_size, std::uintptr_t stream) {
    const TensorView image_view(images);
    const TensorView output_view(output);
    const py::gil_scoped_release released;
    compute_cuda(image_view, output_view, cell_size, stream);
}

void lbp_codes_cuda(const Description& images, const Description& output, std::uintptr_t stream) {
    const TensorView image_view(images);
    const TensorView output_view(output);
    const py::gil_scoped_release released;
    compute_codes_cuda(image_view, output_view, stream);
}
#endif

}  // namespace

void register_ops(py::module_& module) {
    module.def("lbp", &lbp, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("instruction_set"),
               py::arg("threads"));
    module.def("lbp_codes", &lbp_codes, py::arg("images"), py::arg("output"), py::arg("instruction_set"),
               py::arg("threads"));
#ifdef PREIMAGE_CUDA_KERNELS
    module.def("lbp_cuda", &lbp_cuda, py::arg("images"), py::arg("output"), py::arg("cell_size"), py::arg("stream"));
    module.def("lbp_codes_cuda", &lbp_codes_cuda, py::arg("images"), py::arg("output"), py::arg("stream"));
#endif
}

}  // namespace preimage::lbp
