// What follows a projection on the CPU, in one pass over rows. xmkern/ops/epilogue/README.md has the formulas.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace xmkern::epilogue {

// [row, column], columns dense, `stride` numbers from row to row. No data: it is absent, or not wanted.
struct Rows {
  void* data;
  int64_t stride;
  Dtype dtype;
  bool stream = false;  // is written past the caches: these functions decide it
};

// [column], or one number for all. No data: it is absent.
struct Numbers {
  const void* data;
  Dtype dtype;
  bool one;
};

// Which elements are kept: see core/philox.h. A scale of 0: all, as they are.
struct Dropout {
  uint32_t threshold;
  uint64_t seed;
  float scale;
  bool on;
};

struct AddNorm {
  int64_t rows, columns;
  Rows x, residual, sum, out;  // of the backward, sum and out are inputs, where they are there
  Numbers linear_bias, inner_weight, inner_bias, weight, bias;
  bool inner, outer, rms;
  float eps;
  bool pb_relax;   // eps is times the square of an eighth of the greatest absolute number of what is normalised
  float* moments;  // [norm, 2, row]: the mean and the scale of each norm, the inner first; the backward reads them
  Dropout dropout;
};

// Gradients of parameters are rows [parameter, column] of those that are there, in the order of the problem.
struct AddNormGradients {
  Rows out, sum;     // given, or absent
  Rows x, residual;  // wanted, the latter perhaps not
  float* parameters;
};

enum class Gate : int { none, tanh, sigmoid };

struct GatedResidual {
  int64_t rows, columns;
  Rows x, residual, out;
  Rows gates;    // one for each element,
  Numbers gate;  // or for each column, or one, or none
  Numbers bias;
  Gate activation;
};

struct GatedResidualGradients {
  Rows out, x, gates;
  float* parameters;  // of gate and bias
};

enum class Activation : int { gelu, gelu_tanh, quick_gelu, relu, silu };

struct BiasActivation {
  int64_t rows, columns;  // of the result: what is gated has twice the columns
  Rows x, out;            // of one dtype, and so are their gradients
  Numbers bias;
  Activation activation;
  bool gated;
};

struct BiasActivationGradients {
  Rows out, x;
  float* bias;
};

void add_norm(const AddNorm& problem, int threads);
void add_norm_backward(const AddNorm& problem, const AddNormGradients& gradients, int threads);
void gated_residual(const GatedResidual& problem, int threads);
void gated_residual_backward(const GatedResidual& problem, const GatedResidualGradients& gradients, int threads);
void bias_activation(const BiasActivation& problem, int threads);
void bias_activation_backward(const BiasActivation& problem, const BiasActivationGradients& gradients, int threads);

}  // namespace xmkern::epilogue
