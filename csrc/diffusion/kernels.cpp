// Elementwise work of diffusion: one walk over memory, in stretches whose noise is drawn just before it is used.
// Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "diffusion/elements.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using diffusion::Noising;

// Calls body(b, i, count) for stretches of elements begin to end of all samples, never parts of two rows of `row`
// elements, and no longer than what has room for their noise if it has to be written somewhere.
template <class Body>
void each_stretch(const Noise& noise, int64_t elements, int64_t row, int64_t begin, int64_t end, Body&& body) {
  const int64_t most = noise.drawn || noise.dtype != Dtype::float32 ? stretch : row;
  for (int64_t at = begin; at < end;) {
    const int64_t b = at / elements, i = at % elements;
    int64_t count = least(least(end - at, row - i % row), most);
    if (noise.drawn) count = least(count, stretch_from(noise, at));
    body(b, i, count);
    at += count;
  }
}

// Whether a step is of one prediction, with noise of one deviation, and blends in nothing: most are.
bool is_plain(const Step& s) {
  return s.output.data != nullptr && s.conditional.data == nullptr && s.deviation == Variance::fixed &&
         s.mask.data == nullptr && s.churn == 0 && s.ratio < 0 && s.previous != nullptr;
}

// Whether results are written past the caches: none would hold so many bytes, and what they are made of, until they are
// read.
template <Dtype dtype>
bool streams(int64_t elements) {
  return elements * size_of(dtype) >= int64_t{6} << 20;
}

template <Dtype dtype, bool plain, bool has_noise, bool stream>
void step_stretch(const Step& all, const Statistics& own, int64_t b, int64_t begin, int64_t count, const float* noise) {
  const Step s = all;  // a copy of which the compiler knows that no store changes it
  const bool sample_counts = s.of_sample != 0, original_counts = s.of_original != 0, output_counts = s.of_output != 0;
  const bool noise_counts = s.of_noise != 0, churns = !plain && s.churn != 0, dynamic = !plain && s.ratio >= 0;
  const OriginalOf original_of(s);
  const float guided = own.guided, clip = own.clip;
  const Floats low = splat(-clip), high = splat(clip);
  const int64_t place = b * s.elements + begin, in_row = begin % s.row;
  each_vector(count, [&](int64_t i, int64_t n) {
    Floats x = load_some<dtype>(s.sample.data, b * s.sample.stride + begin + i, n);
    const Floats m = predicted<dtype, plain>(s, guided, b, begin + i, n);
    Floats z{};
    if constexpr (has_noise) {
      z = load_some<Dtype::float32>(noise, i, n);
      if (churns) x = x + s.churn * z;
    }
    Floats x0 = smaller(high, larger(low, original_of(x, m)));
    if (dynamic) x0 = x0 / high;
    if (s.original != nullptr) store_some<dtype>(s.original, place + i, x0, n, stream);
    if (!plain && s.previous == nullptr) return;

    Floats y{};
    if (sample_counts) y = s.of_sample * x;
    if (original_counts) y = y + s.of_original * x0;
    if (output_counts) y = y + s.of_output * m;
    for (int k = 0; k < 3 && s.history[k].data != nullptr; ++k)
      y = y + s.of_history[k] * load_some<dtype>(s.history[k].data, b * s.history[k].stride + begin + i, n);
    if (has_noise && noise_counts) {
      Floats w = s.of_noise * z;
      if (!plain && s.deviation != Variance::fixed) {
        const Floats v = load_some<dtype>(s.variance.data, b * s.variance.stride + begin + i, n);
        w = w *
            (s.deviation == Variance::learned ? root(v) : exp2(smaller(splat(127.0f), s.log2_low + s.log2_slope * v)));
      }
      y = y + w;
    }
    if (!plain && s.mask.data != nullptr) {
      const Floats mask = load_some<dtype>(s.mask.data, b * s.mask.stride + in_row + i, n);
      const Floats known = load_some<dtype>(s.known.data, b * s.known.stride + begin + i, n);
      y = mask * (s.of_known * known + s.known_noise * z) + (1.0f - mask) * y;
    }
    store_some<dtype>(s.previous, place + i, y, n, stream);
  });
}

