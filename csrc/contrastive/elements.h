// Functions of a vector of logits. For kernel sources (see core/capability.h).
#pragma once

#include "contrastive/tile.h"

namespace xmkern::XMKERN_CAPABILITY {

inline Floats logits(const Problem& p, const Strip& strip, float row_scale, int64_t column, Floats products) {
  return load(strip.scale + column) * row_scale * products + p.bias;
}

// e^x for x <= 88; 0 far below.
inline Floats exponential(Floats x) { return exp2(x * log2_e); }

// Powers of all of a tile can be taken below one shift, and moved to the references of rows and columns by factors,
// where these references lie within this distance: what is lost then is less than 1e-11 of any sum.
inline constexpr float near = 60.0f;

// The range of references; those of rows and columns in which nothing is visible, -inf, don't matter.
struct Range {
  float low = infinity, high = -infinity;

  void add(float x) {
    if (x == -infinity) return;
    low = x < low ? x : low;
    high = x > high ? x : high;
  }
  bool narrow() const { return low <= high && high - low <= near; }
};

inline Floats magnitude(Floats x) { return reinterpret_cast<Floats>(reinterpret_cast<Words>(x) & 0x7fffffffu); }

// log(1 + e) for 0 <= e <= 1, by artanh: with s = e / (2 + e) <= 1/3, 2 s (1 + s^2 / 3 + s^4 / 5 + ...).
inline Floats log1p(Floats e) {
  const Floats s = e / (e + 2.0f), t = s * s;
  Floats series = t * (1.0f / 13) + 1.0f / 11;
  series = series * t + 1.0f / 9;
  series = series * t + 1.0f / 7;
  series = series * t + 1.0f / 5;
  series = series * t + 1.0f / 3;
  return s * 2.0f * (series * t + 1.0f);
}

// log(1 + e^x), of any x.
inline Floats softplus(Floats x) { return larger(Floats{}, x) + log1p(exponential(-magnitude(x))); }

inline Floats sigmoid(Floats x) {
  const Floats e = exponential(-magnitude(x));
  return (x < 0.0f ? e : splat(1.0f)) / (e + 1.0f);
}

}  // namespace xmkern::XMKERN_CAPABILITY
