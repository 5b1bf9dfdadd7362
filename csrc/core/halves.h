// float16 and bfloat16 in memory, float32 in registers. For kernel sources (see core/capability.h).
#pragma once

#include "core/dtype.h"
#include "core/vector.h"

namespace xmkern::XMKERN_CAPABILITY {

// `lanes` 16-bit numbers in memory of any alignment, in the low halves of 32-bit lanes.
inline Words load_halves(const uint16_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Words x;
  for (int lane = 0; lane < lanes; ++lane) x[lane] = p[lane];
  return x;
#endif
}

inline void store_halves(uint16_t* p, Words x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(x)));
#elif defined(__AVX2__)
  const __m256i both = reinterpret_cast<__m256i>(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
#else
  for (int lane = 0; lane < lanes; ++lane) p[lane] = static_cast<uint16_t>(x[lane]);
#endif
}

inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

// bfloat16, rounded to the nearest, ties to even; NaN stays NaN.
inline uint16_t to_bfloat16(float x) {
  if (x != x) return 0x7fc0;
  const uint32_t bits = bits_of(x);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float from_float16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Exponents are 112 apart; multiplying by a power of two also sets subnormal numbers right.
  return float_of(sign | bits_of(float_of(rest << 13) * 0x1p112f));
}

inline uint16_t to_float16(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000;
  const float magnitude = float_of(bits & 0x7fffffff);
  if (x != x) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
  // Below 2^-14 all numbers are multiples of 2^-24: adding 1/2 rounds to them.
  if (magnitude < 0x1p-14f) return static_cast<uint16_t>(sign | (bits_of(magnitude + 0.5f) - bits_of(0.5f)));
  const uint32_t rounded = bits_of(magnitude) + 0xfff + ((bits >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112 << 10)));
}

// `lanes` numbers of type `dtype` from memory of any alignment.
template <Dtype dtype>
inline Floats load_floats(const void* data, int64_t i) {
  if constexpr (dtype == Dtype::float32) {
    return load(static_cast<const float*>(data) + i);
  } else {
    const auto* p = static_cast<const uint16_t*>(data) + i;
    if constexpr (dtype == Dtype::bfloat16) {
      return reinterpret_cast<Floats>(load_halves(p) << 16);
    } else {
#if defined(__AVX512F__)
      return reinterpret_cast<Floats>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
      return reinterpret_cast<Floats>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
      Floats x;
      for (int lane = 0; lane < lanes; ++lane) x[lane] = from_float16(p[lane]);
      return x;
#endif
    }
  }
}

template <Dtype dtype>
inline float load_float(const void* data, int64_t i) {
  if constexpr (dtype == Dtype::float32) return static_cast<const float*>(data)[i];
  const uint16_t half = static_cast<const uint16_t*>(data)[i];
  return dtype == Dtype::bfloat16 ? float_of(static_cast<uint32_t>(half) << 16) : from_float16(half);
}

// `count` numbers, fewer than there are lanes, and zeros.
template <Dtype dtype>
inline Floats load_some_floats(const void* data, int64_t i, int64_t count) {
#if defined(__AVX512F__)
  const auto there = static_cast<__mmask16>((1u << count) - 1);
  if constexpr (dtype == Dtype::float32) {
    return reinterpret_cast<Floats>(_mm512_maskz_loadu_ps(there, static_cast<const float*>(data) + i));
  } else {
    const __m256i halves = _mm256_maskz_loadu_epi16(there, static_cast<const uint16_t*>(data) + i);
    if constexpr (dtype == Dtype::float16) return reinterpret_cast<Floats>(_mm512_cvtph_ps(halves));
    return reinterpret_cast<Floats>(reinterpret_cast<Words>(_mm512_cvtepu16_epi32(halves)) << 16);
  }
#else
  Floats x{};
  for (int64_t lane = 0; lane < count; ++lane) x[lane] = load_float<dtype>(data, i + lane);
  return x;
#endif
}

// The bits of bfloat16 in the low halves of 32-bit lanes.
inline Words to_bfloat16(Floats x) {
  const Words bits = reinterpret_cast<Words>(x);
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return x == x ? rounded : splat(0x7fc0u);
}

template <Dtype dtype>
inline void store_floats(void* data, int64_t i, Floats x) {
  if constexpr (dtype == Dtype::float32) {
    store(static_cast<float*>(data) + i, x);
  } else {
    auto* p = static_cast<uint16_t*>(data) + i;
    if constexpr (dtype == Dtype::bfloat16) {
#if defined(__AVX512BF16__)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                          reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(x))));
#else
      store_halves(p, to_bfloat16(x));
#endif
    } else {
#if defined(__AVX512F__)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(reinterpret_cast<__m512>(x), 0));
#elif defined(__AVX2__)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(reinterpret_cast<__m256>(x), 0));
#else
      for (int lane = 0; lane < lanes; ++lane) p[lane] = to_float16(x[lane]);
#endif
    }
  }
}

template <Dtype dtype>
inline void store_float(void* data, int64_t i, float x) {
  if constexpr (dtype == Dtype::float32)
    static_cast<float*>(data)[i] = x;
  else
    static_cast<uint16_t*>(data)[i] = dtype == Dtype::bfloat16 ? to_bfloat16(x) : to_float16(x);
}

// As many of the first numbers of a vector, fewer than it has.
template <Dtype dtype>
inline void store_some_floats(void* data, int64_t i, Floats x, int64_t count) {
  for (int64_t lane = 0; lane < count; ++lane) store_float<dtype>(data, i + lane, x[lane]);
}

#if defined(__AVX512BF16__)
// The numbers of two vectors to bfloat16, one vector behind the other.
inline Words halves_of(Floats first, Floats last) {
  return reinterpret_cast<Words>(_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(last), reinterpret_cast<__m512>(first)));
}
#endif

template <Dtype dtype>
inline void store_row(void* out, const float* row, int64_t columns, float scale) {
  int64_t c = 0;
#if defined(__AVX512BF16__)
  if constexpr (dtype == Dtype::bfloat16)
    for (; c + 2 * lanes <= columns; c += 2 * lanes)
      _mm512_storeu_si512(static_cast<uint16_t*>(out) + c,
                          reinterpret_cast<__m512i>(halves_of(load(row + c) * scale, load(row + c + lanes) * scale)));
#endif
  for (; c + lanes <= columns; c += lanes) store_floats<dtype>(out, c, load(row + c) * scale);
  for (; c < columns; ++c) store_float<dtype>(out, c, row[c] * scale);
}

template <Dtype dtype>
struct DtypeConstant {
  static constexpr Dtype value = dtype;
};

// Calls f with the dtype as a compile-time constant.
template <class F>
inline void with_dtype(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float32:
      return f(DtypeConstant<Dtype::float32>{});
    case Dtype::bfloat16:
      return f(DtypeConstant<Dtype::bfloat16>{});
    case Dtype::float16:
      return f(DtypeConstant<Dtype::float16>{});
  }
}

}  // namespace xmkern::XMKERN_CAPABILITY
