// What a reduction of similarities is told: z[i][j] = x_scale[i] y_scale[j] <x[i], y[j]> + bias, and what it leaves.
// xmkern/ops/contrastive/reference.py says what it means.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace xmkern::contrastive {

enum class Kind : int { logsumexp, mil, softplus, hinge, maximum, margin };

// One side of the matrix: its rows, or its columns. Addresses that may be null: ids, groups, offset.
struct Side {
  const void* data;  // [count, depth], rows `stride` numbers apart
  int64_t count, stride;
  const float* scale;     // [count]
  const int64_t* ids;     // pairs of equal ids are positive
  const int64_t* groups;  // other pairs of equal groups are hidden
  const float* offset;    // of hinges and margins
};

struct Problem {
  Side x, y;
  int64_t depth;
  Dtype dtype;
  float bias;
  const uint8_t* relevance;  // bool [rows, columns], or null: then the ids say what is positive
  int64_t relevance_stride;  // from row to row
  Kind kind;
  bool columns;  // whether the columns are reduced too
};

// What is left of one side, [count] each. Log-sum-exps are kept as a reference and a sum of powers below it until the
// end.
struct Totals {
  float *value, *positive;
  int64_t* count;
  float *sum, *positive_sum;
};

// Of one side: the forward's results (of logsumexp and mil), their gradients, and where to add gradients.
struct Slopes {
  const float *value, *positive, *grad_value, *grad_positive;  // [count]
  float* grad;                                                 // [count, depth rounded up to 16]; null: not wanted
  float* grad_scale;                                           // [count]
};

struct Gradients {
  Slopes rows, columns;
  float* bias;  // [rows]: each row's share
};

}  // namespace xmkern::contrastive
