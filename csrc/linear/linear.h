// Large products of matrices on the CPU, summed in float32: a linear layer's output and gradients.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace xmkern::linear {

// Its rows lie `stride` numbers apart and are dense; or, transposed, its columns do and are.
struct Matrix {
  const void* data;
  int64_t stride;
  bool transposed;
};

// out[i][j] = bias[j] + sum over k of left[i][k] right[j][k]
struct Product {
  Dtype dtype;                   // of all four
  int64_t rows, columns, depth;  // each at least 1
  Matrix left;                   // [rows, depth]
  Matrix right;                  // [columns, depth]
  const void* bias;              // [columns], or null
  void* out;                     // [rows, columns], dense
};

void multiply(const Product& product, int threads);

}  // namespace xmkern::linear
