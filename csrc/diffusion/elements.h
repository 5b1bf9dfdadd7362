// What the kernels of a step share: loads and stores of a vector or what is left of one, the noise of a stretch of
// elements, and x, m and x0 of one vector.
#pragma once

#include "core/stream.h"
#include "diffusion/kernels.h"
#include "diffusion/normals.h"

namespace xmkern::XMKERN_CAPABILITY {

using diffusion::Noise;
using diffusion::Operand;
using diffusion::Statistics;
using diffusion::Step;
using diffusion::Variance;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// `count` elements, the other lanes zero.
template <Dtype dtype>
inline Floats load_some(const void* data, int64_t i, int64_t count) {
  if (count == lanes) return load_floats<dtype>(data, i);
  Floats x{};
  for (int64_t lane = 0; lane < least(count, lanes); ++lane) x[lane] = load_float<dtype>(data, i + lane);
  return x;
}

// `stream`: past the caches, where the place is aligned.
template <Dtype dtype>
inline void store_some(void* data, int64_t i, Floats x, int64_t count, bool stream = false) {
  if (count == lanes && stream) return stream_floats<dtype>(static_cast<char*>(data) + i * size_of(dtype), x);
  if (count == lanes) return store_floats<dtype>(data, i, x);
  for (int64_t lane = 0; lane < count; ++lane) store_float<dtype>(data, i + lane, x[lane]);
}

template <Dtype dtype>
inline bool aligned(const void* data, int64_t i) {
  return (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(i * size_of(dtype))) % (lanes * size_of(dtype)) ==
         0;
}

// Calls body(i, count) for each vector of `count` elements: with a constant but for the last.
template <class Body>
[[gnu::always_inline]] inline void each_vector(int64_t size, Body&& body) {
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) body(i, int64_t{lanes});
  if (i < size) body(i, size - i);
}

// A stretch of elements is so long that what is drawn for it stays in the nearest cache, and ends with a tile of
// numbers.
inline constexpr int64_t stretch = 512;

inline int64_t stretch_from(const Noise& noise, int64_t element) {
  return stretch - static_cast<int64_t>((noise.offset + static_cast<uint64_t>(element)) % normal_tile);
}

// The noise of elements `begin` on of sample `b`, as float32.
struct Drawn {
  alignas(64) float numbers[stretch + normal_tile];

  template <Dtype dtype>
  const float* get(const Noise& noise, int64_t elements, int64_t b, int64_t begin, int64_t count) {
    if (noise.drawn) {
      const uint64_t from = noise.offset + static_cast<uint64_t>(b * elements + begin);
      const uint64_t to = from + static_cast<uint64_t>(count);
      draw_tiles(noise.seed, from / normal_tile, (to + normal_tile - 1) / normal_tile, numbers);
      return numbers + from % normal_tile;
    }
    const int64_t at = b * noise.given.stride + begin;
    if (noise.dtype == Dtype::float32) return static_cast<const float*>(noise.given.data) + at;
    each_vector(count, [&](int64_t i, int64_t n) {
      store(numbers + i, load_some<dtype>(noise.given.data, at + i, n));  // there is room for a whole vector
    });
    return numbers;
  }
};

inline bool noisy(const Noise& noise) { return noise.drawn || noise.given.data != nullptr; }

// The prediction of elements i on of sample b; `unguided`: there is one, and no other to guide it.
template <Dtype dtype, bool unguided = false>
[[gnu::always_inline]] inline Floats predicted(const Step& s, float guided, int64_t b, int64_t i, int64_t count) {
  if (!unguided && s.output.data == nullptr) return Floats{};
  const Floats m = load_some<dtype>(s.output.data, b * s.output.stride + i, count);
  if (unguided || s.conditional.data == nullptr) return m;
  const Floats c = load_some<dtype>(s.conditional.data, b * s.conditional.stride + i, count);
  return (m + s.guidance * (c - m)) * guided;
}

// x0 before it is clipped; what has no weight is left out, that its infinities have none either.
struct OriginalOf {
  float from_sample, from_output;
  bool sample_counts, output_counts;  // whether a weight is not 0, looked up faster

  explicit OriginalOf(const Step& s)
      : from_sample(s.from_sample),
        from_output(s.from_output),
        sample_counts(s.from_sample != 0),
        output_counts(s.from_output != 0) {}

  [[gnu::always_inline]] Floats operator()(Floats x, Floats m) const {
    Floats x0{};
    if (sample_counts) x0 = from_sample * x;
    if (output_counts) x0 = x0 + from_output * m;
    return x0;
  }
};

}  // namespace xmkern::XMKERN_CAPABILITY