template <Dtype dtype, bool plain>
void step_piece(const Step& s, const Statistics* of_samples, int64_t begin, int64_t end) {
  Drawn drawn;
  each_stretch(s.noise, s.elements, s.row, begin, end, [&](int64_t b, int64_t i, int64_t count) {
    const Statistics own = of_samples != nullptr ? of_samples[b] : Statistics{1.0f, s.clip};
    const int64_t place = b * s.elements + i;
    // Where a result takes the place of the sample its lines are in the cache already.
    const bool stream = streams<dtype>(s.samples * s.elements) && s.previous != s.sample.data &&
                        aligned<dtype>(s.previous, place) && aligned<dtype>(s.original, place);
    const auto run = [&]<bool has_noise>(const float* noise) {
      if (stream) return step_stretch<dtype, plain, has_noise, true>(s, own, b, i, count, noise);
      step_stretch<dtype, plain, has_noise, false>(s, own, b, i, count, noise);
    };
    if (noisy(s.noise))
      run.template operator()<true>(drawn.get<dtype>(s.noise, s.elements, b, i, count));
    else
      run.template operator()<false>(nullptr);
  });
}

void step(const Step& s, const Statistics* of_samples, int64_t begin, int64_t end) {
  with_dtype(s.dtype, [&](auto dtype) {
    if (is_plain(s))
      step_piece<dtype.value, true>(s, of_samples, begin, end);
    else
      step_piece<dtype.value, false>(s, of_samples, begin, end);
  });
}

void q_sample(const Noising& q, int64_t begin, int64_t end) {
  with_dtype(q.dtype, [&](auto dtype) {
    Drawn drawn;
    each_stretch(q.noise, q.elements, q.elements, begin, end, [&](int64_t b, int64_t start, int64_t count) {
      const float* noise = drawn.template get<dtype.value>(q.noise, q.elements, b, start, count);
      const float alpha = q.levels[2 * b], sigma = q.levels[2 * b + 1];
      const int64_t place = b * q.elements + start;
      const bool stream = streams<dtype.value>(q.samples * q.elements) && aligned<dtype.value>(q.noisy, place) &&
                          aligned<dtype.value>(q.velocity, place) && aligned<dtype.value>(q.drawn, place);
      each_vector(count, [&](int64_t i, int64_t n) {
        const Floats x = load_some<dtype.value>(q.sample.data, b * q.sample.stride + start + i, n);
        const Floats z = load_some<Dtype::float32>(noise, i, n);
        store_some<dtype.value>(q.noisy, place + i, alpha * x + sigma * z, n, stream);
        if (q.velocity != nullptr) store_some<dtype.value>(q.velocity, place + i, alpha * z - sigma * x, n, stream);
        if (q.drawn != nullptr) store_some<dtype.value>(q.drawn, place + i, z, n, stream);
      });
    });
  });
}

void normals(void* out, Dtype dtype, uint64_t seed, uint64_t offset, int64_t begin, int64_t end) {
  const Noise noise = {{nullptr, 0}, Dtype::float32, true, seed, offset};
  with_dtype(dtype, [&](auto known) {
    Drawn drawn;
    each_stretch(noise, end, end, begin, end, [&](int64_t, int64_t at, int64_t count) {
      const uint64_t from = offset + static_cast<uint64_t>(at);
      if (known.value == Dtype::float32 && from % normal_tile == 0 && count % normal_tile == 0) {
        const uint64_t tile = from / normal_tile, tiles = static_cast<uint64_t>(count) / normal_tile;
        return draw_tiles(seed, tile, tile + tiles, static_cast<float*>(out) + at);
      }
      const float* numbers = drawn.template get<known.value>(noise, 0, 0, at, count);
      each_vector(count, [&](int64_t i, int64_t n) {
        store_some<known.value>(out, at + i, load_some<Dtype::float32>(numbers, i, n), n);
      });
    });
  });
}

}  // namespace

extern const diffusion::Kernels diffusion_kernels;
const diffusion::Kernels diffusion_kernels = {step, q_sample, normals};

}  // namespace xmkern::XMKERN_CAPABILITY
