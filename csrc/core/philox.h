// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), for kernel sources.
#pragma once

#include "core/vector.h"

namespace xmkern::XMKERN_CAPABILITY {

struct Product64 {
  Words high, low;
};

inline Product64 multiply(Words a, uint32_t b) {
#if defined(__AVX512F__)
  const __m512i x = reinterpret_cast<__m512i>(a), y = _mm512_set1_epi32(static_cast<int>(b));
  const __m512i even = _mm512_mul_epu32(x, y), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), y);
  return {reinterpret_cast<Words>(_mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd)),
          reinterpret_cast<Words>(_mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32)))};
#elif defined(__AVX2__)
  const __m256i x = reinterpret_cast<__m256i>(a), y = _mm256_set1_epi32(static_cast<int>(b));
  const __m256i even = _mm256_mul_epu32(x, y), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), y);
  return {reinterpret_cast<Words>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)),
          reinterpret_cast<Words>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa))};
#else
  Words high, low;
  for (int i = 0; i < lanes; ++i) {
    const uint64_t product = static_cast<uint64_t>(a[i]) * b;
    high[i] = static_cast<uint32_t>(product >> 32), low[i] = static_cast<uint32_t>(product);
  }
  return {high, low};
#endif
}

// Four random words for each lane's counter; the counter is overwritten.
inline void philox(Words counter[4], uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const Product64 p = multiply(counter[0], 0xD2511F53u), q = multiply(counter[2], 0xCD9E8D57u);
    const Words next0 = q.high ^ counter[1] ^ splat(k0), next2 = p.high ^ counter[3] ^ splat(k1);
    counter[0] = next0, counter[1] = q.low, counter[2] = next2, counter[3] = p.low;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
}

// Which of 64 neighbouring elements of a row are kept: those whose random word is at least `threshold`. The words are
// keyed by the element's own place: `tile` is its column / 64, `row` its row, `matrix` the number of its matrix.
// Sixteen neighbours take the same word of sixteen counters, so that nothing has to be shuffled.
inline uint64_t kept_word(uint64_t seed, uint32_t threshold, uint64_t matrix, uint32_t row, uint32_t tile) {
  uint64_t bits = 0;
  Words lane;
  for (int i = 0; i < lanes; ++i) lane[i] = static_cast<uint32_t>(i);
  for (int part = 0; part < 16; part += lanes) {
    Words counter[4] = {lane + (tile * 16 + static_cast<uint32_t>(part)), splat(row),
                        splat(static_cast<uint32_t>(matrix)), splat(static_cast<uint32_t>(matrix >> 32))};
    philox(counter, seed);
    for (int w = 0; w < 4; ++w)
      bits |= static_cast<uint64_t>(at_least(counter[w], splat(threshold))) << (16 * w + part);
  }
  return bits;
}

}  // namespace xmkern::XMKERN_CAPABILITY
