// Large products of float32 matrices on the CPU: a linear layer's output and gradients.
#pragma once

#include <stdint.h>

namespace xmkern::linear {

// Its rows lie `stride` numbers apart and are dense; or, transposed, its columns do and are.
struct Matrix {
  const float* data;
  int64_t stride;
  bool transposed;
};

// out[i][j] = bias[j] + sum over k of left[i][k] right[j][k]
struct Product {
  int64_t rows, columns, depth;  // each at least 1
  Matrix left;                   // [rows, depth]
  Matrix right;                  // [columns, depth]
  const float* bias;             // [columns], or null
  float* out;                    // [rows, columns], dense
};

void multiply(const Product& product, int threads);

}  // namespace xmkern::linear
