// Matching of words and regions for DAMSM on the CPU: splits a call into tasks for the kernels.
// xmkern/ops/damsm/README.md has the formulas.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace xmkern::damsm {

// A tensor [item, row, column], its last axis dense; strides in elements.
struct Operand {
  void* data;
  int64_t item, row;
};

struct Problem {
  int64_t captions, images, words, regions, depth;
  Dtype dtype;
  float gamma1;
  Operand word, region;    // [caption, word, depth], [image, region, depth]
  const int64_t* lengths;  // [caption]: 0 to `words`
  float *cosine, *norm;    // [caption, image, word]; norms of contexts
};

struct Gradients {
  const float* cosine;  // given, [caption, image, word]
  Operand word, region;
};

void forward(const Problem& problem, int threads);
void backward(const Problem& problem, const Gradients& gradients, int threads);

}  // namespace xmkern::damsm
