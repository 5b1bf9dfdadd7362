// Gradients: each token adds to itself the tokens that it won, and what it won gets it added, times the gradient of the
// pair's score. A task owns some tokens and a slice of their numbers. Compiled once per instruction set (see
// core/capability.h): no standard-library code in here.
#include "core/product.h"
#include "late_interaction/kernels.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using late_interaction::Gradient;
using late_interaction::slice;
using late_interaction::Tokens;
using late_interaction::with_winners;

// Samples whose slices are read again and again, so that they stay in the second-level cache.
int64_t samples_a_chunk(const Tokens& tokens) {
  const int64_t fit = 1024 / (tokens.tokens < 1 ? 1 : tokens.tokens);
  return fit < 1 ? 1 : fit;
}

int64_t workspace(const Gradient& g, int64_t samples) {
  return 4 * slice * (samples * g.own.tokens + samples_a_chunk(g.other) * g.other.tokens);
}

template <Dtype dtype>
inline void load_slice(const void* data, int64_t at, int64_t width, float* out) {
  int64_t c = 0;
  for (; c + lanes <= width; c += lanes) store(out + c, load_floats<dtype>(data, at + c));
  if (c == slice) return;
  for (int64_t rest = c; rest < slice; rest += lanes) store(out + rest, Floats{});
  for (; c < width; ++c) out[c] = load_float<dtype>(data, at + c);
}

template <Dtype dtype>
inline void store_slice(void* data, int64_t at, int64_t width, const float* from) {
  int64_t c = 0;
  for (; c + lanes <= width; c += lanes) store_floats<dtype>(data, at + c, load(from + c));
  for (; c < width; ++c) store_float<dtype>(data, at + c, from[c]);
}

inline void add(float* to, Floats weight, const float* from) {
#pragma GCC unroll 16
  for (int64_t c = 0; c < slice; c += lanes) store(to + c, load(to + c) + weight * load(from + c));
}

// The gradient of a score as a weight of each of the tokens that it is the mean, or sum, of.
inline float weight_of(const Gradient& g, float grad, int64_t count) {
  return g.mean ? grad / static_cast<float>(count) : grad;
}

// Adds to the tokens of one sample what one of the other side gives them.
template <class OwnWinner, class OtherWinner>
void add_pair(const Gradient& g, int64_t own, int64_t other, const OwnWinner* own_winners,
              const OtherWinner* other_winners, float* sums, const float* others) {
  const int64_t pair = own * g.own_stride + other * g.other_stride;
  const int64_t own_count = g.own.count(own), other_count = g.other.count(other);
  if (own_count == 0 || other_count == 0) return;
  if (const float grad = g.own_scores.scores ? g.own_scores.scores[pair] : 0.0f; grad != 0.0f) {
    const Floats weight = splat(weight_of(g, grad, own_count));
    const OwnWinner* won = own_winners + pair * g.own.tokens;
    for (int64_t i = g.own.begin[own]; i < g.own.begin[own + 1]; ++i) {
      const int64_t token = g.own.place[i];
      add(sums + token * slice, weight, others + static_cast<int64_t>(won[token]) * slice);
    }
  }
  if (const float grad = g.other_scores.scores ? g.other_scores.scores[pair] : 0.0f; grad != 0.0f) {
    const Floats weight = splat(weight_of(g, grad, other_count));
    const OtherWinner* won = other_winners + pair * g.other.tokens;
    for (int64_t i = g.other.begin[other]; i < g.other.begin[other + 1]; ++i) {
      const int64_t token = g.other.place[i];
      add(sums + static_cast<int64_t>(won[token]) * slice, weight, others + token * slice);
    }
  }
}

template <Dtype dtype>
void run(const Gradient& g, int64_t own_begin, int64_t own_end, int64_t column, float* memory) {
  const int64_t width = g.depth - column < slice ? g.depth - column : slice;
  const int64_t own_tokens = (own_end - own_begin) * g.own.tokens;
  float *sums = memory, *others = memory + own_tokens * slice;
  for (int64_t i = 0; i < own_tokens * slice; i += lanes) store(sums + i, Floats{});
  const int64_t chunk = samples_a_chunk(g.other);
  for (int64_t begin = 0; begin < g.other.samples; begin += chunk) {
    const int64_t end = begin + chunk < g.other.samples ? begin + chunk : g.other.samples;
    for (int64_t other = begin; other < end; ++other)
      for (int64_t i = g.other.begin[other]; i < g.other.begin[other + 1]; ++i)
        load_slice<dtype>(g.other.data, g.other.offset[i] + column, width,
                          others + ((other - begin) * g.other.tokens + g.other.place[i]) * slice);
    with_winners(g.own_scores.winners, g.other.tokens, [&](const auto* own_winners) {
      with_winners(g.other_scores.winners, g.own.tokens, [&](const auto* other_winners) {
        for (int64_t own = own_begin; own < own_end; ++own)
          for (int64_t other = begin; other < end; ++other)
            add_pair(g, own, other, own_winners, other_winners, sums + (own - own_begin) * g.own.tokens * slice,
                     others + (other - begin) * g.other.tokens * slice);
      });
    });
  }
  for (int64_t own = own_begin; own < own_end; ++own)
    for (int64_t i = g.own.begin[own]; i < g.own.begin[own + 1]; ++i) {
      const int64_t token = own * g.own.tokens + g.own.place[i];
      store_slice<dtype>(g.out, token * g.depth + column, width, sums + (token - own_begin * g.own.tokens) * slice);
    }
}

void backward(const Gradient& g, int64_t own_begin, int64_t own_end, int64_t column, void* memory) {
  with_dtype(g.dtype, [&](auto type) {
    run<decltype(type)::value>(g, own_begin, own_end, column, static_cast<float*>(memory));
  });
}

}  // namespace

extern const late_interaction::BackwardKernel late_interaction_backward;
const late_interaction::BackwardKernel late_interaction_backward = {workspace, backward};

}  // namespace xmkern::XMKERN_CAPABILITY
