// Stores past the caches, for kernel sources (see core/capability.h).
#pragma once

#include "core/halves.h"

namespace xmkern::XMKERN_CAPABILITY {

// A vector to where it is aligned, past the caches, into which the line would first be read.
template <Dtype dtype>
inline void stream_floats(void* data, Floats x) {
#if defined(__AVX512F__)
  if constexpr (dtype == Dtype::float32) {
    _mm512_stream_ps(static_cast<float*>(data), reinterpret_cast<__m512>(x));
  } else {
    __m256i halves;
    store_floats<dtype>(&halves, 0, x);
    _mm256_stream_si256(static_cast<__m256i*>(data), halves);
  }
#elif defined(__AVX2__)
  if constexpr (dtype == Dtype::float32) {
    _mm256_stream_ps(static_cast<float*>(data), reinterpret_cast<__m256>(x));
  } else {
    __m128i halves;
    store_floats<dtype>(&halves, 0, x);
    _mm_stream_si128(static_cast<__m128i*>(data), halves);
  }
#else
  store_floats<dtype>(data, 0, x);
#endif
}

}  // namespace xmkern::XMKERN_CAPABILITY
