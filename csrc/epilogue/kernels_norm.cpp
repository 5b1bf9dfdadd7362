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
  const float *linear_bias, *inner_weight, *inner_bias, *weight, *bias, *zeros;
  float *branch, *total, *grad, *copies[3];
  uint64_t* kept;

  Memory(const AddNorm& p, float* memory) {
    const int64_t size = padded(p.columns);
    const auto take = [&] { return memory += size, memory - size; };
    linear_bias = widen(p.linear_bias, p.columns, 0.0f, take());
    inner_weight = p.inner ? widen(p.inner_weight, p.columns, 1.0f, take()) : nullptr;
    inner_bias = p.inner ? widen(p.inner_bias, p.columns, 0.0f, take()) : nullptr;
    weight = p.outer ? widen(p.weight, p.columns, 1.0f, take()) : nullptr;
    bias = p.outer ? widen(p.bias, p.columns, 0.0f, take()) : nullptr;
    zeros = widen({}, p.columns, 0.0f, take());
    branch = take(), total = take(), grad = take();
    for (float*& copy : copies) copy = take();
    kept = reinterpret_cast<uint64_t*>(take());
  }
};

Rows in_memory(float* row) { return {row, 0, Dtype::float32}; }

// One or two rows and numbers that are added to them, to be read together.
struct Terms {
  Rows first, second;
  const float* shift;

  // Calls f with each column where a vector begins and the sum, both as `pieces` has them.
  template <Dtype dtype, class F>
  void read(const Pieces& pieces, const Memory& m, int64_t row, int64_t count, F&& f) const {
    const void* a = pieces.fetch(first, row, 0, count, m.copies[0]);
    const void* b = pieces.fetch(second, row, 0, count, m.copies[1]);
    if (b == nullptr)
      for_columns(count, [&](int64_t c, auto extent) { f(c, load_numbers<dtype>(a, c, extent) + load(shift + c)); });
    else
      for_columns(count, [&](int64_t c, auto extent) {
        f(c, load_numbers<dtype>(a, c, extent) + load(shift + c) + load_numbers<dtype>(b, c, extent));
      });
  }
};

// Adds terms up, and returns the sum over the row.
float add_up(const Terms& terms, const Memory& m, int64_t row, int64_t count, float* to) {
  const Pieces pieces(terms.first, terms.second);
  Floats even{}, odd{};
  with_dtype(pieces.dtype, [&](auto dtype) {
    terms.read<decltype(dtype)::value>(pieces, m, row, count, [&](int64_t c, Floats x) {
      store(to + c, x);
      (c / lanes % 2 ? odd : even) += x;
    });
  });
  return sum(even + odd);
}

// dropout(x + linear_bias); returns the sum over the row.
float read_branch(const AddNorm& p, const Memory& m, int64_t row, float* to) {
  const float sum = add_up({p.x, {}, m.linear_bias}, m, row, p.columns, to);
  if (!p.dropout.on) return sum;
  draw_kept(p.dropout, row, p.columns, m.kept);
  drop(p.dropout, m.kept, p.columns, to);
  return sum_over(p.columns, [&](int64_t c) { return load(to + c); });
}

struct Moments {
  float mean, scale;

  Floats normal(Floats x) const { return (x - mean) * scale; }
};

// What a row is shifted and scaled by. A row without any deviation becomes zeros. What rounding has left in the mean is
// summed with the squares and taken off both: beside a small deviation it would be large.
Moments moments(const AddNorm& p, const float* row, float total, float eps) {
  const auto size = static_cast<float>(p.columns);
  const float mean = p.rms ? 0.0f : total / size;
  const Two sums = total_over(p.columns, [&](int64_t c) {
    const Floats x = load(row + c) - mean;
    return Two{x, x * x};
  });
  const float left = p.rms ? 0.0f : sum(sums.first) / size, spread = sum(sums.second) / size - left * left;
  const float variance = (spread < 0.0f ? 0.0f : spread) + eps;
  return {mean + left, variance == 0.0f ? 0.0f : 1.0f / __builtin_sqrtf(variance)};
}

float* moments_of(const AddNorm& p, bool outer) { return p.moments + (outer && p.inner ? 2 * p.rows : 0); }

void keep(const AddNorm& p, bool outer, int64_t row, const Moments& of) {
  moments_of(p, outer)[row] = of.mean, moments_of(p, outer)[p.rows + row] = of.scale;
}

