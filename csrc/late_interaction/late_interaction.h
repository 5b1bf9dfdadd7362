// Late interaction on the CPU: for each pair of samples, the mean (or sum) over the tokens of one of the largest
// similarity to a token of the other.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace xmkern::late_interaction {

// Samples of tokens; strides count numbers, those of a token are dense.
struct Side {
  const void* data;
  int64_t samples, tokens, sample_stride, token_stride;
  const uint8_t* mask;  // [samples, tokens]: which tokens there are; null: all
};

struct Problem {
  Dtype dtype;
  int64_t depth;
  bool mean;
  Side x, y;
};

// Of the tokens of one side, for the pairs [x.samples, y.samples].
struct Scores {
  float* scores;  // [pairs]; null: not wanted
  void* winners;  // [pairs, tokens], zeros where there is nothing to win: which of the other's tokens
};

// Winners are unsigned 8, or signed 16 or 32 bits wide, as many as the number of the other's tokens asks for.
constexpr int winner_bytes(int64_t tokens) { return tokens <= 256 ? 1 : tokens <= 1 << 15 ? 2 : 4; }

void forward(const Problem& problem, const Scores& x, const Scores& y, int threads);

// From the gradients of the scores, in the place of those, to that of the numbers [samples, tokens, depth], dense; of
// hidden tokens it is not written. Null: the gradient of a side is not wanted.
void backward(const Problem& problem, const Scores& x, const Scores& y, void* grad_x, void* grad_y, int threads);

}  // namespace xmkern::late_interaction
