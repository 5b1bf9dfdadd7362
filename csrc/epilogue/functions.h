// Activations and their slopes. For kernel sources (see core/capability.h).
#pragma once

#include "core/vector.h"
#include "epilogue/kernels.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using epilogue::Activation;

struct Curve {
  Floats value, slope;
};

// 1 / x to about a unit in the last place, for what is neither tiny nor huge.
inline Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
  const auto guess = reinterpret_cast<Floats>(_mm512_rcp14_ps(reinterpret_cast<__m512>(x)));
  return guess * (2.0f - x * guess);
#elif defined(__AVX2__)
  const auto guess = reinterpret_cast<Floats>(_mm256_rcp_ps(reinterpret_cast<__m256>(x)));
  return guess * (2.0f - x * guess);
#else
  return 1.0f / x;
#endif
}

inline Floats magnitude(Floats x) { return reinterpret_cast<Floats>(reinterpret_cast<Words>(x) & 0x7fffffffu); }

struct Sigmoid {
  Floats share, rest;  // 1 / (1 + 2^-x), and 1 less that
};

inline Sigmoid sigmoid2(Floats x) {
  const Floats power = exp2(x < -100.0f ? splat(100.0f) : -x), share = reciprocal(1.0f + power);
  return {share, power * share};
}

struct Normal {
  Floats cdf, power;  // power: exp(-x^2 / 2)
};

// The tail of the normal distribution beyond a = |x| is exp(-a^2 / 2) times a slow function of a, here a polynomial of
// 1 / (1 + 0.305 a) that is within 1e-7 of it, relatively, as long as the power is not 0: so are small cdfs.
inline Normal normal(Floats x) {
  const Floats power = exp2(x * x * (-0.5f * log2_e));
  const Floats a = magnitude(x);
  const Floats t = reciprocal(1.0f + 0.305f * (a > 14.0f ? splat(14.0f) : a));
  Floats p = splat(3.669908643e-2f);
  p = p * t - 1.529878974e-1f;
  p = p * t + 1.857162267e-1f;
  p = p * t - 3.797621280e-2f;
  p = p * t + 1.210213527e-1f;
  p = p * t + 1.034209728e-1f;
  p = p * t + 1.224668026e-1f;
  p = p * t + 1.216397360e-1f;
  const Floats tail = p * t * power;
  return {x > 0.0f ? 1.0f - tail : tail, power};
}

// x times the sigmoid of z, whose slope is dz. Beyond 100 the sigmoid no longer falls, and a large x would show that.
template <bool sloped>
inline Curve by_sigmoid(Floats x, Floats z, Floats dz) {
  const Floats power = z * log2_e;
  const Sigmoid s = sigmoid2(power);
  const Floats share = power < -100.0f ? Floats{} : s.share, y = x * share;
  if constexpr (!sloped) return {y, Floats{}};
  return {y, share + (magnitude(power) > 100.0f ? Floats{} : y * s.rest * dz)};
}

// x times the normal distribution's cdf of x for results of half precision, in two thirds of the time: 1/2 and an odd
// quotient of polynomials that has the least absolute error, 1e-8, up to 5.6; beyond that, to as much, x or 0.
inline Floats rough_gelu(Floats x) {
  const Floats square = x > 5.6f ? splat(5.6f * 5.6f) : x * x;
  Floats p = splat(2.214531147e-8f), q = splat(1.180212315e-6f);
  p = p * square + 6.356536882e-6f, q = q * square + 7.510203860e-5f;
  p = p * square + 1.738510408e-4f, q = q * square + 1.912979882e-3f;
  p = p * square + 4.707261254e-3f, q = q * square + 2.894010356e-2f;
  p = p * square + 3.437613375e-2f, q = q * square + 2.528339019e-1f;
  p = p * square + 3.989422216e-1f, q = q * square + 1.0f;
  const Floats a = x > 5.6f ? splat(5.6f) : x;
  return x < -5.6f ? Floats{} : x * (0.5f + a * p * reciprocal(q));
}

template <Activation activation, bool sloped, bool rough = false>
inline Curve curve(Floats x) {
  switch (activation) {
    case Activation::gelu: {
      if constexpr (!sloped && rough) return {rough_gelu(x), Floats{}};
      const Normal n = normal(x);
      return {x * n.cdf, n.cdf + x * n.power * 0.39894228040143267794f};
    }
    case Activation::gelu_tanh: {
      constexpr float slope = 1.59576912160573071176f, cubic = 0.044715f * slope;  // slope: 2 sqrt(2 / pi)
      const Floats square = x * x;
      return by_sigmoid<sloped>(x, x * (slope + cubic * square), slope + 3.0f * cubic * square);
    }
    case Activation::quick_gelu:
      return by_sigmoid<sloped>(x, x * 1.702f, splat(1.702f));
    case Activation::relu:
      return {x > 0.0f ? x : (x == x ? Floats{} : x), x > 0.0f ? splat(1.0f) : Floats{}};
    case Activation::silu:
      return by_sigmoid<sloped>(x, x, splat(1.0f));
  }
}

template <Activation activation>
struct ActivationConstant {
  static constexpr Activation value = activation;
};

template <class F>
inline void with_activation(Activation activation, F&& f) {
  switch (activation) {
    case Activation::gelu:
      return f(ActivationConstant<Activation::gelu>{});
    case Activation::gelu_tanh:
      return f(ActivationConstant<Activation::gelu_tanh>{});
    case Activation::quick_gelu:
      return f(ActivationConstant<Activation::quick_gelu>{});
    case Activation::relu:
      return f(ActivationConstant<Activation::relu>{});
    case Activation::silu:
      return f(ActivationConstant<Activation::silu>{});
  }
}

// What a gate lets through.
inline Curve open(epilogue::Gate gate, Floats x) {
  if (gate == epilogue::Gate::tanh) {
    // Of 1 - y^2 little is left where the gate is wide open: 1 - |y| is e^-2|x| (1 + |y|), and tanh has that power.
    const Floats y = tanh(x), more = 1.0f + magnitude(y);
    return {y, exp2(magnitude(x) * (-2.0f * log2_e)) * more * more};
  }
  if (gate == epilogue::Gate::sigmoid) {
    const Sigmoid s = sigmoid2(x * log2_e);
    return {s.share, s.share * s.rest};
  }
  return {x, splat(1.0f)};
}

}  // namespace
}  // namespace xmkern::XMKERN_CAPABILITY
