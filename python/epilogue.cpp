#include "epilogue/epilogue.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "module.h"
#include "tensor.h"

namespace py = pybind11;
namespace xmkern::epilogue {
namespace {

using Shape = std::array<int64_t, 2>;
using RowNumbers = std::array<int64_t, 3>;     // address, stride, dtype
using VectorNumbers = std::array<int64_t, 3>;  // address, dtype, whether it is one number
using DropoutNumbers = std::tuple<uint32_t, uint64_t, float>;

Rows rows(const RowNumbers& n) { return {at<void>(n[0]), n[1], static_cast<Dtype>(n[2])}; }
Numbers numbers(const VectorNumbers& n) { return {at<void>(n[0]), static_cast<Dtype>(n[1]), n[2] != 0}; }

Dropout dropout_of(const DropoutNumbers& n, bool on) { return {std::get<0>(n), std::get<1>(n), std::get<2>(n), on}; }

AddNorm add_norm_problem(const Shape& shape, const std::array<RowNumbers, 4>& operands,
                         const std::array<VectorNumbers, 5>& parameters, const std::array<bool, 5>& flags, float eps,
                         int64_t moments, const DropoutNumbers& dropout) {
  const auto [inner, outer, rms, pb_relax, drops] = flags;
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
          dropout_of(dropout, drops)};
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

// The operands of a call, which all go with the rows of x: ordinary tensors (tensor.h) or None.
struct Ordinary {
  Dense x{};
  int64_t row_count = 0, columns = 0;

  bool begin(py::handle given, Rows& out) {
    if (!read_operand(given, x) || x.axes == 0) return false;
    columns = x.shape[x.axes - 1], row_count = x.elements / columns;
    out = rows_of(x);
    return true;
  }

  static Rows rows_of(const Dense& dense) { return {dense.data, dense.shape[dense.axes - 1], dense.dtype()}; }

  // Of the shape and dtype of x.
  bool rows(py::handle given, Rows& out) const {
    Dense dense;
    if (given.is_none()) return true;
    if (!read_like(given, x, dense)) return false;
    out = rows_of(dense);
    return true;
  }

