#include "linear/linear.h"

#include <array>

#include "module.h"

namespace py = pybind11;
using namespace xmkern::linear;

namespace {

// Address, stride, whether it is transposed.
using MatrixNumbers = std::array<int64_t, 3>;

Matrix matrix(const MatrixNumbers& n) { return {at<void>(n[0]), n[1], n[2] != 0}; }

}  // namespace

void bind_linear(py::module_& module) {
  py::module_ linear = module.def_submodule("linear");

  linear.def("multiply", [](int dtype, int64_t rows, int64_t columns, int64_t depth, const MatrixNumbers& left,
                            const MatrixNumbers& right, int64_t bias, int64_t out, int threads) {
    py::gil_scoped_release release;
    multiply({static_cast<xmkern::Dtype>(dtype), rows, columns, depth, matrix(left), matrix(right), at<void>(bias),
              at<void>(out)},
             threads);
  });
}
