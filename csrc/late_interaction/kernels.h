// What is compiled once per instruction set: scores of some samples against some, and their gradients.
#pragma once

#include "late_interaction/late_interaction.h"

namespace xmkern::late_interaction {

// The tokens of one side that are not hidden, listed sample by sample.
struct Tokens {
  const void* data;
  int64_t samples, tokens, sample_stride, token_stride;
  const int64_t* begin;   // [samples + 1]: where in the lists a sample begins
  const uint32_t* place;  // which token of its sample
  const int64_t* offset;  // where its numbers begin

  int64_t count(int64_t sample) const { return begin[sample + 1] - begin[sample]; }
};

struct Call {
  Dtype dtype;
  int64_t depth;
  bool mean;
  Tokens x, y;
  Scores x_out, y_out;
};

struct ForwardKernel {
  // Bytes for samples of x with this many tokens that are not hidden.
  int64_t (*workspace)(const Call&, int64_t samples, int64_t tokens);
  void (*run)(const Call&, int64_t x_begin, int64_t x_end, int64_t y_begin, int64_t y_end, void* workspace);
};

// The gradient of the side `own`. The scores are gradients; other's may be null.
struct Gradient {
  Dtype dtype;
  int64_t depth;
  bool mean;
  Tokens own, other;
  Scores own_scores, other_scores;
  int64_t own_stride, other_stride;  // from one pair to the next
  void* out;                         // dense
};

// Numbers of a token whose gradients are summed at a time.
inline constexpr int64_t slice = 256;

struct BackwardKernel {
  int64_t (*workspace)(const Gradient&, int64_t samples);
  // The numbers from `column` on, at most `slice`.
  void (*run)(const Gradient&, int64_t own_begin, int64_t own_end, int64_t column, void* workspace);
};

// Calls f with the winners as a pointer to what they are: which of `tokens` tokens.
template <class F>
inline void with_winners(void* winners, int64_t tokens, F&& f) {
  switch (winner_bytes(tokens)) {
    case 1:
      return f(static_cast<uint8_t*>(winners));
    case 2:
      return f(static_cast<int16_t*>(winners));
    default:
      return f(static_cast<int32_t*>(winners));
  }
}

}  // namespace xmkern::late_interaction
