// What the native tests share: random sizes and numbers, and numbers of any dtype in memory.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <random>

#include "core/dtype.h"

namespace xmkern {

inline std::mt19937_64 generator;

inline int64_t draw(int64_t from, int64_t to) { return std::uniform_int_distribution<int64_t>(from, to)(generator); }
inline bool coin() { return draw(0, 1) != 0; }
inline int64_t one_of(std::initializer_list<int64_t> values) {
  return values.begin()[draw(0, static_cast<int64_t>(values.size()) - 1)];
}

// Multiples of 1/64, which all dtypes have.
inline double draw_number() { return static_cast<double>(draw(-96, 96)) / 64; }

inline void write(void* data, Dtype dtype, int64_t at, double x) {
  if (dtype == Dtype::float32) {
    static_cast<float*>(data)[at] = static_cast<float>(x);
    return;
  }
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(x));
  const uint32_t half = x == 0 ? 0 : (bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10));
  static_cast<uint16_t*>(data)[at] = static_cast<uint16_t>(dtype == Dtype::bfloat16 ? bits >> 16 : half);
}

inline double read(const void* data, Dtype dtype, int64_t at) {
  if (dtype == Dtype::float32) return static_cast<const float*>(data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(data)[at];
  if (dtype == Dtype::bfloat16) return std::bit_cast<float>(uint32_t{bits} << 16);
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 31) return std::nan("");
  const double size = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
  return bits & 0x8000 ? -size : size;
}

inline double epsilon(Dtype dtype) {
  return dtype == Dtype::float32 ? 0x1p-23 : dtype == Dtype::bfloat16 ? 0x1p-7 : 0x1p-10;
}

}  // namespace xmkern
