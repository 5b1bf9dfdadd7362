// The online softmax (Milakov & Gimelshein 2018), row by row. For kernel sources (see core/capability.h).
#pragma once

#include "attention/scores.h"

namespace xmkern::XMKERN_CAPABILITY {

// Of one row: the largest score so far, unscaled, and the sum of the powers below it.
struct Softmax {
  float most, total;
};

// Adds the biases to the scores of one row, hides what is masked, and returns the largest so far, unscaled, of the
// lanes.
inline Floats row_peak(const Problem& p, const TileGroup& group, int64_t batch, int64_t head, int64_t row_begin,
                       int64_t row, float* scores, float most_so_far) {
  if (p.biased) add_bias(p, group, batch, head, row_begin + row, scores);
  hide(group, row, scores);
  Floats most[2] = {splat(most_so_far), splat(most_so_far)};
  int64_t c = 0;
  for (; c + 2 * lanes <= group.columns; c += 2 * lanes)
    for (int i = 0; i < 2; ++i) most[i] = larger(load(scores + c + i * lanes), most[i]);
  if (c < group.columns) most[0] = larger(load(scores + c), most[0]);
  return larger(most[0], most[1]);
}

// Neighbouring vectors of numbers as units.
inline void store_units(float* out, int64_t column, Floats first, Floats last) {
  store(out + column, first), store(out + column + lanes, last);
}
#if defined(__AVX512BF16__)
inline void store_units(uint32_t* out, int64_t column, Floats first, Floats last) {
  store(out + column / 2, halves_of(first, last));
}
#endif

// Scores to powers of two below the peak, as units of `out`, which may be `scores`; returns the sums of the lanes.
template <class Unit>
inline Floats exponentiate(const float* scores, int64_t columns, float scale, float peak, Unit* out) {
  // The peak is taken off before scaling: it must come to 0, however large it is. Where nothing is visible yet, any
  // finite one gives powers of zero.
  const Floats shift = splat(peak == -infinity ? 0.0f : peak), factor = splat(scale);
  Floats total[2] = {};
  int64_t c = 0;
  for (; c + 2 * lanes <= columns; c += 2 * lanes) {
    Floats power[2];
    for (int i = 0; i < 2; ++i) {
      power[i] = exp2((load(scores + c + i * lanes) - shift) * factor);
      total[i] += power[i];
    }
    store_units(out, c, power[0], power[1]);
  }
  if (c < columns) {
    const Floats power = exp2((load(scores + c) - shift) * factor);
    total[0] += power;
    store_units(out, c, power);
  }
  return total[0] + total[1];
}

// Takes up the powers of a group; returns by what the sums so far must be multiplied.
inline float take_up(const Problem& p, float peak, float total, Softmax& state) {
  const bool same = state.most == peak || state.total == 0.0f;
  const float shift = peak == -infinity ? 0.0f : peak;
  const float kept = same ? 1.0f : exp2(splat((state.most - shift) * (pending_scale(p) * log2_e)))[0];
  state = {peak, state.total * kept + total};
  return kept;
}

// Scores of one row, whose peak is known, to powers as units, in place; dropout may have zeroed some. Returns the sums
// of the lanes, without dropout.
template <class Unit>
inline Floats softmax_row(const Problem& p, const TileGroup& group, int64_t batch, int64_t head, int64_t query,
                          float* scores, float peak) {
  auto* out = reinterpret_cast<Unit*>(scores);
  if (!p.dropout.threshold) return exponentiate(scores, group.columns, pending_scale(p) * log2_e, peak, out);
  const Floats total = exponentiate(scores, group.columns, pending_scale(p) * log2_e, peak, scores);
  drop(p, group, batch, head, query, scores);
  narrow(scores, group.columns, out);
  return total;
}

// The same of one row by itself; returns by what the sums so far must be multiplied.
template <class Unit>
inline float softmax_of_row(const Problem& p, const TileGroup& group, int64_t batch, int64_t head, int64_t row_begin,
                            int64_t row, float* scores, Softmax& state) {
  const float peak = largest(row_peak(p, group, batch, head, row_begin, row, scores, state.most));
  return take_up(p, peak, sum(softmax_row<Unit>(p, group, batch, head, row_begin + row, scores, peak)), state);
}

// Stores rows of the output, from the sums of values times powers, and their lse. Overwrites the sums of rows that saw
// nothing.
template <Dtype dtype>
inline void finish_rows(const Problem& p, int64_t batch, int64_t head, int64_t row_begin, int64_t rows,
                        const Softmax* states, float* sums) {
  float* lse = p.lse + (batch * p.heads + head) * p.queries + row_begin;
  const float scale = pending_scale(p);
  for (int64_t begin = 0; begin < rows; begin += lanes) {
    const int64_t count = lesser(lanes, rows - begin);
    float most[lanes] = {}, total[lanes] = {}, factor[lanes], log_total[lanes];
    for (int64_t i = 0; i < count; ++i) most[i] = states[begin + i].most, total[i] = states[begin + i].total;
    store(factor, p.dropout.kept_scale / load(total)), store(log_total, log(load(total)));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = begin + i;
      const bool blind = total[i] == 0.0f;
      if (blind)
        for (int64_t c = 0; c < p.value_depth; c += lanes) store(sums + row * stride + c, Floats{});
      store_row<dtype>(mutable_row_of(p.out, dtype, batch, head, row_begin + row), sums + row * stride, p.value_depth,
                       blind ? 0.0f : factor[i]);
      lse[row] = blind ? -infinity : most[i] == infinity ? infinity : most[i] * scale + log_total[i];
    }
  }
}

}  // namespace xmkern::XMKERN_CAPABILITY
