// The instructions of AVX512_BF16 that kernels ask for, made of AVX-512's, so that a processor without them can test
// the kernels that have them: -DXMKERN_EMULATE_BF16=ON has this header included before all else. To a rounding the
// same, and slow.
#pragma once

#include <immintrin.h>

// Adds the products of the upper halves, then those of the lower ones.
static inline __m512 xmkern_dpbf16(__m512 sum, __m512bh a, __m512bh b) {
  const __m512i x = reinterpret_cast<__m512i>(a), y = reinterpret_cast<__m512i>(b);
  const auto upper = [](__m512i z) { return _mm512_castsi512_ps(_mm512_and_si512(z, _mm512_set1_epi32(-65536))); };
  const auto lower = [](__m512i z) { return _mm512_castsi512_ps(_mm512_slli_epi32(z, 16)); };
  return _mm512_fmadd_ps(lower(x), lower(y), _mm512_fmadd_ps(upper(x), upper(y), sum));
}

static inline __m256bh xmkern_cvtneps(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
  const __m512i rounded = _mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                                                _mm512_set1_epi32(0x7fc0));
  return reinterpret_cast<__m256bh>(_mm512_cvtepi32_epi16(rounded));
}

static inline __m512bh xmkern_cvtne2ps(__m512 last, __m512 first) {
  const auto low = reinterpret_cast<__m256i>(xmkern_cvtneps(first)),
             high = reinterpret_cast<__m256i>(xmkern_cvtneps(last));
  return reinterpret_cast<__m512bh>(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

#define _mm512_dpbf16_ps xmkern_dpbf16
#define _mm512_cvtneps_pbh xmkern_cvtneps
#define _mm512_cvtne2ps_pbh xmkern_cvtne2ps
#define __AVX512BF16__ 1
