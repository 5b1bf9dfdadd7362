// What a step has to know of a whole sample: the deviations that a rescaled guidance compares, and the quantile of
// dynamic thresholding, by selection.
// Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "diffusion/elements.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

// Of numbers that come in parts: their count, mean, and sum of squared distances from it (Chan, Golub and LeVeque,
// 1983).
struct Moments {
  double count = 0, mean = 0, squares = 0;

  void join(double other_count, double other_mean, double other_squares) {
    const double total = count + other_count, apart = other_mean - mean;
    squares += other_squares + apart * apart * count * other_count / total;
    mean += apart * other_count / total;
    count = total;
  }
};

// value(i, count) is a vector of which the lanes from `count` on do not count.
template <class Value>
void gather(Moments& moments, int64_t size, Value&& value) {
  Floats total{}, squares{};
  const auto there = [](Floats x, int64_t n) { return n == lanes ? x : select((1u << n) - 1, x, Floats{}); };
  each_vector(size, [&](int64_t i, int64_t n) { total += there(value(i, n), n); });
  const float mean = sum(total) / static_cast<float>(size);
  each_vector(size, [&](int64_t i, int64_t n) {
    const Floats apart = there(value(i, n) - mean, n);
    squares += apart * apart;
  });
  moments.join(static_cast<double>(size), mean, sum(squares));
}

template <Dtype dtype>
float guided_factor(const Step& s, int64_t b) {
  constexpr int64_t part = 4096;
  Moments conditional, guided;
  for (int64_t begin = 0; begin < s.elements; begin += part) {
    const int64_t size = least(part, s.elements - begin);
    gather(conditional, size, [&](int64_t i, int64_t n) {
      return load_some<dtype>(s.conditional.data, b * s.conditional.stride + begin + i, n);
    });
    gather(guided, size, [&](int64_t i, int64_t n) { return predicted<dtype>(s, 1.0f, b, begin + i, n); });
  }
  // Both of one count; that of a single number is NaN, as in torch.std.
  const double ratio = s.elements > 1 ? conditional.squares / guided.squares : __builtin_nan("");
  return static_cast<float>(s.rescale * __builtin_sqrt(ratio) + (1 - s.rescale));
}

// The bits of |x0|, of which the order is that of the numbers, NaN last. -> whether there is a NaN
template <Dtype dtype>
bool fill_keys(const Step& s, float guided, int64_t b, uint32_t* keys) {
  Drawn drawn;
  Words largest{};
  const OriginalOf original_of(s);
  for (int64_t begin = 0; begin < s.elements;) {
    int64_t count = least(s.elements - begin, stretch);
    const float* noise = nullptr;
    if (s.churn != 0 && noisy(s.noise)) {
      if (s.noise.drawn) count = least(count, stretch_from(s.noise, b * s.elements + begin));
      noise = drawn.get<dtype>(s.noise, s.elements, b, begin, count);
    }
    each_vector(count, [&](int64_t i, int64_t n) {
      Floats x = load_some<dtype>(s.sample.data, b * s.sample.stride + begin + i, n);
      if (noise != nullptr) x = x + s.churn * load_some<Dtype::float32>(noise, i, n);
      const Floats x0 = original_of(x, predicted<dtype>(s, guided, b, begin + i, n));
      const Words key = reinterpret_cast<Words>(x0) & 0x7fffffffu;
      largest = key > largest ? key : largest;
      if (n == lanes)
        store(keys + begin + i, key);
      else
        for (int64_t lane = 0; lane < n; ++lane) keys[begin + i + lane] = key[lane];
    });
    begin += count;
  }
  uint32_t most = 0;
  for (int lane = 0; lane < lanes; ++lane) most = largest[lane] > most ? largest[lane] : most;
  return most > 0x7f800000u;
}

// The key of rank `rank` and the next one up: by counting their highest bits, then the next bits of those that share
// these. The keys are overwritten.
void select_two(uint32_t* keys, int64_t size, int64_t rank, uint32_t found[2]) {
  constexpr int buckets = 1 << 11;
  uint32_t next = 0xffffffffu;  // the least of the keys above those that are left
  constexpr int shifts[] = {20, 9, 0};
  for (const int shift : shifts) {
    int32_t counts[buckets] = {};
    for (int64_t i = 0; i < size; ++i) ++counts[(keys[i] >> shift) % buckets];
    uint32_t bucket = 0;
    for (; rank >= counts[bucket]; ++bucket) rank -= counts[bucket];
    int64_t left = 0;
    for (int64_t i = 0; i < size; ++i) {
      const uint32_t key = keys[i], own = (key >> shift) % buckets;
      next = own > bucket && key < next ? key : next;
      keys[left] = key;
      left += own == bucket;
    }
    size = left;
  }
  found[0] = keys[0];
  found[1] = rank + 1 < size ? keys[0] : next;
}

// The quantile of |x0|, no less than 1 and no more than s.clip.
template <Dtype dtype>
float threshold(const Step& s, float guided, int64_t b, uint32_t* keys) {
  if (fill_keys<dtype>(s, guided, b, keys)) return __builtin_nanf("");
  const double rank = s.ratio * static_cast<double>(s.elements - 1);
  const auto whole = static_cast<int64_t>(rank);
  uint32_t found[2];
  select_two(keys, s.elements, whole, found);
  const float below = float_of(found[0]), above = whole + 1 < s.elements ? float_of(found[1]) : below;
  const auto share = static_cast<float>(rank - static_cast<double>(whole));
  const float quantile = share < 0.5f ? below + share * (above - below) : above - (above - below) * (1 - share);
  return quantile < 1 ? 1.0f : quantile > s.clip ? s.clip : quantile;
}

diffusion::Statistics statistics(const Step& s, int64_t b, uint32_t* keys) {
  Statistics own = {1.0f, s.clip};
  with_dtype(s.dtype, [&](auto dtype) {
    if (s.rescale != 0) own.guided = guided_factor<dtype.value>(s, b);
    if (s.ratio >= 0) own.clip = threshold<dtype.value>(s, own.guided, b, keys);
  });
  return own;
}

}  // namespace

extern const diffusion::StatisticsKernel diffusion_statistics;
const diffusion::StatisticsKernel diffusion_statistics = {statistics};

}  // namespace xmkern::XMKERN_CAPABILITY
