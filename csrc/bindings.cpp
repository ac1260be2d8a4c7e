// The native module: registers the parts listed in bindings.h.
#include "bindings.h"

PYBIND11_MODULE(_native, module) {
    module.doc() = "Native kernels of preimage, called by preimage.ops, which checks arguments and allocates outputs.";
    preimage::register_hardware(module);
    preimage::hog::register_ops(module);
    preimage::dalal_triggs::register_ops(module);
    preimage::lbp::register_ops(module);
    preimage::dense_sift::register_ops(module);
    preimage::sift::register_ops(module);
}
