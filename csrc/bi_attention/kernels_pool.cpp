// Additive pooling of one batch element: each row of hidden and of x is read once in the forward and once in the
// backward. Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "bi_attention/pool_kernels.h"
#include "core/blocks.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using pool::Gradients;
using pool::Operand;
using pool::Problem;

inline char* row_of(const Operand& x, Dtype dtype, int64_t batch, int64_t row) {
  return static_cast<char*>(x.data) + (batch * x.batch + row * x.row) * size_of(dtype);
}

// Rows in float32, zeros behind them; a number for each row.
struct Workspace {
  float *weight, *guide, *grad_pooled, *grad_guide, *sums, *grad_logits;

  Workspace(const Problem& p, Pieces& memory)
      : weight(memory.take<float>(round_up(p.width, lanes))),
        guide(memory.take<float>(round_up(p.width, lanes))),
        grad_pooled(memory.take<float>(round_up(p.depth, lanes))),
        grad_guide(memory.take<float>(round_up(p.width, lanes))),
        sums(memory.take<float>(round_up(p.depth, lanes))),
        grad_logits(memory.take<float>(p.rows)) {}
};

int64_t workspace_bytes(const Problem& p) {
  Pieces memory(nullptr);
  Workspace(p, memory);
  return memory.taken();
}

// Calls f with each vector of a row and its first column.
template <Dtype dtype, class F>
inline void for_numbers(const void* row, int64_t columns, F&& f) {
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) f(load_floats<dtype>(row, c), c);
  if (c < columns) f(load_some_floats<dtype>(row, c, columns - c), c);
}

template <Dtype dtype>
inline void widen(const void* row, int64_t columns, float* out) {
  for_numbers<dtype>(row, columns, [&](Floats x, int64_t c) { store(out + c, x); });
}

// Calls f with each vector of tanh(hidden + guide), and its first column.
template <Dtype dtype, class F>
inline void for_tanh(const Problem& p, int64_t batch, int64_t row, const float* guide, F&& f) {
  const char* hidden = row_of(p.hidden, dtype, batch, row);
  if (p.guide.data && p.guide.row) {
    const char* own = row_of(p.guide, dtype, batch, row);
    for_numbers<dtype>(hidden, p.width, [&](Floats x, int64_t c) {
      const int64_t left = p.width - c;
      f(tanh(x + (left < lanes ? load_some_floats<dtype>(own, c, left) : load_floats<dtype>(own, c))), c);
    });
  } else if (p.guide.data) {
    for_numbers<dtype>(hidden, p.width, [&](Floats x, int64_t c) { f(tanh(x + load(guide + c)), c); });
  } else {
    for_numbers<dtype>(hidden, p.width, [&](Floats x, int64_t c) { f(tanh(x), c); });
  }
}

template <Dtype dtype>
Workspace begin(const Problem& p, int64_t batch, void* memory) {
  Pieces pieces(memory);
  const Workspace w(p, pieces);
  widen<dtype>(p.weight, p.width, w.weight);
  if (p.guide.data && !p.guide.row) widen<dtype>(row_of(p.guide, dtype, batch, 0), p.width, w.guide);
  return w;
}

template <Dtype dtype>
void forward_of(const Problem& p, int64_t batch, void* memory) {
  const Workspace w = begin<dtype>(p, batch, memory);
  const uint8_t* mask = p.mask ? p.mask + batch * p.rows : nullptr;
  float *shares = p.shares + batch * p.rows, most = -infinity;
  for (int64_t row = 0; row < p.rows; ++row) {
    Floats total{};
    if (mask && !mask[row]) continue;
    for_tanh<dtype>(p, batch, row, w.guide, [&](Floats t, int64_t c) { total += t * load(w.weight + c); });
    shares[row] = sum(total);
    most = shares[row] > most ? shares[row] : most;
  }
  float total = 0.0f;
  for (int64_t row = 0; row < p.rows; ++row) {
    const float logit = mask && !mask[row] ? -infinity : shares[row];
    shares[row] = logit == -infinity ? 0.0f : exp2(splat((logit - most) * log2_e))[0];
    total += shares[row];
  }
  const float scale = total == 0.0f ? 0.0f : 1.0f / total;
  for (int64_t c = 0; c < p.depth; c += lanes) store(w.sums + c, Floats{});
  for (int64_t row = 0; row < p.rows; ++row) {
    shares[row] *= scale;
    if (mask && !mask[row]) continue;
    for_numbers<dtype>(row_of(p.x, dtype, batch, row), p.depth,
                       [&](Floats x, int64_t c) { store(w.sums + c, load(w.sums + c) + x * shares[row]); });
  }
  store_row<dtype>(row_of(p.pooled, dtype, batch, 0), w.sums, p.depth, 1.0f);
}

