// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), for kernel sources.
#pragma once

#include "core/vector.h"

namespace xmkern::XMKERN_CAPABILITY {

// What the key becomes from round to round.
struct PhiloxKeys {
  uint64_t words[10][2];  // of 32 bits each

  explicit PhiloxKeys(uint64_t key) {
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (auto& round : words) {
      round[0] = k0, round[1] = k1;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
  }
};

// Four random words for each lane of each counter, which are overwritten. Several counters at once hide each other's
// latencies.
#if XMKERN_X86
#if defined(__AVX512F__)
using Wide = __m512i;
#define XMKERN_WIDE(operation) _mm512_##operation
#elif defined(__AVX2__)
using Wide = __m256i;
#define XMKERN_WIDE(operation) _mm256_##operation
#else
using Wide = __m128i;
#define XMKERN_WIDE(operation) _mm_##operation
#endif

// The even lanes and the odd ones are apart, in the lower halves of 64 bits, where products need no shuffling. What
// lies in the upper halves does not count.
template <int count>
inline void philox(Words counters[count][4], const PhiloxKeys& keys) {
  Wide halves[2 * count][4];
  for (int i = 0; i < count; ++i)
    for (int w = 0; w < 4; ++w) {
      halves[2 * i][w] = reinterpret_cast<Wide>(counters[i][w]);
      halves[2 * i + 1][w] = XMKERN_WIDE(srli_epi64)(halves[2 * i][w], 32);
    }
  const Wide factor0 = XMKERN_WIDE(set1_epi32)(static_cast<int>(0xD2511F53u));
  const Wide factor2 = XMKERN_WIDE(set1_epi32)(static_cast<int>(0xCD9E8D57u));
#pragma GCC unroll 10
  for (const auto& round : keys.words) {
    const Wide key0 = Wide{} + static_cast<int64_t>(round[0]), key1 = Wide{} + static_cast<int64_t>(round[1]);
#pragma GCC unroll 4
    for (auto& c : halves) {
      const Wide p = XMKERN_WIDE(mul_epu32)(c[0], factor0), q = XMKERN_WIDE(mul_epu32)(c[2], factor2);
      c[0] = XMKERN_WIDE(srli_epi64)(q, 32) ^ c[1] ^ key0, c[1] = q;
      c[2] = XMKERN_WIDE(srli_epi64)(p, 32) ^ c[3] ^ key1, c[3] = p;
    }
  }
  const Wide low = Wide{} + 0xffffffffll;
  for (int i = 0; i < count; ++i)
    for (int w = 0; w < 4; ++w)
      counters[i][w] =
          reinterpret_cast<Words>((halves[2 * i][w] & low) | XMKERN_WIDE(slli_epi64)(halves[2 * i + 1][w], 32));
}
#undef XMKERN_WIDE
#else
template <int count>
inline void philox(Words counters[count][4], const PhiloxKeys& keys) {
  for (int i = 0; i < count; ++i)
    for (int lane = 0; lane < lanes; ++lane)
      for (const auto& round : keys.words) {
        Words* c = counters[i];
        const uint64_t p = c[0][lane] * uint64_t{0xD2511F53u}, q = c[2][lane] * uint64_t{0xCD9E8D57u};
        const uint32_t c1 = c[1][lane], c3 = c[3][lane];
        c[0][lane] = static_cast<uint32_t>((q >> 32) ^ c1 ^ round[0]), c[1][lane] = static_cast<uint32_t>(q);
        c[2][lane] = static_cast<uint32_t>((p >> 32) ^ c3 ^ round[1]), c[3][lane] = static_cast<uint32_t>(p);
      }
}
#endif

// Which of 64 neighbouring elements of a row are kept: those whose random word is at least `threshold`. The words are
// keyed by the element's own place: `tile` is its column / 64, `row` its row, `matrix` the number of its matrix.
// Sixteen neighbours take the same word of sixteen counters, so that nothing has to be shuffled.
inline uint64_t kept_word(uint64_t seed, uint32_t threshold, uint64_t matrix, uint32_t row, uint32_t tile) {
  const PhiloxKeys keys(seed);
  uint64_t bits = 0;
  Words lane;
  for (int i = 0; i < lanes; ++i) lane[i] = static_cast<uint32_t>(i);
  for (int part = 0; part < 16; part += lanes) {
    Words counters[1][4] = {{lane + (tile * 16 + static_cast<uint32_t>(part)), splat(row),
                             splat(static_cast<uint32_t>(matrix)), splat(static_cast<uint32_t>(matrix >> 32))}};
    philox<1>(counters, keys);
    for (int w = 0; w < 4; ++w)
      bits |= static_cast<uint64_t>(at_least(counters[0][w], splat(threshold))) << (16 * w + part);
  }
  return bits;
}

}  // namespace xmkern::XMKERN_CAPABILITY