// The branch's norm, from a column on.
struct InnerNorm {
  const Memory& m;
  Moments of;

  Floats at(int64_t c) const {
    return of.normal(load(m.branch + c)) * load(m.inner_weight + c) + load(m.inner_bias + c);
  }
};

// `sum` is that over the branch, which has been read.
InnerNorm inner_norm(const AddNorm& p, const Memory& m, const float* epsilons, int64_t row, float sum) {
  const Moments of = moments(p, m.branch, sum, epsilons[0]);
  keep(p, false, row, of);
  return {m, of};
}

// The branch, normalised if that is wanted, and the residual; returns the sum over the row.
float sum_up(const AddNorm& p, const Memory& m, const float* epsilons, int64_t row, float* to) {
  if (!p.inner && !p.dropout.on) return add_up({p.x, p.residual, m.linear_bias}, m, row, p.columns, to);
  const float sum = read_branch(p, m, row, m.branch);
  if (!p.inner) return add_up({in_memory(m.branch), p.residual, m.zeros}, m, row, p.columns, to);
  const InnerNorm branch = inner_norm(p, m, epsilons, row, sum);
  read(p.residual.dtype, at(p.residual, row), p.columns, [&](int64_t c, Floats x) { store(to + c, x + branch.at(c)); });
  return sum_over(p.columns, [&](int64_t c) { return load(to + c); });  // what is past the end is not of the row
}

// To the dtype in which the sum is kept, if it is; returns the sum over the row.
float round_sum(const AddNorm& p, const Memory& m, float sum, float* total) {
  if (p.sum.data == nullptr || p.sum.dtype == Dtype::float32) return sum;
  write({m.grad, 0, p.sum.dtype}, 0, 0, p.columns, [&](int64_t c) { return load(total + c); });
  return add_up({{m.grad, 0, p.sum.dtype}, {}, m.zeros}, m, 0, p.columns, total);
}

// The branch's norm and the residual, to where the sum is kept: there is no other norm.
void keep_inner(const AddNorm& p, const Memory& m, const float* epsilons, int64_t row) {
  const InnerNorm branch = inner_norm(p, m, epsilons, row, read_branch(p, m, row, m.branch));
  const Pieces pieces(p.sum, p.residual);
  with_dtype(pieces.dtype, [&](auto dtype_of) {
    constexpr Dtype dtype = decltype(dtype_of)::value;
    const void* residual = pieces.fetch(p.residual, row, 0, p.columns, m.copies[0]);
    void* to = pieces.place(p.sum, row, 0, m.copies[1]);
    const bool stream = p.sum.stream && p.sum.dtype == dtype;
    for_columns(p.columns, [&](int64_t c, auto extent) {
      store_numbers<dtype>(to, c, load_numbers<dtype>(residual, c, extent) + branch.at(c), extent, stream);
    });
  });
  pieces.put(p.sum, row, 0, p.columns, m.copies[1]);
}

void forward(const AddNorm& p, const float* epsilons, int64_t begin, int64_t end, float* memory) {
  const Memory m(p, memory);
  float* total = m.total;
  for (int64_t row = begin; row < end; ++row) {
    if (p.inner && !p.outer && p.sum.data != nullptr) {
      keep_inner(p, m, epsilons, row);
      continue;
    }
    float sum = sum_up(p, m, epsilons, row, total);
    if (p.outer) sum = round_sum(p, m, sum, total);
    if (p.sum.data != nullptr) write(p.sum, row, 0, p.columns, [&](int64_t c) { return load(total + c); });
    if (!p.outer) continue;
    const Moments of = moments(p, total, sum, epsilons[1]);
    keep(p, true, row, of);
    write(p.out, row, 0, p.columns,
          [&](int64_t c) { return of.normal(load(total + c)) * load(m.weight + c) + load(m.bias + c); });
  }
}

float peak(const AddNorm& p, const float* epsilons, bool of_sum, int64_t begin, int64_t end, float* memory) {
  const Memory m(p, memory);
  Floats most{};
  for (int64_t row = begin; row < end; ++row) {
    if (of_sum)
      round_sum(p, m, sum_up(p, m, epsilons, row, m.total), m.total);
    else
      read_branch(p, m, row, m.total);
    // What is past the end is not of the row, nor is NaN a number.
    read(Dtype::float32, m.total, p.columns, [&](int64_t, Floats x) { most = larger(larger(x, -x), most); });
  }
  return largest(most);
}

