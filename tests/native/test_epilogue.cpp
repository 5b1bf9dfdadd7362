// The kernels of what follows a projection against the formulas in double, for the sanitizers: every capability, random
// sizes, strides, dtypes and missing operands, in exactly sized memory, so that a read past the end is seen.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/capability.h"
#include "epilogue/epilogue.h"
#include "numbers.h"

using namespace xmkern;
using namespace xmkern::epilogue;

namespace {

int checks = 0;

Dtype draw_dtype() { return static_cast<Dtype>(draw(0, 2)); }

// Numbers in memory, and what they are.
class Array {
 public:
  Array(int64_t rows, int64_t columns, Dtype dtype, bool there = true)
      : rows_(rows), columns_(columns), stride_(columns + draw(0, 3)), dtype_(dtype) {
    if (!there) return;
    const int64_t size = rows == 0 ? 0 : (rows - 1) * stride_ + columns;
    data_ = std::make_unique<char[]>(static_cast<size_t>(size * size_of(dtype)));
    for (int64_t i = 0; i < size; ++i) write(data_.get(), dtype, i, draw_number());
  }

  explicit operator bool() const { return data_ != nullptr; }
  double at(int64_t row, int64_t column) const { return read(data_.get(), dtype_, row * stride_ + column); }
  double at(int64_t column, double absent) const { return data_ ? at(0, column) : absent; }
  Rows rows() const { return {data_.get(), stride_, dtype_}; }
  Numbers numbers() const { return {data_.get(), dtype_, false}; }

  void check(const char* what, const std::vector<double>& want) const {
    double most = 1;
    for (const double x : want) most = std::fmax(most, std::fabs(x));
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < columns_; ++c, ++checks) {
        const double got = at(r, c), expected = want[static_cast<size_t>(r * columns_ + c)];
        if (std::fabs(got - expected) <= most * (2e-4 + epsilon(dtype_))) continue;
        std::printf("FAILED: %s(%d, %d) is %g, not %g, at %s\n", what, static_cast<int>(r), static_cast<int>(c), got,
                    expected, capability_name(current_capability()));
        std::exit(1);
      }
  }

 private:
  int64_t rows_, columns_, stride_;
  Dtype dtype_;
  std::unique_ptr<char[]> data_;
};

int64_t draw_columns() { return coin() ? draw(1, 70) : one_of({128, 320, 1030}); }

void check_norm() {
  const int64_t rows = coin() ? draw(0, 5) : 150, columns = draw_columns();
  const Dtype dtype = draw_dtype(), other = coin() ? dtype : draw_dtype();
  const bool inner = coin(), keep_sum = inner || coin(), outer = !keep_sum || coin();
  const auto vector = [&] { return Array(1, columns, draw_dtype(), coin()); };
  const Array x(rows, columns, dtype), residual(rows, columns, other, inner || coin());
  const Array linear_bias = vector(), weight = vector(), bias = vector();
  const Array inner_weight(1, columns, dtype, inner && coin()), inner_bias(1, columns, dtype, inner && coin());
  const Array total(rows, columns, Dtype::float32, keep_sum), out(rows, columns, other, outer);
  std::vector<float> moments(static_cast<size_t>(4 * rows));
  AddNorm p = {rows,
               columns,
               x.rows(),
               residual.rows(),
               total.rows(),
               out.rows(),
               linear_bias.numbers(),
               inner_weight.numbers(),
               inner_bias.numbers(),
               weight.numbers(),
               bias.numbers(),
               inner,
               outer,
               coin(),
               0.1f,
               coin(),
               moments.data(),
               {}};
  add_norm(p, 2);

  const auto size = static_cast<size_t>(rows * columns);
  std::vector<double> sums(size), outs(size);
  const auto place = [&](int64_t r, int64_t c) { return static_cast<size_t>(r * columns + c); };
  const auto normalise = [&](std::vector<double>& values, const Array& by, const Array& shift) {
    double most = 0;
    for (const double v : values) most = std::fmax(most, std::fabs(v));
    const double eps = p.pb_relax ? 0.1 * most * most / 64 : 0.1;
    for (int64_t r = 0; r < rows; ++r) {
      double mean = 0, variance = 0;
      for (int64_t c = 0; c < columns; ++c) mean += values[place(r, c)] / static_cast<double>(columns);
      if (p.rms) mean = 0;
      for (int64_t c = 0; c < columns; ++c)
        variance += (values[place(r, c)] - mean) * (values[place(r, c)] - mean) / static_cast<double>(columns);
      const double scale = variance + eps == 0 ? 0 : 1 / std::sqrt(variance + eps);
      for (int64_t c = 0; c < columns; ++c)
        values[place(r, c)] = (values[place(r, c)] - mean) * scale * by.at(c, 1.0) + shift.at(c, 0.0);
    }
  };
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) sums[place(r, c)] = x.at(r, c) + linear_bias.at(c, 0.0);
  if (inner) normalise(sums, inner_weight, inner_bias);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) sums[place(r, c)] += residual ? residual.at(r, c) : 0;
  outs = sums;
  normalise(outs, weight, bias);
  if (keep_sum) total.check("sum", sums);
  if (outer) out.check("out", outs);

  // The backward, for its memory and for what is easily known: gradients of a shift sum up those of the results.
  const Array grad(rows, columns, other), grad_x(rows, columns, dtype), grad_residual(rows, columns, other, inner);
  const Numbers parameters[] = {p.linear_bias, p.inner_weight, p.inner_bias, p.weight, p.bias};
  int64_t count = 0;
  for (const Numbers& parameter : parameters) count += parameter.data != nullptr;
  const Array of_parameters(1, count * columns, Dtype::float32);
  p.outer = outer;
  add_norm_backward(p,
                    {outer ? grad.rows() : Rows{}, outer ? Rows{} : grad.rows(), grad_x.rows(), grad_residual.rows(),
                     static_cast<float*>(of_parameters.rows().data)},
                    2);
  if (!outer || p.bias.data == nullptr) return;
  std::vector<double> expected(static_cast<size_t>(columns));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) expected[static_cast<size_t>(c)] += grad.at(r, c);
  for (int64_t c = 0; c < columns; ++c, ++checks)
    if (std::fabs(of_parameters.at(0, (count - 1) * columns + c) - expected[static_cast<size_t>(c)]) > 1e-3) {
      std::printf("FAILED: the gradient of bias(%d)\n", static_cast<int>(c));
      std::exit(1);
    }
}

