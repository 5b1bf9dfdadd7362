// What is compiled once per instruction set: some rows of each problem. Rows in memory of a kernel's own are `padded`
// numbers apart, and so are the sums over rows, `sums`, to which the backwards add.
#pragma once

#include "epilogue/epilogue.h"

namespace xmkern::epilogue {

// Not a power of two, which would put the same column of all rows in the same few lines of a cache.
constexpr int64_t padded(int64_t columns) { return columns / 64 * 64 + 128; }

// Rows of working memory.
inline constexpr int64_t norm_rows = 13, element_rows = 6;

struct NormKernel {
  // epsilons: of the inner and the outer norm.
  void (*forward)(const AddNorm&, const float* epsilons, int64_t begin, int64_t end, float* memory);
  // The greatest absolute number of what goes into the inner norm, or of the sum.
  float (*peak)(const AddNorm&, const float* epsilons, bool of_sum, int64_t begin, int64_t end, float* memory);
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
