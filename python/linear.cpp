#include "linear/linear.h"

#include <array>
#include <vector>

#include "module.h"
#include "tensor.h"

namespace py = pybind11;
namespace xmkern::linear {
namespace {

// Address, stride, whether it is transposed.
using MatrixNumbers = std::array<int64_t, 3>;

Matrix matrix(const MatrixNumbers& n) { return {at<void>(n[0]), n[1], n[2] != 0}; }

// x, weight and bias, which has no address if there is none.
struct Operands {
  Strided x, weight, bias{};
};

// Whether these are ordinary tensors (tensor.h) of one dtype that go together.
bool read(py::handle x, py::handle weight, py::handle bias, Operands& out) {
  auto& [a, w, b] = out;
  if (!read(x, a) || !read(weight, w) || !a.computes() || w.element != a.element) return false;
  if (a.axes == 0 || w.axes != 2 || a.shape[a.axes - 1] != w.shape[1]) return false;
  if (bias.is_none()) return true;
  return read(bias, b) && b.element == a.element && b.axes == 1 && b.shape[0] == w.shape[0];
}

bool fit(py::handle x, py::handle weight, py::handle bias) {
  Operands given;
  return read(x, weight, bias, given);
}

// x times the transpose of weight, and bias, of ordinary tensors; None alone where anything is not as it mostly is.
py::object linear_at_once(py::handle x, py::handle weight, py::handle bias, int threads) {
  const py::object no = py::none();
  Operands given;
  if (!read(x, weight, bias, given) || !is_dense(given.x)) return no;
  if (given.bias.data != nullptr && !is_dense(given.bias)) return no;
  const auto& [a, w, b] = given;
  const bool transposed = w.strides[1] != 1;
  if (transposed && w.strides[0] != 1) return no;
  const int64_t columns = w.shape[0], depth = w.shape[1], rows = a.elements / depth;
  std::vector<int64_t> shape(a.shape, a.shape + a.axes);
  shape.back() = columns;
  const py::object out = empty(x, shape.data(), a.axes);
  Dense made;
  if (!read(out, made)) return no;
  {
    py::gil_scoped_release release;
    multiply({a.dtype(),
              rows,
              columns,
              depth,
              {a.data, depth, false},
              {w.data, w.strides[transposed ? 1 : 0], transposed},
              b.data,
              made.data},
             threads);
  }
  return out;
}

}  // namespace

void bind(py::module_& module) {
  py::module_ linear = module.def_submodule("linear");

  linear.def("fit", &fit);
  linear.def("forward_at_once", &linear_at_once);
  linear.def("multiply", [](int dtype, int64_t rows, int64_t columns, int64_t depth, const MatrixNumbers& left,
                            const MatrixNumbers& right, int64_t bias, int64_t out, int threads) {
    py::gil_scoped_release release;
    multiply(
        {static_cast<Dtype>(dtype), rows, columns, depth, matrix(left), matrix(right), at<void>(bias), at<void>(out)},
        threads);
  });
}

}  // namespace xmkern::linear
