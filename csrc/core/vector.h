// Vectors of float32 as wide as the instruction set has them, for kernel sources (see core/capability.h): arithmetic is
// the compiler's own on vector types; here is what it lacks.
#pragma once

#include <stdint.h>

#if XMKERN_X86
#include <immintrin.h>
#endif

namespace xmkern::XMKERN_CAPABILITY {

#if defined(__AVX512F__)
inline constexpr int lanes = 16;
#elif defined(__AVX2__)
inline constexpr int lanes = 8;
#else
inline constexpr int lanes = 4;
#endif

typedef float Floats __attribute__((vector_size(lanes * 4)));
typedef int32_t Ints __attribute__((vector_size(lanes * 4)));
typedef uint32_t Words __attribute__((vector_size(lanes * 4)));
// The same vectors in memory of any alignment.
typedef float LooseFloats __attribute__((vector_size(lanes * 4), aligned(4), may_alias));
typedef uint32_t LooseWords __attribute__((vector_size(lanes * 4), aligned(4), may_alias));

inline constexpr float infinity = __builtin_inff();
inline constexpr float log2_e = 1.44269504088896340736f;

inline Floats load(const float* p) { return *reinterpret_cast<const LooseFloats*>(p); }
inline void store(float* p, Floats x) { *reinterpret_cast<LooseFloats*>(p) = x; }
inline Words load(const uint32_t* p) { return *reinterpret_cast<const LooseWords*>(p); }
inline void store(uint32_t* p, Words x) { *reinterpret_cast<LooseWords*>(p) = x; }
// Half of one, for the last columns of a product.
typedef float HalfFloats __attribute__((vector_size(lanes * 2)));
typedef float LooseHalfFloats __attribute__((vector_size(lanes * 2), aligned(4), may_alias));

inline HalfFloats load_half(const float* p) { return *reinterpret_cast<const LooseHalfFloats*>(p); }
inline void store(float* p, HalfFloats x) { *reinterpret_cast<LooseHalfFloats*>(p) = x; }

inline Floats splat(float x) { return x - Floats{}; }
inline Words splat(uint32_t x) { return x + Words{}; }

// Its lower (0) or upper (1) half.
template <int Number>
inline HalfFloats half_of(Floats x) {
#if defined(__AVX512F__)
  return reinterpret_cast<HalfFloats>(_mm512_extractf32x8_ps(reinterpret_cast<__m512>(x), Number));
#elif defined(__AVX2__)
  return reinterpret_cast<HalfFloats>(_mm256_extractf128_ps(reinterpret_cast<__m256>(x), Number));
#else
  return HalfFloats{x[2 * Number], x[2 * Number + 1]};
#endif
}

// The lower half of one vector and the upper half of another.
inline Floats join(Floats lower, Floats upper) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(
      _mm512_mask_blend_ps(0xff00, reinterpret_cast<__m512>(lower), reinterpret_cast<__m512>(upper)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(
      _mm256_blend_ps(reinterpret_cast<__m256>(lower), reinterpret_cast<__m256>(upper), 0xf0));
#else
  return Floats{lower[0], lower[1], upper[2], upper[3]};
#endif
}
inline Words join(Words lower, Words upper) {
  return reinterpret_cast<Words>(join(reinterpret_cast<Floats>(lower), reinterpret_cast<Floats>(upper)));
}

// Half a vector in memory, in both halves.
inline Words load_half_twice(const uint32_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(_mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  return Words{p[0], p[1], p[0], p[1]};
#endif
}
inline Floats load_half_twice(const float* p) {
  return reinterpret_cast<Floats>(load_half_twice(reinterpret_cast<const uint32_t*>(p)));
}

// The larger of each pair; b where one is NaN.
inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}

// The smaller of each pair; b where one is NaN.
inline Floats smaller(Floats a, Floats b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_min_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a < b ? a : b;
#endif
}

// The square root, rounded exactly.
inline Floats root(Floats x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#elif XMKERN_X86
  return reinterpret_cast<Floats>(_mm_sqrt_ps(reinterpret_cast<__m128>(x)));
#else
  for (int i = 0; i < lanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// x where bit i of `bits` is set, `other` in the other lanes. The bits above the lanes are ignored.
inline Floats select(uint32_t bits, Floats x, Floats other) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(
      _mm512_mask_mov_ps(reinterpret_cast<__m512>(other), static_cast<__mmask16>(bits), reinterpret_cast<__m512>(x)));
#else
  Words lane;
  for (int i = 0; i < lanes; ++i) lane[i] = 1u << i;
  return (splat(bits) & lane) == lane ? x : other;
#endif
}

// Bit i is set where lane i of a is at least that of b, without sign.
inline uint32_t at_least(Words a, Words b) {
#if defined(__AVX512F__)
  return _mm512_cmpge_epu32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
#elif defined(__AVX2__)
  const auto flags = reinterpret_cast<__m256>(a >= b);
  return static_cast<uint32_t>(_mm256_movemask_ps(flags));
#else
  uint32_t bits = 0;
  for (int i = 0; i < lanes; ++i) bits |= static_cast<uint32_t>(a[i] >= b[i]) << i;
  return bits;
#endif
}

// Bit i is set where lane i of a is greater than that of b: not where one is NaN.
inline uint32_t greater(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_GT_OQ);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(a > b)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < lanes; ++i) bits |= static_cast<uint32_t>(a[i] > b[i]) << i;
  return bits;
#endif
}

#if defined(__AVX2__)
// Folds a vector onto its lower half, again and again, until one number is left.
template <class F>
inline float fold(Floats x, F&& join) {
#if defined(__AVX512F__)
  const __m512 wide = reinterpret_cast<__m512>(x);
  const __m256 half = join(_mm512_castps512_ps256(wide), _mm512_extractf32x8_ps(wide, 1));
#else
  const __m256 half = reinterpret_cast<__m256>(x);
#endif
  const __m256 quarter = join(half, _mm256_permute2f128_ps(half, half, 1));
  const __m256 two = join(quarter, _mm256_permute_ps(quarter, 0x4e));
  return _mm256_cvtss_f32(join(two, _mm256_permute_ps(two, 0xb1)));
}
#endif

// Sums over the lanes, by halves: the order is fixed.
inline float sum(Floats x) {
#if defined(__AVX2__)
  return fold(x, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
#else
  return x[0] + x[2] + (x[1] + x[3]);
#endif
}

// The sums over the lanes of four vectors.
inline void sum4(const Floats x[4], float out[4]) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const auto half = [](Floats y) {
    const __m512 wide = reinterpret_cast<__m512>(y);
    return _mm256_add_ps(_mm512_castps512_ps256(wide), _mm512_extractf32x8_ps(wide, 1));
  };
#else
  const auto half = [](Floats y) { return reinterpret_cast<__m256>(y); };
#endif
  const __m256 two = _mm256_hadd_ps(_mm256_hadd_ps(half(x[0]), half(x[1])), _mm256_hadd_ps(half(x[2]), half(x[3])));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
#else
  for (int i = 0; i < 4; ++i) out[i] = sum(x[i]);
#endif
}

// The largest lane of each of four vectors; NaNs may be passed over.
inline void largest4(const Floats x[4], float out[4]) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const auto half = [](Floats y) {
    const __m512 wide = reinterpret_cast<__m512>(y);
    return _mm256_max_ps(_mm512_castps512_ps256(wide), _mm512_extractf32x8_ps(wide, 1));
  };
#else
  const auto half = [](Floats y) { return reinterpret_cast<__m256>(y); };
#endif
  const __m256 a = half(x[0]), b = half(x[1]), c = half(x[2]), d = half(x[3]);
  const __m256 ab = _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  const __m256 cd = _mm256_max_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
  const __m256 all = _mm256_max_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(out, _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
  for (int i = 0; i < 4; ++i) {
    const float a = x[i][0] > x[i][1] ? x[i][0] : x[i][1], b = x[i][2] > x[i][3] ? x[i][2] : x[i][3];
    out[i] = a > b ? a : b;
  }
#endif
}

// The largest lane; NaNs may be passed over.
inline float largest(Floats x) {
#if defined(__AVX2__)
  return fold(x, [](__m256 a, __m256 b) { return _mm256_max_ps(a, b); });
#else
  const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
  return a > b ? a : b;
#endif
}

// 2^x for x <= 127, to 1.5 units in the last place; NaN for NaN; below -126 something less than 2^-126, below -126.5 it
// is 0. 2^x = 2^n 2^f with n whole and |f| <= 1/2; the polynomial has the least relative error on that interval.
inline Floats exp2(Floats x) {
#if defined(__AVX512F__)
  const __m512 wide = reinterpret_cast<__m512>(x);
  const __m512 whole = _mm512_roundscale_ps(wide, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Floats f = x - reinterpret_cast<Floats>(whole);
#else
  // Adding 1.5 * 2^23 rounds to a whole number, which is kept in the low bits; with 127 more these are the exponent of
  // 2^n, and 0, the number 0, where n is -127.
  const Floats magic = splat(12582912.0f + 127.0f);
  const Floats low = larger(splat(-127.0f), x);
  const Floats shifted = low + magic;
  const Floats f = low - (shifted - magic);
#endif
  Floats p = splat(1.534581201e-4f);
  p = p * f + 1.339993122e-3f;
  p = p * f + 9.618488957e-3f;
  p = p * f + 5.550328777e-2f;
  p = p * f + 2.402264689e-1f;
  p = p * f + 6.931472057e-1f;
  p = p * f + 1.0f;
#if defined(__AVX512F__)
  // "Not less than" is true for NaN too.
  const auto in_range = _mm512_cmp_ps_mask(wide, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return reinterpret_cast<Floats>(_mm512_maskz_scalef_ps(in_range, reinterpret_cast<__m512>(p), whole));
#else
  return p * reinterpret_cast<Floats>(reinterpret_cast<Words>(shifted) << 23);
#endif
}

// ln x for normal x, to a unit in the last place; NaN for NaN, and no number of interest below. x = m 2^n with n whole
// and m around 1; the polynomial is that of Cephes' logf.
inline Floats log(Floats x) {
  const Words bits = reinterpret_cast<Words>(x) - 0x3f3504f3u;  // of the root of 1/2
  const Ints exponent = reinterpret_cast<Ints>(bits) >> 23;
  const Floats m = reinterpret_cast<Floats>((bits & 0x7fffffu) + 0x3f3504f3u) - 1.0f,
               n = __builtin_convertvector(exponent, Floats), square = m * m;
  Floats p = splat(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  // ln 2 in two parts, the first short, so that its multiples are exact.
  const Floats near = m + (p * m * square - 0.5f * square - 2.12194440e-4f * n) + 0.693359375f * n;
  return x == x ? near : x;
}

// tanh x, to two units in the last place; NaN for NaN. Near 0 by the polynomial of Cephes' tanhf, for 1 - 2^x is too
// coarse there.
inline Floats tanh(Floats x) {
  const Floats magnitude = reinterpret_cast<Floats>(reinterpret_cast<Words>(x) & 0x7fffffffu);
  const Floats power = exp2(magnitude * (-2.0f * log2_e));
  const Floats far = (1.0f - power) / (1.0f + power);
  const Floats square = x * x;
  Floats p = splat(-5.70498872745e-3f);
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const Floats near = magnitude + magnitude * square * p;
  const Words sign = reinterpret_cast<Words>(x) & 0x80000000u;
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(magnitude < 0.625f ? near : far) | sign);
}

// Rows lane 0.. of a 4-column strip to columns: out[c] has column c of `lanes` rows that lie `stride` apart.
inline void transpose4(const uint32_t* in, int64_t stride, Words out[4]) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  using Wide = __m512i;
  const auto four = [&](int64_t row) {
    const auto at = [&](int64_t r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + r * stride)); };
    Wide x = _mm512_castsi128_si512(at(row));
    x = _mm512_inserti32x4(x, at(row + 4), 1);
    x = _mm512_inserti32x4(x, at(row + 8), 2);
    return _mm512_inserti32x4(x, at(row + 12), 3);
  };
  const auto low = [](Wide a, Wide b) { return _mm512_unpacklo_epi32(a, b); };
  const auto high = [](Wide a, Wide b) { return _mm512_unpackhi_epi32(a, b); };
  const auto low2 = [](Wide a, Wide b) { return _mm512_unpacklo_epi64(a, b); };
  const auto high2 = [](Wide a, Wide b) { return _mm512_unpackhi_epi64(a, b); };
#else
  using Wide = __m256i;
  const auto four = [&](int64_t row) {
    const auto at = [&](int64_t r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + r * stride)); };
    return _mm256_inserti128_si256(_mm256_castsi128_si256(at(row)), at(row + 4), 1);
  };
  const auto low = [](Wide a, Wide b) { return _mm256_unpacklo_epi32(a, b); };
  const auto high = [](Wide a, Wide b) { return _mm256_unpackhi_epi32(a, b); };
  const auto low2 = [](Wide a, Wide b) { return _mm256_unpacklo_epi64(a, b); };
  const auto high2 = [](Wide a, Wide b) { return _mm256_unpackhi_epi64(a, b); };
#endif
  const Wide r0 = four(0), r1 = four(1), r2 = four(2), r3 = four(3);
  const Wide a = low(r0, r1), b = low(r2, r3), c = high(r0, r1), d = high(r2, r3);
  out[0] = reinterpret_cast<Words>(low2(a, b));
  out[1] = reinterpret_cast<Words>(high2(a, b));
  out[2] = reinterpret_cast<Words>(low2(c, d));
  out[3] = reinterpret_cast<Words>(high2(c, d));
#else
  for (int c = 0; c < 4; ++c)
    for (int r = 0; r < lanes; ++r) out[c][r] = in[r * stride + c];
#endif
}

}  // namespace xmkern::XMKERN_CAPABILITY
