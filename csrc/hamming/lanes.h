// One vector register of 64-bit lanes, per instruction set: what Hamming search needs and no more.
#pragma once

#include <cstdint>

#if XMKERN_X86
#include <immintrin.h>
#endif

namespace xmkern::XMKERN_CAPABILITY {

// ---- bit planes: one bit of each of 64 * plane_lanes codes ------------------------------------------------------

#if defined(__AVX512F__)
inline constexpr int plane_lanes = 8;
#elif defined(__AVX2__)
inline constexpr int plane_lanes = 4;
#else
inline constexpr int plane_lanes = 2;
#endif
typedef uint64_t Plane __attribute__((vector_size(8 * plane_lanes)));

// Every other lane of a, then of b: the even ones, the odd ones.
#if defined(__AVX512F__)
inline Plane even_lanes(Plane a, Plane b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
inline Plane odd_lanes(Plane a, Plane b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
#elif defined(__AVX2__)
inline Plane even_lanes(Plane a, Plane b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
inline Plane odd_lanes(Plane a, Plane b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
#else
inline Plane even_lanes(Plane a, Plane b) { return __builtin_shufflevector(a, b, 0, 2); }
inline Plane odd_lanes(Plane a, Plane b) { return __builtin_shufflevector(a, b, 1, 3); }
#endif

inline Plane majority(Plane a, Plane b, Plane c) {
#if defined(__AVX512F__)
  return (Plane)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0xe8);
#else
  return a ^ ((a ^ b) & (a ^ c));
#endif
}

// Full adder: returns the carry of a + b + c and leaves their parity in `sum`.
inline Plane add_bits(Plane a, Plane b, Plane c, Plane& sum) {
#if defined(__AVX512F__)
  const __m512i x = (__m512i)a, y = (__m512i)b, z = (__m512i)c;
  const __m512i differ = _mm512_xor_si512(x, y);
  sum = (Plane)_mm512_xor_si512(differ, z);
  return (Plane)_mm512_ternarylogic_epi64(differ, z, x, 0xca);
#else
  const Plane differ = a ^ b;
  sum = differ ^ c;
  return a ^ (differ & (a ^ c));
#endif
}

// ---- counts: the popcounts of a few codes, one 64-bit lane each --------------------------------------------------

#if defined(__AVX512BW__)

struct Counts {
  static constexpr int width = 8;
  __m512i value;

  static Counts load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  static Counts all(uint64_t x) { return {_mm512_set1_epi64(static_cast<long long>(x))}; }
  // Lanes q[0], q[1], ..., q[period - 1], q[0], ...
  static Counts repeat(const uint64_t* q, int period) {
    uint64_t lanes[width];
    for (int i = 0; i < width; ++i) lanes[i] = q[i % period];
    return {_mm512_loadu_si512(lanes)};
  }
  friend Counts operator^(Counts a, Counts b) { return {_mm512_xor_si512(a.value, b.value)}; }
  friend Counts operator+(Counts a, Counts b) { return {_mm512_add_epi64(a.value, b.value)}; }
  static Counts min(Counts a, Counts b) { return {_mm512_min_epu64(a.value, b.value)}; }
  static bool any_less(Counts a, Counts b) { return _mm512_cmplt_epu64_mask(a.value, b.value) != 0; }
  // The sums of neighbouring lanes of a and of b, in any order.
  static Counts pairs(Counts a, Counts b) {
    return {_mm512_add_epi64(_mm512_unpacklo_epi64(a.value, b.value), _mm512_unpackhi_epi64(a.value, b.value))};
  }
  // The sums of the two lanes of a code, where `pairs` has put them one half-register apart.
  static Counts halves(Counts a, Counts b) {
    return {
        _mm512_add_epi64(_mm512_shuffle_i64x2(a.value, b.value, 0x88), _mm512_shuffle_i64x2(a.value, b.value, 0xdd))};
  }
  uint64_t sum() const { return static_cast<uint64_t>(_mm512_reduce_add_epi64(value)); }
  static Counts popcount(Counts a) {
#if defined(__AVX512VPOPCNTDQ__)
    return {_mm512_popcnt_epi64(a.value)};
#else
    const __m512i counts = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i lower = _mm512_shuffle_epi8(counts, _mm512_and_si512(a.value, low));
    const __m512i upper = _mm512_shuffle_epi8(counts, _mm512_and_si512(_mm512_srli_epi16(a.value, 4), low));
    return {_mm512_sad_epu8(_mm512_add_epi8(lower, upper), _mm512_setzero_si512())};
#endif
  }
};

#elif defined(__AVX2__)

struct Counts {
  static constexpr int width = 4;
  __m256i value;

  static Counts load(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Counts all(uint64_t x) { return {_mm256_set1_epi64x(static_cast<long long>(x))}; }
  static Counts repeat(const uint64_t* q, int period) {
    uint64_t lanes[width];
    for (int i = 0; i < width; ++i) lanes[i] = q[i % period];
    return load(reinterpret_cast<const uint8_t*>(lanes));
  }
  friend Counts operator^(Counts a, Counts b) { return {_mm256_xor_si256(a.value, b.value)}; }
  friend Counts operator+(Counts a, Counts b) { return {_mm256_add_epi64(a.value, b.value)}; }
  // Lanes hold counts below 2^31, so the 32-bit minimum is the 64-bit one.
  static Counts min(Counts a, Counts b) { return {_mm256_min_epu32(a.value, b.value)}; }
  static bool any_less(Counts a, Counts b) { return _mm256_movemask_epi8(_mm256_cmpgt_epi64(b.value, a.value)) != 0; }
  static Counts pairs(Counts a, Counts b) {
    return {_mm256_add_epi64(_mm256_unpacklo_epi64(a.value, b.value), _mm256_unpackhi_epi64(a.value, b.value))};
  }
  static Counts halves(Counts a, Counts b) {
    return {_mm256_add_epi64(_mm256_permute2x128_si256(a.value, b.value, 0x20),
                             _mm256_permute2x128_si256(a.value, b.value, 0x31))};
  }
  uint64_t sum() const {
    const __m128i s = _mm_add_epi64(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
    return static_cast<uint64_t>(_mm_cvtsi128_si64(s) + _mm_extract_epi64(s, 1));
  }
  static Counts popcount(Counts a) {
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i lower = _mm256_shuffle_epi8(counts, _mm256_and_si256(a.value, low));
    const __m256i upper = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(a.value, 4), low));
    return {_mm256_sad_epu8(_mm256_add_epi8(lower, upper), _mm256_setzero_si256())};
  }
};

#endif

inline uint64_t word_at(const uint8_t* p) {
  uint64_t word;
  __builtin_memcpy(&word, p, 8);
  return word;
}

inline int32_t row_distance(const uint8_t* row, const uint64_t* query, int words) {
  int32_t sum = 0;
  for (int w = 0; w < words; ++w) sum += __builtin_popcountll(word_at(row + 8 * w) ^ query[w]);
  return sum;
}

}  // namespace xmkern::XMKERN_CAPABILITY