  // Of the shape of x, of [column], or, where that may be, one number.
  bool numbers(py::handle given, bool may_be_one, Numbers& out, Rows* elements = nullptr) const {
    Dense dense;
    if (given.is_none()) return true;
    if (!read_operand(given, dense)) return false;
    if (dense.axes > 1) {
      if (!elements || !same_shape(dense, x)) return false;
      *elements = rows_of(dense);
      return true;
    }
    out = {dense.data, dense.dtype(), may_be_one && dense.elements == 1};
    return out.one || (dense.axes == 1 && dense.elements == columns);
  }
};

// Memory for a result.
bool make(py::object made, py::object& result, Rows& out) {
  Dense dense;
  result = std::move(made);
  if (!read_operand(result, dense)) return false;
  out = Ordinary::rows_of(dense);
  return true;
}

bool read_parameters(const Ordinary& given, const py::tuple& parameters, AddNorm& p) {
  Numbers* const vectors[5] = {&p.linear_bias, &p.inner_weight, &p.inner_bias, &p.weight, &p.bias};
  for (size_t i = 0; i < 5; ++i)
    if (!given.numbers(parameters[i], false, *vectors[i])) return false;
  return true;
}

int64_t count_given(const py::tuple& parameters) {
  return std::count_if(parameters.begin(), parameters.end(), [](py::handle each) { return !each.is_none(); });
}

// The calls of ordinary tensors. Each returns None where anything is not as it mostly is, and True where all is but a
// gradient is asked for; results that are not wanted are None.

// -> the norm, the sum, the moments
py::object add_norm_at_once(py::handle x, py::handle residual, const py::tuple& parameters,
                            const std::array<bool, 5>& flags, float eps, const std::optional<DropoutNumbers>& dropout,
                            bool keep_moments, bool gradients, int threads) {
  const py::object no = py::none();
  const auto [inner, outer, keep_sum, rms, pb_relax] = flags;
  Ordinary given;
  AddNorm p{};
  if (!given.begin(x, p.x) || !given.rows(residual, p.residual) || !read_parameters(given, parameters, p)) return no;
  if (gradients && (ask_gradients({x, residual}) || ask_gradients(parameters))) return py::bool_(true);
  p.rows = given.row_count, p.columns = given.columns;
  p.inner = inner, p.outer = outer, p.rms = rms, p.pb_relax = pb_relax, p.eps = eps;
  if (dropout) p.dropout = dropout_of(*dropout, true);
  py::object out = no, sum = no, moments = no;
  if (outer && !make(empty_like(x), out, p.out)) return no;
  if (keep_sum && !make(empty_like(x), sum, p.sum)) return no;
  std::vector<float> forgotten;
  if (keep_moments) {
    moments = empty_floats({inner + outer, 2, p.rows}, p.moments);
  } else {
    forgotten.resize(static_cast<size_t>((inner + outer) * 2 * p.rows));
    p.moments = forgotten.data();
  }
  {
    py::gil_scoped_release release;
    add_norm(p, threads);
  }
  return py::make_tuple(out, sum, moments);
}

// -> the gradients of x, of the residual, of the parameters
py::object add_norm_backward_at_once(py::handle grad_out, py::handle grad_sum, py::handle x, py::handle residual,
                                     py::handle sum, py::handle moments, const py::tuple& parameters, bool inner,
                                     bool rms, bool residual_grad, const std::optional<DropoutNumbers>& dropout,
                                     int threads) {
  const py::object no = py::none();
  const py::handle like = grad_out.is_none() ? grad_sum : grad_out;
  Ordinary given;
  AddNorm p{};
  AddNormGradients g{};
  Rows same;
  Dense kept;
  if (!given.begin(like, same) || !given.rows(grad_out, g.out) || !given.rows(grad_sum, g.sum)) return no;
  if (!given.rows(x, p.x) || !given.rows(residual, p.residual) || !given.rows(sum, p.sum)) return no;
  if (!read_parameters(given, parameters, p)) return no;
  if (!read(moments, kept) || kept.element != Element::float32) return no;
  p.rows = given.row_count, p.columns = given.columns;
  p.inner = inner, p.outer = !grad_out.is_none(), p.rms = rms, p.moments = static_cast<float*>(kept.data);
  if (dropout) p.dropout = dropout_of(*dropout, true);
  py::object grad_x, grad_residual = no;
  if (!make(empty_like(like), grad_x, g.x)) return no;
  if (residual_grad && !make(empty_like(like), grad_residual, g.residual)) return no;
  const py::object of_parameters = empty_floats({count_given(parameters), p.columns}, g.parameters);
  {
    py::gil_scoped_release release;
    add_norm_backward(p, g, threads);
  }
  return py::make_tuple(grad_x, grad_residual, of_parameters);
}

py::object gated_residual_at_once(py::handle x, py::handle residual, py::handle gate, py::handle bias, int activation,
                                  bool gradients, int threads) {
  const py::object no = py::none();
  Ordinary given;
  GatedResidual p{};
  if (residual.is_none() || (gate.is_none() && activation != 0)) return no;
  if (!given.begin(x, p.x) || !given.rows(residual, p.residual)) return no;
  if (!given.numbers(gate, true, p.gate, &p.gates) || !given.numbers(bias, false, p.bias)) return no;
  if (gradients && ask_gradients({x, residual, gate, bias})) return py::bool_(true);
  py::object out;
  if (!make(empty_like(x), out, p.out)) return no;
  p.rows = given.row_count, p.columns = given.columns, p.activation = static_cast<Gate>(activation);
  py::gil_scoped_release release;
  gated_residual(p, threads);
  return out;
}

// -> the gradients of x, of a gate of elements, of gate and bias
py::object gated_residual_backward_at_once(py::handle grad, py::handle x, py::handle gate, py::handle bias,
                                           int activation, int threads) {
  const py::object no = py::none();
  Ordinary given;
  GatedResidual p{};
  GatedResidualGradients g{};
  if (!given.begin(grad, g.out) || x.is_none() || !given.rows(x, p.x)) return no;
  if (!given.numbers(gate, true, p.gate, &p.gates) || !given.numbers(bias, false, p.bias)) return no;
  p.rows = given.row_count, p.columns = given.columns, p.activation = static_cast<Gate>(activation);
  py::object grad_x, grad_gate = no;
  if (!make(empty_like(x), grad_x, g.x)) return no;
  if (p.gates.data && !make(empty_like(gate), grad_gate, g.gates)) return no;
  const int64_t parameters = (p.gate.data != nullptr) + (p.bias.data != nullptr);
  const py::object of_parameters = empty_floats({parameters, p.columns}, g.parameters);
  {
    py::gil_scoped_release release;
    gated_residual_backward(p, g, threads);
  }
  return py::make_tuple(grad_x, grad_gate, of_parameters);
}

py::object bias_activation_at_once(py::handle x, py::handle bias, int activation, bool gated, bool gradients,
                                   int threads) {
  const py::object no = py::none();
  Ordinary given;
  BiasActivation p{};
  if (!given.begin(x, p.x) || !given.numbers(bias, false, p.bias) || (gated && given.columns % 2 != 0)) return no;
  if (gradients && ask_gradients({x, bias})) return py::bool_(true);
  p.rows = given.row_count, p.columns = gated ? given.columns / 2 : given.columns;
  p.activation = static_cast<Activation>(activation), p.gated = gated;
  std::vector<int64_t> shape(given.x.shape, given.x.shape + given.x.axes);
  shape.back() = p.columns;
  py::object out;
  if (!make(gated ? empty(x, shape.data(), given.x.axes) : empty_like(x), out, p.out)) return no;
  py::gil_scoped_release release;
  bias_activation(p, threads);
  return out;
}

// -> the gradients of x and of the bias
py::object bias_activation_backward_at_once(py::handle grad, py::handle x, py::handle bias, int activation, bool gated,
                                            int threads) {
  const py::object no = py::none();
  Ordinary given, of_grad;
  BiasActivation p{};
  BiasActivationGradients g{};
  if (!given.begin(x, p.x) || !of_grad.begin(grad, g.out) || of_grad.x.element != given.x.element) return no;
  if (!given.numbers(bias, false, p.bias)) return no;
  p.rows = of_grad.row_count, p.columns = of_grad.columns;
  p.activation = static_cast<Activation>(activation), p.gated = gated;
  if (p.rows != given.row_count || given.columns != (gated ? 2 : 1) * p.columns) return no;
  py::object grad_x, grad_bias = no;
  if (!make(empty_like(x), grad_x, g.x)) return no;
  if (p.bias.data) grad_bias = empty_floats({given.columns}, g.bias);
  {
    py::gil_scoped_release release;
    bias_activation_backward(p, g, threads);
  }
  return py::make_tuple(grad_x, grad_bias);
}

}  // namespace

void bind(py::module_& module) {
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
  epilogue.def("add_norm_backward_at_once", &add_norm_backward_at_once);
  epilogue.def("gated_residual_backward_at_once", &gated_residual_backward_at_once);
  epilogue.def("bias_activation_backward_at_once", &bias_activation_backward_at_once);

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

}  // namespace xmkern::epilogue
