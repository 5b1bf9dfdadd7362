// The kernels of diffusion against the formulas in double, for the sanitizers: every capability, random sizes, strides,
// dtypes and options, in exactly sized memory, so that a read past the end is seen.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/capability.h"
#include "diffusion/diffusion.h"
#include "numbers.h"

using namespace xmkern;
using namespace xmkern::diffusion;

namespace {

int checks = 0;

void expect(const char* what, double got, double want, double unit) {
  ++checks;
  if (std::fabs(got - want) <= 4 * unit * std::max(1.0, std::fabs(want))) return;
  std::printf("FAILED: %s is %g, not %g, at %s\n", what, got, want, capability_name(current_capability()));
  std::exit(1);
}

// Samples of `size` numbers each, with a gap between them.
struct Tensor {
  Dtype dtype;
  int64_t stride;
  std::unique_ptr<char[]> data;

  Tensor(Dtype type, int64_t samples, int64_t size, bool dense = false)
      : dtype(type), stride(size + (dense ? 0 : draw(0, 3))) {
    const int64_t count = samples == 0 ? 0 : (samples - 1) * stride + size;
    data = std::make_unique<char[]>(static_cast<size_t>(count * size_of(dtype)));
    for (int64_t i = 0; i < count; ++i) write(data.get(), dtype, i, draw_number());
  }