void check_gate() {
  const int64_t rows = coin() ? draw(0, 5) : 150, columns = draw_columns();
  const Dtype dtype = draw_dtype(), other = coin() ? dtype : draw_dtype();
  const int64_t form = draw(0, 2);
  const Array x(rows, columns, dtype), residual(rows, columns, other), gates(rows, columns, other, form == 0);
  const Array gate(1, columns, dtype, form == 1), bias(1, columns, draw_dtype(), coin());
  const Array out(rows, columns, Dtype::float32), grad_x(rows, columns, dtype),
      grad_gates(rows, columns, other, form == 0);
  const auto activation = static_cast<Gate>(form == 2 ? 0 : draw(0, 2));
  const GatedResidual p = {rows,         columns,        x.rows(),       residual.rows(), out.rows(),
                           gates.rows(), gate.numbers(), bias.numbers(), activation};
  gated_residual(p, 2);
  const auto size = static_cast<size_t>(rows * columns);
  std::vector<double> want(size), of_x(size), of_gates(size);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const double z = form == 0 ? gates.at(r, c) : gate.at(c, 1.0), branch = x.at(r, c) + bias.at(c, 0.0);
      const double y = activation == Gate::tanh      ? std::tanh(z)
                       : activation == Gate::sigmoid ? 1 / (1 + std::exp(-z))
                                                     : z;
      const double slope = activation == Gate::tanh ? 1 - y * y : activation == Gate::sigmoid ? y * (1 - y) : 1;
      const auto i = static_cast<size_t>(r * columns + c);
      want[i] = residual.at(r, c) + y * branch;
      of_x[i] = residual.at(r, c) * y, of_gates[i] = residual.at(r, c) * branch * slope;
    }
  out.check("gated", want);
  const Array of_parameters(1, 2 * columns, Dtype::float32);
  gated_residual_backward(
      p, {residual.rows(), grad_x.rows(), grad_gates.rows(), static_cast<float*>(of_parameters.rows().data)}, 2);
  grad_x.check("the gradient of x", of_x);
  if (form == 0) grad_gates.check("the gradient of gates", of_gates);
}

void check_activation() {
  const int64_t rows = coin() ? draw(0, 5) : 150, columns = draw_columns(), halves = coin() ? 2 : 1;
  const Dtype dtype = draw_dtype();
  const Array x(rows, halves * columns, dtype), bias(1, halves * columns, draw_dtype(), coin());
  const Array out(rows, columns, dtype), grad(rows, columns, dtype), grad_x(rows, halves * columns, dtype);
  const auto activation = static_cast<Activation>(draw(0, 4));
  const BiasActivation p = {rows, columns, x.rows(), out.rows(), bias.numbers(), activation, halves == 2};
  bias_activation(p, 2);
  std::vector<double> want(static_cast<size_t>(rows * columns));
  const auto activated = [&](double z) {
    const double sigmoid_of = activation == Activation::gelu_tanh
                                  ? 2 * std::sqrt(2 / 3.14159265358979) * (z + 0.044715 * z * z * z)
                                  : z * (activation == Activation::quick_gelu ? 1.702 : 1);
    if (activation == Activation::gelu) return z * 0.5 * std::erfc(-z * std::sqrt(0.5));
    return activation == Activation::relu ? std::fmax(z, 0.0) : z / (1 + std::exp(-sigmoid_of));
  };
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const auto at = [&](int64_t column) { return x.at(r, column) + bias.at(column, 0.0); };
      want[static_cast<size_t>(r * columns + c)] = halves == 2 ? at(c) * activated(at(columns + c)) : activated(at(c));
    }
  out.check("activation", want);
  const Array of_bias(1, halves * columns, Dtype::float32);
  bias_activation_backward(p, {grad.rows(), grad_x.rows(), static_cast<float*>(of_bias.rows().data)}, 2);
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 150; ++i) check_norm(), check_gate(), check_activation();
  }
  std::printf("epilogue: %d checks passed on %d capabilities\n", checks, static_cast<int>(detected_capability()) + 1);
  return 0;
}
