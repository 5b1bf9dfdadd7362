// Normal numbers of Philox4x32-10: xmkern/ops/diffusion/normals.py says how, to the last bit. Products and sums are
// rounded one by one, so sources that include this are compiled with -ffp-contract=off.
#pragma once

#include "core/philox.h"
#include "core/vector.h"
#include "diffusion/diffusion.h"

namespace xmkern::XMKERN_CAPABILITY {

using diffusion::normal_tile;

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

// In step with each other, so that each hides the other's latencies.
template <int terms, int count>
inline void polynomial(const float (&coefficients)[terms], const Floats (&x)[count], Floats (&total)[count]) {
  for (int k = 0; k < count; ++k) total[k] = splat(coefficients[terms - 1]);
#pragma GCC unroll 8
  for (int i = terms - 2; i >= 0; --i)
#pragma GCC unroll 8
    for (int k = 0; k < count; ++k) total[k] = total[k] * x[k] + coefficients[i];
}

// Two numbers of each pair of words.
template <int count>
inline void box_muller(const Words (&a)[count], const Words (&b)[count], Floats (&first)[count],
                       Floats (&second)[count]) {
  constexpr float log_terms[] = {-1.9999998807907104f, 1.0000072717666626f,   -0.6667011976242065f,
                                 0.4993981719017029f,  -0.39800330996513367f, 0.34501659870147705f,
                                 -0.3244515657424927f, 0.2021378129720688f};
  constexpr float sine_terms[] = {1.5707963705062866f, -0.6459634900093079f, 0.07968003302812576f,
                                  -0.00460165785625577f};
  constexpr float cosine_terms[] = {0.9999999403953552f, -1.233696699142456f, 0.25359493494033813f,
                                    -0.02039858140051365f};
  Floats x[count], whole[count], radius[count], square[count], sine[count], cosine[count];
#pragma GCC unroll 8
  for (int k = 0; k < count; ++k) {
    const Floats shifted = __builtin_convertvector(reinterpret_cast<Ints>(a[k] & 0x7fffffffu), Floats) + 0.5f;
    const Ints bits = reinterpret_cast<Ints>(shifted) - (31 << 23);
    const Ints exponent = (bits - 0x3f3504f3) >> 23;  // of sqrt(1/2)
    x[k] = reinterpret_cast<Floats>(bits - (exponent << 23)) - 1.0f;
    whole[k] = __builtin_convertvector(exponent, Floats) * -1.3862943649291992f;
  }
  polynomial(log_terms, x, radius);
#pragma GCC unroll 8
  for (int k = 0; k < count; ++k) {
    radius[k] = root(x[k] * radius[k] + whole[k]);
    x[k] = reinterpret_cast<Floats>((b[k] >> 9) | 0x3f800000u) - 1.5f;
    square[k] = x[k] * x[k];
  }
  polynomial(sine_terms, square, sine);
  polynomial(cosine_terms, square, cosine);
#pragma GCC unroll 8
  for (int k = 0; k < count; ++k) {
    sine[k] = x[k] * sine[k];
    cosine[k] = reinterpret_cast<Floats>(reinterpret_cast<Words>(cosine[k]) ^ (a[k] & 0x80000000u));
    first[k] = radius[k] * where_second(b[k], sine[k], cosine[k]);
    second[k] = radius[k] * where_second(b[k], cosine[k], sine[k]);
  }
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
    Words a[2 * count], b[2 * count];
    Floats one[2 * count], two[2 * count];
    for (int k = 0; k < 2 * count; ++k) a[k] = words[k / 2][k % 2 * 2], b[k] = words[k / 2][k % 2 * 2 + 1];
    box_muller(a, b, one, two);
    for (int k = 0; k < 2 * count; ++k) {
      float* const at = to[k / 2] + k % 2 * 32;
      store(at, one[k]), store(at + 16, two[k]);
    }
  };
  const uint64_t end = (last - first) * parts;
  const auto place = [&](uint64_t part) { return out + part / parts * normal_tile + part % parts * lanes; };
  uint64_t part = 0;
  for (; part + 2 <= end; part += 2) draw(first * parts + part, {place(part), place(part + 1)});
  if (part < end) draw(first * parts + part, {place(part)});
}

}  // namespace xmkern::XMKERN_CAPABILITY
