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
struct PhiloxState {
  Wide even[4], odd[4];
};

inline Wide lower(Words x) { return reinterpret_cast<Wide>(x); }
inline Wide upper(Words x) { return XMKERN_WIDE(srli_epi64)(reinterpret_cast<Wide>(x), 32); }
inline Wide everywhere(uint64_t x) { return Wide{} + static_cast<int64_t>(x); }
inline Wide product(Wide a, uint32_t b) { return XMKERN_WIDE(mul_epu32)(a, everywhere(b)); }
inline Wide high_of(Wide x) { return XMKERN_WIDE(srli_epi64)(x, 32); }

inline constexpr uint32_t philox_factors[2] = {0xD2511F53u, 0xCD9E8D57u};

// The rounds `from` to 10.
template <int count, int from>
inline void philox_rounds(PhiloxState (&states)[count], const PhiloxKeys& keys, Words out[count][4]) {
#pragma GCC unroll 10
  for (int round = from; round < 10; ++round) {
    const Wide key0 = everywhere(keys.words[round][0]), key1 = everywhere(keys.words[round][1]);
#pragma GCC unroll 4
    for (int i = 0; i < 2 * count; ++i) {
      Wide* c = i % 2 ? states[i / 2].odd : states[i / 2].even;
      const Wide p = product(c[0], philox_factors[0]), q = product(c[2], philox_factors[1]);
      c[0] = high_of(q) ^ c[1] ^ key0, c[1] = q;
      c[2] = high_of(p) ^ c[3] ^ key1, c[3] = p;
    }
  }
  const Wide low = everywhere(0xffffffffu);
  for (int i = 0; i < count; ++i)
    for (int w = 0; w < 4; ++w)
      out[i][w] = reinterpret_cast<Words>((states[i].even[w] & low) | XMKERN_WIDE(slli_epi64)(states[i].odd[w], 32));
}

template <int count>
inline void philox(Words counters[count][4], const PhiloxKeys& keys) {
  PhiloxState states[count];
  for (int i = 0; i < count; ++i)
    for (int w = 0; w < 4; ++w) states[i].even[w] = lower(counters[i][w]), states[i].odd[w] = upper(counters[i][w]);
  philox_rounds<count, 0>(states, keys, counters);
}

// The same for the counters (tile, tile >> 32, 0, last): until the third round half of their words have no lanes.
template <int count>
inline void philox(const uint64_t (&tiles)[count], const Words (&last)[count], const PhiloxKeys& keys,
                   Words out[count][4]) {
  const auto& key = keys.words;
  PhiloxState states[count];
  for (int i = 0; i < count; ++i) {
    const uint64_t p1 = (tiles[i] & 0xffffffffu) * philox_factors[0];
    const uint64_t p2 = (tiles[i] >> 32 ^ key[0][0]) * philox_factors[0];
    const uint64_t q3 = ((p2 >> 32 ^ p1 ^ key[1][1]) & 0xffffffffu) * philox_factors[1];
    const Wide mixed = everywhere(p1 >> 32 ^ key[0][1]), key0 = everywhere(key[1][0]);
    const Wide next0 = everywhere(q3 >> 32 ^ key[2][0]), next2 = everywhere(p2 ^ key[2][1]);
    for (int half = 0; half < 2; ++half) {
      Wide* c = half ? states[i].odd : states[i].even;
      const Wide q2 = product((half ? upper(last[i]) : lower(last[i])) ^ mixed, philox_factors[1]);
      const Wide p3 = product(high_of(q2) ^ key0, philox_factors[0]);
      c[0] = q2 ^ next0, c[1] = everywhere(q3), c[2] = high_of(p3) ^ next2, c[3] = p3;
    }
  }
  philox_rounds<count, 3>(states, keys, out);
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
template <int count>
inline void philox(const uint64_t (&tiles)[count], const Words (&last)[count], const PhiloxKeys& keys,
                   Words out[count][4]) {
  for (int i = 0; i < count; ++i) {
    out[i][0] = splat(static_cast<uint32_t>(tiles[i])), out[i][1] = splat(static_cast<uint32_t>(tiles[i] >> 32));
    out[i][2] = Words{}, out[i][3] = last[i];
  }
  philox<count>(out, keys);
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
