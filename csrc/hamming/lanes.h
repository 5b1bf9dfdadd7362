// One vector register of 64-bit lanes, per instruction set: what Hamming search needs and no more.
#pragma once

#include <cstdint>

#if XMKERN_X86
#include <immintrin.h>
#endif

namespace xmkern::XMKERN_CAPABILITY {

#if defined(__AVX512BW__)

struct Lanes {
  static constexpr int width = 8;
  __m512i value;

  static Lanes load(const uint64_t* p) { return {_mm512_loadu_si512(p)}; }
  static Lanes all(uint64_t x) { return {_mm512_set1_epi64(static_cast<long long>(x))}; }
  void store(uint64_t* p) const { _mm512_storeu_si512(p, value); }
  friend Lanes operator^(Lanes a, Lanes b) { return {_mm512_xor_si512(a.value, b.value)}; }
  friend Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_epi64(a.value, b.value)}; }
  static Lanes min(Lanes a, Lanes b) { return {_mm512_min_epu64(a.value, b.value)}; }
  static bool any_less(Lanes a, Lanes b) { return _mm512_cmplt_epu64_mask(a.value, b.value) != 0; }
  static Lanes popcount(Lanes a) {
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

struct Lanes {
  static constexpr int width = 4;
  __m256i value;

  static Lanes load(const uint64_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Lanes all(uint64_t x) { return {_mm256_set1_epi64x(static_cast<long long>(x))}; }
  void store(uint64_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), value); }
  friend Lanes operator^(Lanes a, Lanes b) { return {_mm256_xor_si256(a.value, b.value)}; }
  friend Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_epi64(a.value, b.value)}; }
  // Distances are small: the 32-bit minimum of lanes whose upper halves are zero, or all ones, is the 64-bit one.
  static Lanes min(Lanes a, Lanes b) { return {_mm256_min_epu32(a.value, b.value)}; }
  static bool any_less(Lanes a, Lanes b) { return _mm256_movemask_epi8(_mm256_cmpgt_epi64(b.value, a.value)) != 0; }
  static Lanes popcount(Lanes a) {
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i lower = _mm256_shuffle_epi8(counts, _mm256_and_si256(a.value, low));
    const __m256i upper = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(a.value, 4), low));
    return {_mm256_sad_epu8(_mm256_add_epi8(lower, upper), _mm256_setzero_si256())};
  }
};

#else

struct Lanes {
  static constexpr int width = 1;
  uint64_t value;

  static Lanes load(const uint64_t* p) { return {*p}; }
  static Lanes all(uint64_t x) { return {x}; }
  void store(uint64_t* p) const { *p = value; }
  friend Lanes operator^(Lanes a, Lanes b) { return {a.value ^ b.value}; }
  friend Lanes operator+(Lanes a, Lanes b) { return {a.value + b.value}; }
  static Lanes min(Lanes a, Lanes b) { return a.value < b.value ? a : b; }
  static bool any_less(Lanes a, Lanes b) { return a.value < b.value; }
  static Lanes popcount(Lanes a) {
    // Summed in place; a processor without a popcount instruction has no faster way.
    uint64_t x = a.value;
    x -= (x >> 1) & 0x5555555555555555ull;
    x = (x & 0x3333333333333333ull) + ((x >> 2) & 0x3333333333333333ull);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0full;
    return {(x * 0x0101010101010101ull) >> 56};
  }
};

#endif

}  // namespace xmkern::XMKERN_CAPABILITY
