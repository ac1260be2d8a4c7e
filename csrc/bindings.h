// The parts of the native module; each registers its own functions.
#pragma once

#include <pybind11/pybind11.h>

namespace preimage {
void register_hardware(pybind11::module_& module);
}
namespace preimage::hog {
void register_ops(pybind11::module_& module);
}
namespace preimage::dalal_triggs {
void register_ops(pybind11::module_& module);
}
namespace preimage::lbp {
void register_ops(pybind11::module_& module);
}
namespace preimage::dense_sift {
void register_ops(pybind11::module_& module);
}
namespace preimage::sift {
void register_ops(pybind11::module_& module);
}
