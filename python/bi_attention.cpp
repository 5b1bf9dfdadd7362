#include "bi_attention/bi_attention.h"

#include <array>

#include "bi_attention/pool.h"
#include "module.h"

namespace py = pybind11;
namespace xmkern::bi_attention {
namespace {

// Address, then strides of batch, head and row.
using OperandNumbers = std::array<int64_t, 4>;

Operand operand(const OperandNumbers& n) { return {at<void>(n[0]), n[1], n[2], n[3]}; }

// Of x, value and out; then how many, the depth of the values, and the addresses of mask and lse.
using SideNumbers = std::array<OperandNumbers, 3>;

Side side(const SideNumbers& operands, const std::array<int64_t, 4>& n) {
  return {n[0],           n[1], operand(operands[0]), operand(operands[1]), operand(operands[2]), at<uint8_t>(n[2]),
          at<float>(n[3])};
}

SideGradients gradients(const SideNumbers& of) { return {operand(of[2]), operand(of[0]), operand(of[1])}; }

}  // namespace

void bind(py::module_& module) {
  py::module_ bi = module.def_submodule("bi_attention");
  using Shape = std::array<int64_t, 3>;
  using Numbers = std::array<int64_t, 4>;

  const auto problem = [](const Shape& shape, int dtype, float scale, bool tanh, bool softmax, const SideNumbers& rows,
                          const Numbers& of_rows, const SideNumbers& columns, const Numbers& of_columns) {
    return Problem{shape[0],
                   shape[1],
                   shape[2],
                   static_cast<Dtype>(dtype),
                   scale,
                   tanh,
                   softmax,
                   side(rows, of_rows),
                   side(columns, of_columns)};
  };

  bi.def("forward",
         [problem](const Shape& shape, int dtype, float scale, bool tanh, bool softmax, const SideNumbers& rows,
                   const Numbers& of_rows, const SideNumbers& columns, const Numbers& of_columns, int threads) {
           const Problem call = problem(shape, dtype, scale, tanh, softmax, rows, of_rows, columns, of_columns);
           py::gil_scoped_release release;
           forward(call, threads);
         });

  // Of each side the gradients of x, value and out.
  bi.def("backward",
         [problem](const Shape& shape, int dtype, float scale, bool tanh, bool softmax, const SideNumbers& rows,
                   const Numbers& of_rows, const SideNumbers& columns, const Numbers& of_columns,
                   const SideNumbers& row_gradients, const SideNumbers& column_gradients, int threads) {
           const Problem call = problem(shape, dtype, scale, tanh, softmax, rows, of_rows, columns, of_columns);
           const Gradients wanted = {gradients(row_gradients), gradients(column_gradients)};
           py::gil_scoped_release release;
           backward(call, wanted, threads);
         });

  // Address, then strides of batch and row.
  using Rows = std::array<int64_t, 3>;
  const auto rows = [](const Rows& n) { return pool::Operand{at<void>(n[0]), n[1], n[2]}; };

  // pooled: contiguous; in the backward, its gradient.
  const auto pool = [rows](const Numbers& shape, int dtype, const Rows& x, const Rows& hidden, const Rows& guide,
                           int64_t weight, int64_t mask, int64_t pooled, int64_t shares) {
    const auto [batches, row_count, depth, width] = shape;
    return pool::Problem{batches,
                         row_count,
                         depth,
                         width,
                         static_cast<Dtype>(dtype),
                         rows(x),
                         rows(hidden),
                         rows(guide),
                         at<void>(weight),
                         at<uint8_t>(mask),
                         {at<void>(pooled), depth, 0},
                         at<float>(shares)};
  };

  bi.def("pool", [pool](const Numbers& shape, int dtype, const Rows& x, const Rows& hidden, const Rows& guide,
                        int64_t weight, int64_t mask, int64_t pooled, int64_t shares, int threads) {
    const auto call = pool(shape, dtype, x, hidden, guide, weight, mask, pooled, shares);
    py::gil_scoped_release release;
    pool::forward(call, threads);
  });

  bi.def("pool_backward", [pool, rows](const Numbers& shape, int dtype, const Rows& x, const Rows& hidden,
                                       const Rows& guide, int64_t weight, int64_t mask, int64_t grad_pooled,
                                       int64_t shares, int64_t grad_shares, const Rows& grad_x, const Rows& grad_hidden,
                                       const Rows& grad_guide, int64_t grad_weight, int threads) {
    const auto call = pool(shape, dtype, x, hidden, guide, weight, mask, grad_pooled, shares);
    const pool::Gradients gradients = {call.pooled,       at<float>(grad_shares), rows(grad_x),
                                       rows(grad_hidden), rows(grad_guide),       at<void>(grad_weight)};
    py::gil_scoped_release release;
    pool::backward(call, gradients, threads);
  });
}

}  // namespace xmkern::bi_attention