// The slope of a norm's input: scale * (weighted - shift - normal * dot), `weighted` being the gradient of its result
// times the weight, and `normal` what the norm makes of its input.
struct Slope {
  const float *normal, *weighted;
  float shift, dot, scale;

  Floats at(int64_t c) const { return (load(weighted + c) - shift - load(normal + c) * dot) * scale; }
};

// Of a norm of terms, by the gradient `grad` of its result. `normal` and `weighted` are rows to work on. Adds to the
// sums of the gradients of weight and bias, unless they are null.
Slope norm_backward(const AddNorm& p, const Memory& m, bool outer, const Terms& terms, const Rows& grad, int64_t row,
                    float* normal, float* weighted, float* of_weight, float* of_bias) {
  const float* known = moments_of(p, outer);
  const Moments of = {known[row], known[p.rows + row]};
  const float* weight = outer ? m.weight : m.inner_weight;
  const Pieces pieces(terms.first, terms.second, grad);
  Floats total{}, dot{};
  with_dtype(pieces.dtype, [&](auto dtype_of) {
    constexpr Dtype dtype = decltype(dtype_of)::value;
    const void* slopes = pieces.fetch(grad, row, 0, p.columns, m.copies[2]);
    const int64_t last = p.columns / lanes * lanes;
    terms.read<dtype>(pieces, m, row, p.columns, [&](int64_t c, Floats x) {
      const Floats slope =
          c < last ? load_numbers<dtype>(slopes, c, Whole{}) : load_numbers<dtype>(slopes, c, Part{p.columns - c});
      const Floats y = of.normal(x), product = slope * load(weight + c);
      if (of_weight != nullptr) store(of_weight + c, load(of_weight + c) + slope * y);
      if (of_bias != nullptr) store(of_bias + c, load(of_bias + c) + slope);
      store(normal + c, y), store(weighted + c, product);
      total += product, dot += product * y;
    });
  });
  const auto size = static_cast<float>(p.columns);
  return {normal, weighted, p.rms ? 0.0f : sum(total) / size, sum(dot) / size, of.scale};
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
  // Nothing lies between the outer norm and x; nothing between the kept sum and the inner norm.
  const bool direct = g.sum.data == nullptr && g.residual.data == nullptr && !p.inner && !p.dropout.on;
  const bool straight = !p.outer && g.residual.data == nullptr && p.inner;
  const Terms branch = p.dropout.on ? Terms{in_memory(m.branch), {}, m.zeros} : Terms{p.x, {}, m.linear_bias};
  const Terms terms = through_sum ? Terms{branch.first, p.residual, branch.shift} : Terms{p.sum, {}, m.zeros};
  float* grad = m.grad;
  const auto finish = [&](int64_t c, Floats x) {
    if (of_linear_bias != nullptr) store(of_linear_bias + c, load(of_linear_bias + c) + x);
    return x;
  };
  for (int64_t row = begin; row < end; ++row) {
    if (p.dropout.on && (p.inner || through_sum))
      read_branch(p, m, row, m.branch);
    else if (p.dropout.on)
      draw_kept(p.dropout, row, p.columns, m.kept);

    if (p.outer) {
      const Slope slope = norm_backward(p, m, true, terms, g.out, row, m.total, grad, of_weight, of_bias);
      if (direct) {
        write(g.x, row, 0, p.columns, [&](int64_t c) { return finish(c, slope.at(c)); });
        continue;
      }
      for (int64_t c = 0; c < p.columns; c += lanes) store(grad + c, slope.at(c));
    }
    if (g.sum.data != nullptr && !straight)
      read(g.sum.dtype, at(g.sum, row), p.columns,
           [&](int64_t c, Floats x) { store(grad + c, p.outer ? x + load(grad + c) : x); });
    if (g.residual.data != nullptr) write(g.residual, row, 0, p.columns, [&](int64_t c) { return load(grad + c); });
    if (p.inner) {
      const Slope slope = norm_backward(p, m, false, branch, straight ? g.sum : in_memory(grad), row, m.total, grad,
                                        of_inner_weight, of_inner_bias);
      if (!p.dropout.on) {
        write(g.x, row, 0, p.columns, [&](int64_t c) { return finish(c, slope.at(c)); });
        continue;
      }
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
