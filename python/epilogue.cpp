#include "epilogue/epilogue.h"

#include <array>
#include <vector>

#include "module.h"
#include "tensor.h"

namespace py = pybind11;
using namespace xmkern::epilogue;

namespace {

using Shape = std::array<int64_t, 2>;
using RowNumbers = std::array<int64_t, 3>;     // address, stride, dtype
using VectorNumbers = std::array<int64_t, 3>;  // address, dtype, whether it is one number
using DropoutNumbers = std::tuple<uint32_t, uint64_t, float>;

Rows rows(const RowNumbers& n) { return {at<void>(n[0]), n[1], static_cast<xmkern::Dtype>(n[2])}; }
Numbers numbers(const VectorNumbers& n) { return {at<void>(n[0]), static_cast<xmkern::Dtype>(n[1]), n[2] != 0}; }

AddNorm add_norm_problem(const Shape& shape, const std::array<RowNumbers, 4>& operands,
                         const std::array<VectorNumbers, 5>& parameters, const std::array<bool, 5>& flags, float eps,
                         int64_t moments, const DropoutNumbers& dropout) {
  const auto [inner, outer, rms, pb_relax, drops] = flags;
  const auto [threshold, seed, scale] = dropout;
  return {shape[0],
          shape[1],
          rows(operands[0]),
          rows(operands[1]),
          rows(operands[2]),
          rows(operands[3]),
          numbers(parameters[0]),
          numbers(parameters[1]),
          numbers(parameters[2]),
          numbers(parameters[3]),
          numbers(parameters[4]),
          inner,
          outer,
          rms,
          eps,
          pb_relax,
          at<float>(moments),
          {threshold, seed, scale, drops}};
}

GatedResidual gated_problem(const Shape& shape, const RowNumbers& x, const RowNumbers& residual, const RowNumbers& out,
                            const RowNumbers& gates, const VectorNumbers& gate, const VectorNumbers& bias,
                            int activation) {
  return {shape[0],       shape[1],      rows(x),
          rows(residual), rows(out),     rows(gates),
          numbers(gate),  numbers(bias), static_cast<Gate>(activation)};
}

BiasActivation activation_problem(const Shape& shape, const RowNumbers& x, const RowNumbers& out,
                                  const VectorNumbers& bias, int activation, bool gated) {
  return {shape[0], shape[1], rows(x), rows(out), numbers(bias), static_cast<Activation>(activation), gated};
}

// The operands of a call, which all go with the rows of x.
struct Ordinary {
  bool gradients;
  xmkern::Dense x{};
  int64_t row_count = 0, columns = 0;

  bool begin(py::handle given) {
    if (!xmkern::read_operand(given, gradients, x) || x.axes == 0) return false;
    columns = x.shape[x.axes - 1], row_count = x.elements / columns;
    return x.bytes() < xmkern::large;
  }

  Rows rows_of(const xmkern::Dense& dense) const { return {dense.data, dense.shape[dense.axes - 1], dense.dtype()}; }

  // Of the shape and dtype of x.
  bool rows(py::handle given, Rows& out) const {
    xmkern::Dense dense;
    if (given.is_none()) return true;
    if (!xmkern::read_like(given, gradients, x, dense)) return false;
    out = rows_of(dense);
    return true;
  }

  // Of the shape of x, of [column], or, where that may be, one number.
  bool numbers(py::handle given, bool may_be_one, Numbers& out, Rows* elements = nullptr) const {
    xmkern::Dense dense;
    if (given.is_none()) return true;
    if (!xmkern::read_operand(given, gradients, dense)) return false;
    if (dense.axes > 1) {
      if (!elements || !xmkern::same_shape(dense, x)) return false;
      *elements = rows_of(dense);
      return true;
    }
    out = {dense.data, dense.dtype(), may_be_one && dense.elements == 1};
    return out.one || (dense.axes == 1 && dense.elements == columns);
  }

