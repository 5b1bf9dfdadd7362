// Additive pooling on the CPU: rows of x summed up with the shares softmax(tanh(hidden + guide) weight).
// xmkern/ops/bi_attention/README.md has the formulas.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace xmkern::pool {

// A tensor [batch, row, column], its last axis dense; strides in elements.
struct Operand {
  void* data;
  int64_t batch, row;
};

struct Problem {
  int64_t batches, rows, depth, width;  // depth: of x; width: of hidden
  Dtype dtype;
  Operand x, hidden;
  Operand guide;  // of hidden's shape, or [batch, 1, width] with a stride of row of 0, or null
  const void* weight;
  const uint8_t* mask;  // [batch, row], 0 where there is nothing, or null
  Operand pooled;       // [batch, 1, depth]
  float* shares;        // [batch, row]
};

struct Gradients {
  Operand pooled;       // given; its pooled is not needed
  const float* shares;  // given
  Operand x, hidden;
  Operand guide;  // [batch, 1, width], or null
  void* weight;
};

void forward(const Problem& problem, int threads);
void backward(const Problem& problem, const Gradients& gradients, int threads);

}  // namespace xmkern::pool
