// Reductions of a matrix of similarities over its rows and columns, and their gradients; the matrix is never formed.
#pragma once

#include "contrastive/problem.h"

namespace xmkern::contrastive {

void forward(const Problem& problem, const Totals& rows, const Totals& columns, int threads);
// Adds to the gradients that are there.
void backward(const Problem& problem, const Gradients& gradients, int threads);

// `weight` times the sum of the rows of `softplus` and, in one go, its gradients, of which the addresses of values and
// their gradients are unused.
double loss(const Problem& problem, double weight, const Gradients& gradients, int threads);

// How many logits, of columns counted in whole blocks, may be kept between forward and backward of one call: no more
// than a tile of moderate size.
inline constexpr int64_t most_kept = int64_t{1} << 20;
inline constexpr int64_t block_columns = 256;
constexpr bool can_be_kept(int64_t rows, int64_t columns) {
  return rows * ((columns + block_columns - 1) / block_columns * block_columns) <= most_kept;
}

struct WholeGradients {
  void *x, *y;               // [count, depth], dense, in the operands' dtype; null: not wanted
  float *x_scale, *y_scale;  // [count]
  float* bias;               // one number
};

// The same of a matrix that can be kept, of rows and columns if these are reduced; also of `logsumexp`: then of those
// that have positives, of log-sum-exp less the mean of these. Operands are float32 or bfloat16.
double whole_loss(const Problem& problem, double weight, const WholeGradients& gradients, int threads);

}  // namespace xmkern::contrastive