// A vector that reaches past the end of a row is stored number by number.
template <Dtype dtype>
inline void store_numbers(void* out, int64_t c, int64_t columns, Floats x) {
  if (c + lanes <= columns) return store_floats<dtype>(out, c, x);
  store_some_floats<dtype>(out, c, x, columns - c);
}

template <Dtype dtype>
void backward_of(const Problem& p, const Gradients& g, int64_t batch, float* weight_sums, void* memory) {
  const Workspace w = begin<dtype>(p, batch, memory);
  widen<dtype>(row_of(g.pooled, dtype, batch, 0), p.depth, w.grad_pooled);
  const uint8_t* mask = p.mask ? p.mask + batch * p.rows : nullptr;
  const float *shares = p.shares + batch * p.rows, *grads = g.shares + batch * p.rows;
  float mean = 0.0f;
  for (int64_t row = 0; row < p.rows; ++row) {
    char* grad_x = row_of(g.x, dtype, batch, row);
    if (mask && !mask[row]) {
      __builtin_memset(grad_x, 0, static_cast<std::size_t>(p.depth * size_of(dtype)));
      continue;
    }
    Floats total{};
    for_numbers<dtype>(row_of(p.x, dtype, batch, row), p.depth, [&](Floats x, int64_t c) {
      const Floats grad = load(w.grad_pooled + c);
      total += x * grad;
      store_numbers<dtype>(grad_x, c, p.depth, grad * shares[row]);
    });
    w.grad_logits[row] = sum(total) + grads[row];
    mean += shares[row] * w.grad_logits[row];
  }
  for (int64_t c = 0; c < p.width; c += lanes) store(w.grad_guide + c, Floats{});
  for (int64_t row = 0; row < p.rows; ++row) {
    char* grad_hidden = row_of(g.hidden, dtype, batch, row);
    if (mask && !mask[row]) {
      __builtin_memset(grad_hidden, 0, static_cast<std::size_t>(p.width * size_of(dtype)));
      continue;
    }
    const float grad = shares[row] * (w.grad_logits[row] - mean);
    for_tanh<dtype>(p, batch, row, w.guide, [&](Floats t, int64_t c) {
      const Floats slope = load(w.weight + c) * grad * (1.0f - t * t);
      store(weight_sums + c, load(weight_sums + c) + t * grad);
      store(w.grad_guide + c, load(w.grad_guide + c) + slope);
      store_numbers<dtype>(grad_hidden, c, p.width, slope);
    });
  }
  if (g.guide.data) store_row<dtype>(row_of(g.guide, dtype, batch, 0), w.grad_guide, p.width, 1.0f);
}

void forward(const Problem& p, int64_t batch, void* memory) {
  with_dtype(p.dtype, [&](auto type) { forward_of<decltype(type)::value>(p, batch, memory); });
}

void backward(const Problem& p, const Gradients& g, int64_t batch, float* weight_sums, void* memory) {
  with_dtype(p.dtype, [&](auto type) { backward_of<decltype(type)::value>(p, g, batch, weight_sums, memory); });
}

void finish(const Problem& p, const Gradients& g, float* weight_sums, int64_t count) {
  const int64_t padded = round_up(p.width, 16);
  for (int64_t i = 1; i < count; ++i)
    for (int64_t c = 0; c < padded; c += lanes)
      store(weight_sums + c, load(weight_sums + c) + load(weight_sums + i * padded + c));
  with_dtype(p.dtype, [&](auto type) { store_row<decltype(type)::value>(g.weight, weight_sums, p.width, 1.0f); });
}

}  // namespace

extern const pool::Kernel additive_pool;
const pool::Kernel additive_pool = {workspace_bytes, forward, backward, finish};

}  // namespace xmkern::XMKERN_CAPABILITY
