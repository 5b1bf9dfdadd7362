#include "epilogue/epilogue.h"

#include <array>

#include "module.h"

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
