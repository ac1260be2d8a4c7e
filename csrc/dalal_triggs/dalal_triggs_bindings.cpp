// Python bindings of Dalal and Triggs's HOG.
#include "dalal_triggs/dalal_triggs.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "tensor_caster.h"

namespace preimage::dalal_triggs {

namespace py = pybind11;

namespace {

using Pair = std::array<std::int64_t, 2>;  // (height, width)

Norm norm_named(const std::string& name) {
    if (name == "L1") {
        return Norm::l1;
    }
    if (name == "L1-sqrt") {
        return Norm::l1_sqrt;
    }
    if (name == "L2") {
        return Norm::l2;
    }
    if (name == "L2-Hys") {
        return Norm::l2_hys;
    }
    throw std::invalid_argument("block_norm must be 'L1', 'L1-sqrt', 'L2' or 'L2-Hys', got '" + name + "'");
}

Parameters parameters_of(const Pair& cell_size, const std::string& color, int orientations, const Pair& block_size,
                         const std::string& block_norm, bool transform_sqrt) {
    return {cell_size[0], cell_size[1],       block_size[0],          block_size[1],
            orientations, color_named(color), norm_named(block_norm), transform_sqrt};
}

void dalal_triggs(const TensorView& images, const TensorView& output, const Pair& cell_size, const std::string& color,
                  int orientations, const Pair& block_size, const std::string& block_norm, bool transform_sqrt,
                  int threads) {
    compute(images, output, parameters_of(cell_size, color, orientations, block_size, block_norm, transform_sqrt),
            threads);
}

void dalal_triggs_backward(const TensorView& output, const TensorView& images, const TensorView& gradients,
                           const Pair& cell_size, const std::string& color, int orientations, const Pair& block_size,
                           const std::string& block_norm, bool transform_sqrt, int threads) {
    compute_backward(output, images, gradients,
                     parameters_of(cell_size, color, orientations, block_size, block_norm, transform_sqrt), threads);
}

#ifdef PREIMAGE_CUDA_KERNELS
void dalal_triggs_cuda(const TensorView& images, const TensorView& scratch, const TensorView& output,
                       const Pair& cell_size, const std::string& color, int orientations, const Pair& block_size,
                       const std::string& block_norm, bool transform_sqrt, std::uintptr_t stream) {
    compute_cuda(images, scratch, output,
                 parameters_of(cell_size, color, orientations, block_size, block_norm, transform_sqrt), stream);
}

void dalal_triggs_backward_cuda(const TensorView& output, const TensorView& images, const TensorView& scratch,
                                const TensorView& gradients, const Pair& cell_size, const std::string& color,
                                int orientations, const Pair& block_size, const std::string& block_norm,
                                bool transform_sqrt, std::uintptr_t stream) {
    compute_backward_cuda(output, images, scratch, gradients,
                          parameters_of(cell_size, color, orientations, block_size, block_norm, transform_sqrt),
                          stream);
}

std::int64_t dalal_triggs_cuda_scratch(const TensorView& images, const Pair& cell_size, const std::string& color,
                                       int orientations, const Pair& block_size, const std::string& block_norm,
                                       bool transform_sqrt, bool backward) {
    const Parameters parameters = parameters_of(cell_size, color, orientations, block_size, block_norm, transform_sqrt);
    return backward ? backward_cuda_scratch(images, parameters) : cuda_scratch(images, parameters);
}
#endif

/// Define a function whose arguments are `first`, the parameters of the features, and `last`.
template <class Function, class... First>
void define(py::module_& module, const char* name, Function* function, const py::arg& last, const First&... first) {
    module.def(name, function, first..., py::arg("cell_size"), py::arg("color"), py::arg("orientations"),
               py::arg("block_size"), py::arg("block_norm"), py::arg("transform_sqrt"), last,
               py::call_guard<py::gil_scoped_release>());
}

}  // namespace

void register_ops(py::module_& module) {
    using py::arg;
    define(module, "hog_dalal_triggs", &dalal_triggs, arg("threads"), arg("images"), arg("output"));
    define(module, "hog_dalal_triggs_backward", &dalal_triggs_backward, arg("threads"), arg("output"), arg("images"),
           arg("gradients"));
#ifdef PREIMAGE_CUDA_KERNELS
    define(module, "hog_dalal_triggs_cuda", &dalal_triggs_cuda, arg("stream"), arg("images"), arg("scratch"),
           arg("output"));
    define(module, "hog_dalal_triggs_backward_cuda", &dalal_triggs_backward_cuda, arg("stream"), arg("output"),
           arg("images"), arg("scratch"), arg("gradients"));
    define(module, "hog_dalal_triggs_cuda_scratch", &dalal_triggs_cuda_scratch, arg("backward"), arg("images"));
#endif
}

}  // namespace preimage::dalal_triggs
