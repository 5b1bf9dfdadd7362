// Elementwise work of diffusion: one walk over memory, in stretches whose noise is drawn just before it is used.
// Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "diffusion/elements.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using diffusion::Noising;

// Calls body(b, i, count) for stretches of elements begin to end of all samples, none longer than `row`, of which
// stretches are never parts of two.
template <class Body>
void each_stretch(const Noise& noise, int64_t elements, int64_t row, int64_t begin, int64_t end, Body&& body) {
  for (int64_t at = begin; at < end;) {
    const int64_t b = at / elements, i = at % elements;
    int64_t count = least(least(end - at, row - i % row), stretch);
    if (noise.drawn) count = least(count, stretch_from(noise, at));
    body(b, i, count);
    at += count;
  }
}

template <Dtype dtype, bool has_noise>
void step_stretch(const Step& s, const Statistics& own, int64_t b, int64_t begin, int64_t count, const float* noise) {
  const float guided = own.guided, clip = own.clip;
  const Floats low = splat(-clip), high = splat(clip);
  const int64_t place = b * s.elements + begin, in_row = begin % s.row;
  each_vector(count, [&](int64_t i, int64_t n) {
    Floats x = load_some<dtype>(s.sample.data, b * s.sample.stride + begin + i, n);
    const Floats m = predicted<dtype>(s, guided, b, begin + i, n);
    Floats z{};
    if constexpr (has_noise) {
      z = load_some<Dtype::float32>(noise, i, n);
      if (s.churn != 0) x = x + s.churn * z;
    }
    Floats x0 = smaller(high, larger(low, original_of(s, x, m)));
    if (s.ratio >= 0) x0 = x0 / high;
    if (s.original != nullptr) store_some<dtype>(s.original, place + i, x0, n);
    if (s.previous == nullptr) return;

    Floats y{};
    if (s.of_sample != 0) y = s.of_sample * x;
    if (s.of_original != 0) y = y + s.of_original * x0;
    if (s.of_output != 0) y = y + s.of_output * m;
    for (int k = 0; k < 3 && s.history[k].data != nullptr; ++k)
      y = y + s.of_history[k] * load_some<dtype>(s.history[k].data, b * s.history[k].stride + begin + i, n);
    if constexpr (has_noise) {
      if (s.of_noise != 0) {
        Floats w = s.of_noise * z;
        if (s.deviation != Variance::fixed) {
          const Floats v = load_some<dtype>(s.variance.data, b * s.variance.stride + begin + i, n);
          w = w * (s.deviation == Variance::learned ? root(v)
                                                    : exp2(smaller(splat(127.0f), s.log2_low + s.log2_slope * v)));
        }
        y = y + w;
      }
    }
    if (s.mask.data != nullptr) {
      const Floats mask = load_some<dtype>(s.mask.data, b * s.mask.stride + in_row + i, n);
      const Floats known = load_some<dtype>(s.known.data, b * s.known.stride + begin + i, n);
      y = mask * (s.of_known * known + s.known_noise * z) + (1.0f - mask) * y;
    }
    store_some<dtype>(s.previous, place + i, y, n);
  });
}

void step(const Step& s, const Statistics* of_samples, int64_t begin, int64_t end) {
  with_dtype(s.dtype, [&](auto dtype) {
    Drawn drawn;
    each_stretch(s.noise, s.elements, s.row, begin, end, [&](int64_t b, int64_t i, int64_t count) {
      const Statistics own = of_samples != nullptr ? of_samples[b] : Statistics{1.0f, s.clip};
      if (noisy(s.noise)) {
        const float* noise = drawn.template get<dtype.value>(s.noise, s.elements, b, i, count);
        step_stretch<dtype.value, true>(s, own, b, i, count, noise);
      } else {
        step_stretch<dtype.value, false>(s, own, b, i, count, nullptr);
      }
    });
  });
}

void q_sample(const Noising& q, int64_t begin, int64_t end) {
  with_dtype(q.dtype, [&](auto dtype) {
    Drawn drawn;
    each_stretch(q.noise, q.elements, q.elements, begin, end, [&](int64_t b, int64_t start, int64_t count) {
      const float* noise = drawn.template get<dtype.value>(q.noise, q.elements, b, start, count);
      const float alpha = q.levels[2 * b], sigma = q.levels[2 * b + 1];
      const int64_t place = b * q.elements + start;
      each_vector(count, [&](int64_t i, int64_t n) {
        const Floats x = load_some<dtype.value>(q.sample.data, b * q.sample.stride + start + i, n);
        const Floats z = load_some<Dtype::float32>(noise, i, n);
        store_some<dtype.value>(q.noisy, place + i, alpha * x + sigma * z, n);
        if (q.velocity != nullptr) store_some<dtype.value>(q.velocity, place + i, alpha * z - sigma * x, n);
        if (q.drawn != nullptr) store_some<dtype.value>(q.drawn, place + i, z, n);
      });
    });
  });
}

void normals(void* out, Dtype dtype, uint64_t seed, uint64_t offset, int64_t begin, int64_t end) {
  const Noise noise = {{nullptr, 0}, Dtype::float32, true, seed, offset};
  with_dtype(dtype, [&](auto known) {
    Drawn drawn;
    each_stretch(noise, end, end, begin, end, [&](int64_t, int64_t at, int64_t count) {
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