  Operand operand() const { return {data.get(), stride}; }
  double at(int64_t b, int64_t i) const { return read(data.get(), dtype, b * stride + i); }
};

float weight() { return static_cast<float>(draw_number()); }

void check_step(Dtype dtype) {
  const int64_t samples = draw(0, 3), channels = draw(1, 3), pixels = coin() ? draw(1, 40) : draw(500, 700);
  const int64_t size = channels * pixels;
  const Tensor x(dtype, samples, size), m(dtype, samples, size), c(dtype, samples, size), v(dtype, samples, size);
  const Tensor known(dtype, samples, size), h(dtype, samples, size), z(dtype, samples, size);
  const bool shared = coin();
  const Tensor mask(dtype, samples, shared ? pixels : size);
  Tensor previous(dtype, samples, size, true), original(dtype, samples, size, true);
  Step s{};
  s.dtype = dtype, s.samples = samples, s.elements = size, s.row = shared ? pixels : size;
  s.sample = x.operand(), s.output = m.operand();
  s.previous = previous.data.get(), s.original = coin() ? original.data.get() : nullptr;
  s.from_sample = weight(), s.from_output = weight(), s.of_sample = weight(), s.of_original = weight();
  s.of_output = weight(), s.of_noise = weight(), s.churn = coin() ? weight() : 0;
  s.of_known = weight(), s.known_noise = weight(), s.guidance = weight(), s.ratio = -1;
  s.clip = coin() ? 0.75f : std::numeric_limits<float>::infinity();
  const bool guided = coin(), masked = coin(), remembers = coin(), dynamic = coin();
  if (guided) s.conditional = c.operand(), s.rescale = coin() && size > 1 ? 0.5 : 0.0;
  if (masked) s.mask = mask.operand(), s.known = known.operand();
  if (remembers) s.history[0] = h.operand(), s.of_history[0] = weight();
  s.deviation = coin() ? Variance::learned_range : Variance::fixed;
  s.variance = v.operand(), s.log2_low = -1, s.log2_slope = 0.5;
  const int64_t source = draw(0, 2);
  if (source == 1) s.noise = {z.operand(), dtype, false, 0, 0};
  std::vector<float> drawn(static_cast<size_t>(samples * size));
  if (source == 2) {
    s.noise = {{nullptr, 0}, Dtype::float32, true, 7, static_cast<uint64_t>(draw(0, 200))};
    normals(drawn.data(), Dtype::float32, samples * size, 7, s.noise.offset, 2);
  }
  if (dynamic) s.ratio = 0.9, s.clip = 3;
  step(s, 2);

  const double unit = epsilon(dtype) + 0x1p-16;
  for (int64_t b = 0; b < samples; ++b) {
    double factor = 1;
    const auto plain = [&](int64_t i) {
      return guided ? m.at(b, i) + s.guidance * (c.at(b, i) - m.at(b, i)) : m.at(b, i);
    };
    if (guided && s.rescale != 0) {
      double sums[2] = {}, squares[2] = {};
      for (int64_t i = 0; i < size; ++i) sums[0] += c.at(b, i) / size, sums[1] += plain(i) / size;
      for (int64_t i = 0; i < size; ++i)
        squares[0] += std::pow(c.at(b, i) - sums[0], 2), squares[1] += std::pow(plain(i) - sums[1], 2);
      factor = s.rescale * std::sqrt(squares[0] / squares[1]) + 1 - s.rescale;
      if (!(factor < 100)) continue;  // hardly any deviation: all is rounding
    }
    const auto noise = [&](int64_t i) {
      return source == 0 ? 0.0 : source == 1 ? z.at(b, i) : drawn[static_cast<size_t>(b * size + i)];
    };
    const auto moved = [&](int64_t i) { return x.at(b, i) + s.churn * noise(i); };
    std::vector<double> x0(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; ++i)
      x0[static_cast<size_t>(i)] = s.from_sample * moved(i) + s.from_output * plain(i) * factor;
    double clip = s.clip;
    if (dynamic) {
      std::vector<double> ordered(x0);
      for (double& each : ordered) each = std::fabs(each);
      std::sort(ordered.begin(), ordered.end());
      const double rank = s.ratio * static_cast<double>(size - 1);
      const auto below = static_cast<size_t>(rank), above = std::min(below + 1, ordered.size() - 1);
      clip = ordered[below] + (rank - static_cast<double>(below)) * (ordered[above] - ordered[below]);
      clip = std::min(std::max(clip, 1.0), 3.0);
    }
    for (int64_t i = 0; i < size; ++i) {
      double known_x0 = std::min(std::max(x0[static_cast<size_t>(i)], -clip), clip);
      if (dynamic) known_x0 /= clip;
      if (s.original != nullptr) expect("x0", original.at(b, i), known_x0, unit * 4);
      double y = s.of_sample * moved(i) + s.of_original * known_x0 + s.of_output * plain(i) * factor;
      if (remembers) y += s.of_history[0] * h.at(b, i);
      y += s.of_noise * noise(i) * (s.deviation == Variance::fixed ? 1 : std::exp2(-1 + 0.5 * v.at(b, i)));
      const double share = masked ? mask.at(b, shared ? i % pixels : i) : 0;
      if (masked) y = share * (s.of_known * known.at(b, i) + s.known_noise * noise(i)) + (1 - share) * y;
      expect("the previous sample", previous.at(b, i), y, unit * 16);
    }
  }
}

void check_q_sample(Dtype dtype) {
  const int64_t samples = draw(0, 3), size = coin() ? draw(1, 40) : draw(500, 700);
  const Tensor x(dtype, samples, size), z(dtype, samples, size);
  Tensor noisy(dtype, samples, size, true), velocity(dtype, samples, size, true);
  std::vector<float> levels(static_cast<size_t>(2 * samples));
  for (float& level : levels) level = weight();
  q_sample({dtype,
            samples,
            size,
            x.operand(),
            {z.operand(), dtype, false, 0, 0},
            levels.data(),
            noisy.data.get(),
            velocity.data.get(),
            nullptr},
           2);
  for (int64_t b = 0; b < samples; ++b)
    for (int64_t i = 0; i < size; ++i) {
      const double alpha = levels[static_cast<size_t>(2 * b)], sigma = levels[static_cast<size_t>(2 * b + 1)];
      expect("x_t", noisy.at(b, i), alpha * x.at(b, i) + sigma * z.at(b, i), epsilon(dtype) * 2);
      expect("v", velocity.at(b, i), alpha * z.at(b, i) - sigma * x.at(b, i), epsilon(dtype) * 2);
    }
}

// The same bits at every capability, in any parts.
void check_normals() {
  const int64_t count = draw(0, 3000), offset = draw(0, 300), part = draw(0, count);
  const auto seed = generator();
  std::vector<float> whole(static_cast<size_t>(count)), parts(whole), least(whole);
  const auto fill = [&](float* out, int64_t from, int64_t to) {
    normals(out + from, Dtype::float32, to - from, seed, static_cast<uint64_t>(offset + from), 2);
  };
  fill(whole.data(), 0, count);
  fill(parts.data(), 0, part), fill(parts.data(), part, count);
  const Capability own = current_capability();
  set_current_capability(Capability::baseline);
  fill(least.data(), 0, count);
  set_current_capability(own);
  for (size_t i = 0; i < whole.size(); ++i)
    expect("a number in parts", parts[i], whole[i], 0), expect("a number of the baseline", least[i], whole[i], 0);
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 60; ++i)
      for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float16})
        check_step(dtype), check_q_sample(dtype), check_normals();
  }
  std::printf("diffusion: %d checks passed on %d capabilities\n", checks, static_cast<int>(detected_capability()) + 1);
  return 0;
}
