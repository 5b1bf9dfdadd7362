// Dropout, the sum with the residual, and the norms, a row at a time: it stays in the first-level cache from the first
// pass over it to the last. Compiled once per instruction set (see core/capability.h): no standard-library code in
// here.
#include "epilogue/rows.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using epilogue::AddNorm;
using epilogue::AddNormGradients;

// Parameters in float32, and rows to work on.
struct Memory {
  const float *linear_bias, *inner_weight, *inner_bias, *weight, *bias;
  float *branch, *total, *grad;
  uint64_t* kept;

  Memory(const AddNorm& p, float* memory) {
    const int64_t size = padded(p.columns);
    const auto take = [&] { return memory += size, memory - size; };
    linear_bias = widen(p.linear_bias, p.columns, 0.0f, take());
    inner_weight = p.inner ? widen(p.inner_weight, p.columns, 1.0f, take()) : nullptr;
    inner_bias = p.inner ? widen(p.inner_bias, p.columns, 0.0f, take()) : nullptr;
    weight = p.outer ? widen(p.weight, p.columns, 1.0f, take()) : nullptr;
    bias = p.outer ? widen(p.bias, p.columns, 0.0f, take()) : nullptr;
    branch = take(), total = take(), grad = take();
    kept = reinterpret_cast<uint64_t*>(take());
  }
};

struct Moments {
  float mean, scale;
};

// What a row is shifted and scaled by. A row without any deviation becomes zeros.
Moments moments(const float* row, int64_t count, float eps, bool rms) {
  const auto size = static_cast<float>(count);
  const float mean = rms ? 0.0f : sum_over(count, [&](int64_t c) { return load(row + c); }) / size;
  const float variance = sum_over(count,
                                  [&](int64_t c) {
                                    const Floats x = load(row + c) - mean;
                                    return x * x;
                                  }) /
                             size +
                         eps;
  return {mean, variance == 0.0f ? 0.0f : 1.0f / __builtin_sqrtf(variance)};
}

float eps_of(const AddNorm& p, bool outer) { return p.epsilons == nullptr ? p.eps : p.epsilons[outer]; }

// dropout(x + linear_bias)
void read_branch(const AddNorm& p, const Memory& m, int64_t row, float* to) {
  read(p.x.dtype, at(p.x, row), p.columns, [&](int64_t c, Floats x) { store(to + c, x + load(m.linear_bias + c)); });
  if (!p.dropout.on) return;
  draw_kept(p.dropout, row, p.columns, m.kept);
  drop(p.dropout, m.kept, p.columns, to);
}

void add_residual(const AddNorm& p, int64_t row, float* to) {
  if (p.residual.data == nullptr) return;
  read(p.residual.dtype, at(p.residual, row), p.columns, [&](int64_t c, Floats x) { store(to + c, x + load(to + c)); });
}

void read_sum(const AddNorm& p, int64_t row, float* to) {
  read(p.sum.dtype, at(p.sum, row), p.columns, [&](int64_t c, Floats x) { store(to + c, x); });
}

// The branch, normalised if that is wanted, and the residual.
void sum_up(const AddNorm& p, const Memory& m, int64_t row, float* to) {
  read_branch(p, m, row, to);
  if (p.inner) {
    const Moments of = moments(to, p.columns, eps_of(p, false), p.rms);
    for (int64_t c = 0; c < p.columns; c += lanes)
      store(to + c, (load(to + c) - of.mean) * of.scale * load(m.inner_weight + c) + load(m.inner_bias + c));
  }
  add_residual(p, row, to);
}

// To the dtype in which the sum is kept, if it is.
void round_sum(const AddNorm& p, const Memory& m, float* total) {
  if (p.sum.data == nullptr || p.sum.dtype == Dtype::float32) return;
  write({m.grad, 0, p.sum.dtype}, 0, 0, p.columns, [&](int64_t c) { return load(total + c); });
  read(p.sum.dtype, m.grad, p.columns, [&](int64_t c, Floats x) { store(total + c, x); });
}

void forward(const AddNorm& p, int64_t begin, int64_t end, float* memory) {
  const Memory m(p, memory);
  float* total = m.total;
  for (int64_t row = begin; row < end; ++row) {
    sum_up(p, m, row, total);
    if (p.sum.data != nullptr) {
      round_sum(p, m, total);
      write(p.sum, row, 0, p.columns, [&](int64_t c) { return load(total + c); });
    }
    if (!p.outer) continue;
    const Moments of = moments(total, p.columns, eps_of(p, true), p.rms);
    write(p.out, row, 0, p.columns,
          [&](int64_t c) { return (load(total + c) - of.mean) * of.scale * load(m.weight + c) + load(m.bias + c); });
  }
}