  // Memory for a result.
  bool make(py::object made, py::object& result, Rows& out) const {
    xmkern::Dense dense;
    result = std::move(made);
    if (!xmkern::read_operand(result, gradients, dense)) return false;
    out = rows_of(dense);
    return true;
  }
};

// The calls of ordinary tensors (tensor.h): each returns None where anything is not as it mostly is.

// -> the norm and the sum, each None where it is not wanted
py::object add_norm_at_once(py::handle x, py::handle residual, const py::tuple& parameters,
                            const std::array<bool, 5>& flags, float eps, bool gradients, int threads) {
  const py::object no = py::none();
  const auto [inner, outer, keep_sum, rms, pb_relax] = flags;
  Ordinary given{gradients};
  AddNorm p{};
  if (!given.begin(x) || !given.rows(x, p.x) || !given.rows(residual, p.residual)) return no;
  Numbers* const vectors[5] = {&p.linear_bias, &p.inner_weight, &p.inner_bias, &p.weight, &p.bias};
  for (size_t i = 0; i < 5; ++i)
    if (!given.numbers(parameters[i], false, *vectors[i])) return no;
  py::object out = py::none(), sum = py::none();
  if (outer && !given.make(xmkern::empty_like(x), out, p.out)) return no;
  if (keep_sum && !given.make(xmkern::empty_like(x), sum, p.sum)) return no;
  p.rows = given.row_count, p.columns = given.columns;
  p.inner = inner, p.outer = outer, p.rms = rms, p.pb_relax = pb_relax, p.eps = eps;
  {
    py::gil_scoped_release release;
    std::vector<float> moments(static_cast<size_t>((inner + outer) * 2 * p.rows));
    p.moments = moments.data();
    add_norm(p, threads);
  }
  return py::make_tuple(out, sum);
}

py::object gated_residual_at_once(py::handle x, py::handle residual, py::handle gate, py::handle bias, int activation,
                                  bool gradients, int threads) {
  const py::object no = py::none();
  Ordinary given{gradients};
  GatedResidual p{};
  if (residual.is_none() || (gate.is_none() && activation != 0)) return no;
  if (!given.begin(x) || !given.rows(x, p.x) || !given.rows(residual, p.residual)) return no;
  if (!given.numbers(gate, true, p.gate, &p.gates) || !given.numbers(bias, false, p.bias)) return no;
  py::object out;
  if (!given.make(xmkern::empty_like(x), out, p.out)) return no;
  p.rows = given.row_count, p.columns = given.columns, p.activation = static_cast<Gate>(activation);
  py::gil_scoped_release release;
  gated_residual(p, threads);
  return out;
}

py::object bias_activation_at_once(py::handle x, py::handle bias, int activation, bool gated, bool gradients,
                                   int threads) {
  const py::object no = py::none();
  Ordinary given{gradients};
  BiasActivation p{};
  if (!given.begin(x) || !given.rows(x, p.x) || !given.numbers(bias, false, p.bias)) return no;
  if (gated && given.columns % 2 != 0) return no;
  p.rows = given.row_count, p.columns = gated ? given.columns / 2 : given.columns;
  p.activation = static_cast<Activation>(activation), p.gated = gated;
  py::object out;
  std::vector<int64_t> shape(given.x.shape, given.x.shape + given.x.axes);
  shape.back() = p.columns;
  if (!given.make(gated ? xmkern::empty(x, shape.data(), given.x.axes) : xmkern::empty_like(x), out, p.out)) return no;
  py::gil_scoped_release release;
  bias_activation(p, threads);
  return out;
}

}  // namespace

void bind_epilogue(py::module_& module) {
  py::module_ epilogue = module.def_submodule("epilogue");

  epilogue.def("add_norm", [](const Shape& shape, const std::array<RowNumbers, 4>& operands,
                              const std::array<VectorNumbers, 5>& parameters, const std::array<bool, 5>& flags,
                              float eps, int64_t moments, const DropoutNumbers& dropout, int threads) {
    const AddNorm problem = add_norm_problem(shape, operands, parameters, flags, eps, moments, dropout);
    py::gil_scoped_release release;
    add_norm(problem, threads);
  });
  epilogue.def("add_norm_backward", [](const Shape& shape, const std::array<RowNumbers, 4>& operands,
                                       const std::array<VectorNumbers, 5>& parameters, const std::array<bool, 5>& flags,
                                       float eps, int64_t moments, const DropoutNumbers& dropout,
                                       const std::array<RowNumbers, 4>& gradients, int64_t of_parameters, int threads) {
    const AddNorm problem = add_norm_problem(shape, operands, parameters, flags, eps, moments, dropout);
    const AddNormGradients grads = {rows(gradients[0]), rows(gradients[1]), rows(gradients[2]), rows(gradients[3]),
                                    at<float>(of_parameters)};
    py::gil_scoped_release release;
    add_norm_backward(problem, grads, threads);
  });

  epilogue.def("add_norm_at_once", &add_norm_at_once);
  epilogue.def("gated_residual_at_once", &gated_residual_at_once);
  epilogue.def("bias_activation_at_once", &bias_activation_at_once);

  epilogue.def("gated_residual", [](const Shape& shape, const RowNumbers& x, const RowNumbers& residual,
                                    const RowNumbers& out, const RowNumbers& gates, const VectorNumbers& gate,
                                    const VectorNumbers& bias, int activation, int threads) {
    const GatedResidual problem = gated_problem(shape, x, residual, out, gates, gate, bias, activation);
    py::gil_scoped_release release;
    gated_residual(problem, threads);
  });
  epilogue.def("gated_residual_backward", [](const Shape& shape, const RowNumbers& x, const RowNumbers& gates,
                                             const VectorNumbers& gate, const VectorNumbers& bias, int activation,
                                             const RowNumbers& grad, const RowNumbers& grad_x,
                                             const RowNumbers& grad_gates, int64_t of_parameters, int threads) {
    const GatedResidual problem = gated_problem(shape, x, {}, {}, gates, gate, bias, activation);
    const GatedResidualGradients grads = {rows(grad), rows(grad_x), rows(grad_gates), at<float>(of_parameters)};
    py::gil_scoped_release release;
    gated_residual_backward(problem, grads, threads);
  });

  epilogue.def("bias_activation", [](const Shape& shape, const RowNumbers& x, const RowNumbers& out,
                                     const VectorNumbers& bias, int activation, bool gated, int threads) {
    const BiasActivation problem = activation_problem(shape, x, out, bias, activation, gated);
    py::gil_scoped_release release;
    bias_activation(problem, threads);
  });
  epilogue.def("bias_activation_backward",
               [](const Shape& shape, const RowNumbers& x, const VectorNumbers& bias, int activation, bool gated,
                  const RowNumbers& grad, const RowNumbers& grad_x, int64_t grad_bias, int threads) {
                 const BiasActivation problem = activation_problem(shape, x, {}, bias, activation, gated);
                 const BiasActivationGradients grads = {rows(grad), rows(grad_x), at<float>(grad_bias)};
                 py::gil_scoped_release release;
                 bias_activation_backward(problem, grads, threads);
               });
}
