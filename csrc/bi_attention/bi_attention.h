// Attention both ways from one matrix of affinities, and additive pooling, on the CPU: splits a call into tasks for the
// kernels. xmkern/ops/bi_attention/README.md has the formulas.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace xmkern::bi_attention {

// A tensor [batch, head, row, column], its last axis dense; strides in elements.
struct Operand {
  void* data;
  int64_t batch, head, row;
};

// One of the two sides: the rows or the columns of the affinities.
struct Side {
  int64_t count, value_depth;
  Operand x, value, out;  // out: [batch, head, count, the other side's value_depth]
  const uint8_t* mask;    // [batch, count], 0 where there is nothing, or null
  float* lse;             // [batch, head, count]; null without softmax
};

struct Problem {
  int64_t batches, heads, depth;
  Dtype dtype;
  float scale;
  bool tanh, softmax;
  Side rows, columns;
};

// Of one side: what is given for its out, and what is to be made for its x and its value.
struct SideGradients {
  Operand out, x, value;
};

struct Gradients {
  SideGradients rows, columns;
};

void forward(const Problem& problem, int threads);
void backward(const Problem& problem, const Gradients& gradients, int threads);

}  // namespace xmkern::bi_attention