float peak(const AddNorm& p, bool of_sum, int64_t begin, int64_t end, float* memory) {
  const Memory m(p, memory);
  Floats most{};
  for (int64_t row = begin; row < end; ++row) {
    of_sum ? sum_up(p, m, row, m.total) : read_branch(p, m, row, m.total);
    if (of_sum) round_sum(p, m, m.total);
    // What is past the end is not of the row, nor is NaN a number.
    read(Dtype::float32, m.total, p.columns, [&](int64_t, Floats x) { most = larger(larger(x, -x), most); });
  }
  return largest(most);
}

// The slope of a norm's input: scale * (weighted - shift - normal * dot), `weighted` being the gradient of its result
// times the weight, and `normal` what the norm makes of its input.
struct Slope {
  const float *x, *weighted;
  Moments of;
  float shift, dot;

  Floats at(int64_t c) const {
    const Floats normal = (load(x + c) - of.mean) * of.scale;
    return (load(weighted + c) - shift - normal * dot) * of.scale;
  }
};

// `grad` is the gradient of a norm's result, `weighted` where it goes times the weight, perhaps the same memory. Adds
// to the sums of the gradients of weight and bias, unless they are null.
Slope norm_backward(const AddNorm& p, float eps, const float* weight, const float* x, Dtype dtype, const void* grad,
                    float* weighted, float* of_weight, float* of_bias) {
  const Moments of = moments(x, p.columns, eps, p.rms);
  Floats total{}, dot{};
  read(dtype, grad, p.columns, [&](int64_t c, Floats slope) {
    const Floats normal = (load(x + c) - of.mean) * of.scale, product = slope * load(weight + c);
    if (of_weight != nullptr) store(of_weight + c, load(of_weight + c) + slope * normal);
    if (of_bias != nullptr) store(of_bias + c, load(of_bias + c) + slope);
    store(weighted + c, product);
    total += product, dot += product * normal;
  });
  const auto size = static_cast<float>(p.columns);
  return {x, weighted, of, p.rms ? 0.0f : sum(total) / size, sum(dot) / size};
}

void backward(const AddNorm& p, const AddNormGradients& g, int64_t begin, int64_t end, float* sums, float* memory) {
  const Memory m(p, memory);
  const auto take = [&](const Numbers& parameter) {
    if (parameter.data == nullptr) return static_cast<float*>(nullptr);
    return sums += padded(p.columns), sums - padded(p.columns);
  };
  float* of_linear_bias = take(p.linear_bias);
  float *of_inner_weight = take(p.inner_weight), *of_inner_bias = take(p.inner_bias);
  float *of_weight = take(p.weight), *of_bias = take(p.bias);
  const bool through_sum = p.outer && p.sum.data == nullptr;
  const bool direct = g.sum.data == nullptr && g.residual.data == nullptr && !p.inner && !p.dropout.on;
  float *branch = m.branch, *total = m.total, *grad = m.grad;
  for (int64_t row = begin; row < end; ++row) {
    if (through_sum || p.inner)
      read_branch(p, m, row, branch);
    else if (p.dropout.on)
      draw_kept(p.dropout, row, p.columns, m.kept);

    const auto finish = [&](int64_t c, Floats x) {
      if (of_linear_bias != nullptr) store(of_linear_bias + c, load(of_linear_bias + c) + x);
      return x;
    };
    if (p.outer) {
      if (through_sum) {
        total = branch;  // there is no inner norm that would need it once more
        add_residual(p, row, total);
      } else {
        read_sum(p, row, total);
      }
      const Slope slope =
          norm_backward(p, eps_of(p, true), m.weight, total, g.out.dtype, at(g.out, row), grad, of_weight, of_bias);
      if (direct) {
        write(g.x, row, 0, p.columns, [&](int64_t c) { return finish(c, slope.at(c)); });
        continue;
      }
      for (int64_t c = 0; c < p.columns; c += lanes) store(grad + c, slope.at(c));
    }
    if (g.sum.data != nullptr)
      read(g.sum.dtype, at(g.sum, row), p.columns,
           [&](int64_t c, Floats x) { store(grad + c, p.outer ? x + load(grad + c) : x); });
    if (g.residual.data != nullptr) write(g.residual, row, 0, p.columns, [&](int64_t c) { return load(grad + c); });
    if (p.inner) {
      const Slope slope = norm_backward(p, eps_of(p, false), m.inner_weight, branch, Dtype::float32, grad, grad,
                                        of_inner_weight, of_inner_bias);
      for (int64_t c = 0; c < p.columns; c += lanes) store(grad + c, slope.at(c));
    }
    if (p.dropout.on) drop(p.dropout, m.kept, p.columns, grad);
    write(g.x, row, 0, p.columns, [&](int64_t c) { return finish(c, load(grad + c)); });
  }
}

}  // namespace

extern const epilogue::NormKernel epilogue_norm;
const epilogue::NormKernel epilogue_norm = {forward, peak, backward};

}  // namespace xmkern::XMKERN_CAPABILITY
