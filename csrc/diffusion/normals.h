// Normal numbers of Philox4x32-10: xmkern/ops/diffusion/normals.py says how, to the last bit. Products and sums are
// rounded one by one, so sources that include this are compiled with -ffp-contract=off.
#pragma once

#include "core/philox.h"
#include "core/vector.h"

namespace xmkern::XMKERN_CAPABILITY {

inline constexpr int64_t normal_tile = 64;

// x where the word has the second lowest bit, else other.
inline Floats where_second(Words word, Floats x, Floats other) {
#if defined(__AVX512F__)
  const auto bits = _mm512_test_epi32_mask(reinterpret_cast<__m512i>(word), _mm512_set1_epi32(2));
  return reinterpret_cast<Floats>(
      _mm512_mask_mov_ps(reinterpret_cast<__m512>(other), bits, reinterpret_cast<__m512>(x)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_blendv_ps(reinterpret_cast<__m256>(other), reinterpret_cast<__m256>(x),
                                                   reinterpret_cast<__m256>(word << 30)));
#else
  return (word & 2) != 0 ? x : other;
#endif
}

template <int count>
inline Floats polynomial(const float (&coefficients)[count], Floats x) {
  Floats total = splat(coefficients[count - 1]);
#pragma GCC unroll 8
  for (int i = count - 2; i >= 0; --i) total = total * x + coefficients[i];
  return total;
}

struct Normals {
  Floats first, second;
};

inline Normals box_muller(Words a, Words b) {
  constexpr float log_terms[] = {-1.9999998807907104f, 1.0000072717666626f,   -0.6667011976242065f,
                                 0.4993981719017029f,  -0.39800330996513367f, 0.34501659870147705f,
                                 -0.3244515657424927f, 0.2021378129720688f};
  constexpr float sine_terms[] = {1.5707963705062866f, -0.6459634900093079f, 0.07968003302812576f,
                                  -0.00460165785625577f};
  constexpr float cosine_terms[] = {0.9999999403953552f, -1.233696699142456f, 0.25359493494033813f,
                                    -0.02039858140051365f};
  const Floats shifted = __builtin_convertvector(reinterpret_cast<Ints>(a & 0x7fffffffu), Floats) + 0.5f;
  const Ints bits = reinterpret_cast<Ints>(shifted) - (31 << 23);
  const Ints exponent = (bits - 0x3f3504f3) >> 23;  // of sqrt(1/2)
  Floats x = reinterpret_cast<Floats>(bits - (exponent << 23)) - 1.0f;
  const Floats whole = __builtin_convertvector(exponent, Floats) * -1.3862943649291992f;
  const Floats radius = root(x * polynomial(log_terms, x) + whole);

  x = reinterpret_cast<Floats>((b >> 9) | 0x3f800000u) - 1.5f;
  const Floats square = x * x, sine = x * polynomial(sine_terms, square);
  const Words turned = reinterpret_cast<Words>(polynomial(cosine_terms, square)) ^ (a & 0x80000000u);
  const Floats cosine = reinterpret_cast<Floats>(turned);
  return {radius * where_second(b, sine, cosine), radius * where_second(b, cosine, sine)};
}

// Tiles first to last of the sequence, `normal_tile` numbers each.
inline void draw_tiles(uint64_t seed, uint64_t first, uint64_t last, float* out) {
  const PhiloxKeys keys(seed);
  Words lane;
  for (int i = 0; i < lanes; ++i) lane[i] = static_cast<uint32_t>(i);
  // A part of a tile is what has a lane for each counter.
  constexpr uint64_t parts = 16 / lanes;
  const auto draw = [&]<int count>(uint64_t part, float* const(&to)[count]) {
    uint64_t tiles[count];
    Words last[count], words[count][4];
    for (int i = 0; i < count; ++i) {
      const uint64_t own = part + static_cast<uint64_t>(i);
      tiles[i] = own / parts, last[i] = lane + static_cast<uint32_t>(own % parts * lanes);
    }
    philox<count>(tiles, last, keys, words);
    for (int i = 0; i < count; ++i)
      for (int w = 0; w < 4; w += 2) {
        const Normals two = box_muller(words[i][w], words[i][w + 1]);
        store(to[i] + 16 * w, two.first), store(to[i] + 16 * w + 16, two.second);
      }
  };
  const uint64_t end = (last - first) * parts;
  const auto place = [&](uint64_t part) { return out + part / parts * normal_tile + part % parts * lanes; };
  uint64_t part = 0;
  for (; part + 2 <= end; part += 2) draw(first * parts + part, {place(part), place(part + 1)});
  if (part < end) draw(first * parts + part, {place(part)});
}

}  // namespace xmkern::XMKERN_CAPABILITY
