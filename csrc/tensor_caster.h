// Lets pybind11 pass a TensorDescription from Python as a checked TensorView, so that kernels can be bound directly.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "tensor_view.h"

namespace pybind11::detail {

template <>
struct type_caster<preimage::TensorView> {
    using Description = make_caster<preimage::TensorDescription>;

    static constexpr auto name = Description::name;
    template <class>
    using cast_op_type = const preimage::TensorView&;

    /// An object of another type makes pybind11 raise TypeError; a description that does not pass the checks,
    /// ValueError.
    bool load(handle source, bool convert) {
        Description description;
        if (!description.load(source, convert)) {
            return false;
        }
        view_.emplace(cast_op<preimage::TensorDescription>(std::move(description)));
        return true;
    }

    explicit operator const preimage::TensorView&() { return *view_; }

private:
    std::optional<preimage::TensorView> view_;
};

}  // namespace pybind11::detail
