// What is compiled once per instruction set: some rows of each problem. Rows in memory of a kernel's own are `padded`
// numbers apart, and so are the sums over rows, `sums`, to which the backwards add.
#pragma once

#include "epilogue/epilogue.h"

namespace xmkern::epilogue {

constexpr int64_t padded(int64_t columns) { return (columns + 63) / 64 * 64; }

// Rows of working memory.
inline constexpr int64_t norm_rows = 9, element_rows = 6;

struct NormKernel {
  void (*forward)(const AddNorm&, int64_t begin, int64_t end, float* memory);
  // The greatest absolute number of what goes into the inner norm, or of the sum.
  float (*peak)(const AddNorm&, bool of_sum, int64_t begin, int64_t end, float* memory);
  void (*backward)(const AddNorm&, const AddNormGradients&, int64_t begin, int64_t end, float* sums, float* memory);
};

struct ElementKernel {
  void (*gated_residual)(const GatedResidual&, int64_t begin, int64_t end, float* memory);
  void (*gated_residual_backward)(const GatedResidual&, const GatedResidualGradients&, int64_t begin, int64_t end,
                                  float* sums, float* memory);
  void (*bias_activation)(const BiasActivation&, int64_t begin, int64_t end, float* memory);
  void (*bias_activation_backward)(const BiasActivation&, const BiasActivationGradients&, int64_t begin, int64_t end,
                                   float* sums, float* memory);
  // The sum of `count` arrays of `size` numbers, `stride` from one to the next.
  void (*add)(const float* arrays, int64_t count, int64_t stride, int64_t size, float* out);
};

}  // namespace xmkern::epilogue
