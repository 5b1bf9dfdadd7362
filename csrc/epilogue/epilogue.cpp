#include "epilogue/epilogue.h"

#include <algorithm>
#include <atomic>
#include <initializer_list>

#include "core/capability.h"
#include "core/integer.h"
#include "core/large_array.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "epilogue/kernels.h"

namespace xmkern {

XMKERN_KERNELS(norm_kernels, epilogue::NormKernel, epilogue_norm, avx512_bf16)
XMKERN_KERNELS(element_kernels, epilogue::ElementKernel, epilogue_element, avx512_bf16)

namespace epilogue {
namespace {

// Less is not worth waking a thread for: where a number costs much, and where it costs little.
constexpr int64_t numbers_a_task = int64_t{1} << 15, light_numbers = 3 * numbers_a_task;
// Each block has sums over its rows of its own.
constexpr int64_t most_blocks = 64;
// Pieces of rows in working memory have room for as many numbers.
constexpr int64_t least_columns = 1024;

// What no cache would hold until it is read: a call that touches as much writes past the caches.
constexpr int64_t streamed_bytes = int64_t{16} << 20;

void stream_if_large(int64_t count, std::initializer_list<Rows> inputs, std::initializer_list<Rows*> outputs) {
  int64_t bytes = 0;
  for (const Rows& rows : inputs) bytes += rows.data == nullptr ? 0 : count * size_of(rows.dtype);
  for (const Rows* rows : outputs) bytes += rows->data == nullptr ? 0 : count * size_of(rows->dtype);
  for (Rows* rows : outputs) rows->stream = bytes >= streamed_bytes;
}

float* scratch(int64_t rows, int64_t columns) {
  return static_cast<float*>(
      Scratch::get(static_cast<size_t>(rows * padded(std::max(columns, least_columns))) * sizeof(float)));
}

// Calls f with the begin and the end of some rows.
template <class F>
void for_blocks(int64_t rows, int64_t rows_a_block, int threads, F&& f) {
  parallel_for(ceil_div(rows, rows_a_block), threads, [&](int64_t block) {
    f(block, block * rows_a_block, std::min(rows, (block + 1) * rows_a_block));
    std::atomic_thread_fence(std::memory_order_seq_cst);  // what went past the caches is in no order by itself
  });
}

// How many threads share work in which a number costs little.
int threads_of_light(int64_t numbers, int threads) {
  return static_cast<int>(std::clamp<int64_t>(numbers / light_numbers, 1, std::max(threads, 1)));
}

int64_t rows_a_task(int64_t columns) { return std::max<int64_t>(1, numbers_a_task / columns); }

// Calls f likewise, and with where `arrays` sums of so many columns go; what they come to over all rows is written to
// `out`, an array after the other.
template <class F>
void sum_over_blocks(int64_t rows, int64_t columns, int64_t arrays, float* out, int threads, F&& f) {
  const int64_t block_rows = std::max(rows_a_task(columns), ceil_div(rows, most_blocks));
  const int64_t blocks = ceil_div(rows, block_rows), size = padded(columns), stride = arrays * size;
  auto* sums =
      static_cast<float*>(Scratch::get<Scratch::of_call>(static_cast<size_t>(blocks * stride) * sizeof(float)));
  for_blocks(rows, block_rows, threads, [&](int64_t block, int64_t begin, int64_t end) {
    float* own = sums + block * stride;
    std::fill(own, own + stride, 0.0f);
    f(begin, end, own);
  });
  const ElementKernel& kernel = element_kernels.pick();
  const int64_t chunk = std::max<int64_t>(512, numbers_a_task / std::max<int64_t>(blocks, 1) / 64 * 64);
  const int64_t chunks = ceil_div(columns, chunk);
  parallel_for(arrays * chunks, threads, [&](int64_t task) {
    const int64_t array = task / chunks, column = task % chunks * chunk;
    kernel.add(sums + array * size + column, blocks, stride, std::min(chunk, columns - column),
               out + array * columns + column);
  });
}

int64_t count(std::initializer_list<Numbers> parameters) {
  return std::count_if(parameters.begin(), parameters.end(), [](const Numbers& n) { return n.data != nullptr; });
}

// The epsilon by which a norm does what it does by `eps` of numbers over an eighth of the greatest.
float relaxed(const AddNorm& p, const float* epsilons, bool of_sum, int threads) {
  const NormKernel& kernel = norm_kernels.pick();
  const int64_t block_rows = std::max(rows_a_task(p.columns), ceil_div(p.rows, most_blocks));
  float peaks[most_blocks] = {};
  for_blocks(p.rows, block_rows, threads, [&](int64_t block, int64_t begin, int64_t end) {
    peaks[block] = kernel.peak(p, epsilons, of_sum, begin, end, scratch(norm_rows, p.columns));
  });
  const float scale = *std::max_element(peaks, peaks + most_blocks) / 8;
  return p.eps * (scale * scale);
}

}  // namespace

void add_norm(const AddNorm& given, int threads) {
  AddNorm p = given;
  stream_if_large(p.rows * p.columns, {p.x, p.residual}, {&p.sum, &p.out});
  float epsilons[2] = {p.eps, p.eps};
  if (p.pb_relax && p.inner) epsilons[0] = relaxed(p, epsilons, false, threads);
  if (p.pb_relax && p.outer) epsilons[1] = relaxed(p, epsilons, true, threads);
  const NormKernel& kernel = norm_kernels.pick();
  if (!p.dropout.on) threads = threads_of_light(p.rows * p.columns, threads);
  for_blocks(p.rows, rows_a_task(p.columns), threads, [&](int64_t, int64_t begin, int64_t end) {
    kernel.forward(p, epsilons, begin, end, scratch(norm_rows, p.columns));
  });
}

void add_norm_backward(const AddNorm& p, const AddNormGradients& given, int threads) {
  AddNormGradients g = given;
  stream_if_large(p.rows * p.columns, {p.x, p.residual, p.sum, g.out, g.sum}, {&g.x, &g.residual});
  const NormKernel& kernel = norm_kernels.pick();
  const int64_t arrays = count({p.linear_bias, p.inner_weight, p.inner_bias, p.weight, p.bias});
  sum_over_blocks(p.rows, p.columns, arrays, g.parameters, threads, [&](int64_t begin, int64_t end, float* sums) {
    kernel.backward(p, g, begin, end, sums, scratch(norm_rows, p.columns));
  });
}

void gated_residual(const GatedResidual& given, int threads) {
  GatedResidual p = given;
  stream_if_large(p.rows * p.columns, {p.x, p.residual, p.gates}, {&p.out});
  const ElementKernel& kernel = element_kernels.pick();
  threads = threads_of_light(p.rows * p.columns, threads);
  for_blocks(p.rows, rows_a_task(p.columns), threads, [&](int64_t, int64_t begin, int64_t end) {
    kernel.gated_residual(p, begin, end, scratch(element_rows, p.columns));
  });
}

void gated_residual_backward(const GatedResidual& p, const GatedResidualGradients& given, int threads) {
  GatedResidualGradients g = given;
  stream_if_large(p.rows * p.columns, {p.x, p.gates, g.out}, {&g.x, &g.gates});
  const ElementKernel& kernel = element_kernels.pick();
  sum_over_blocks(p.rows, p.columns, count({p.gate, p.bias}), g.parameters, threads,
                  [&](int64_t begin, int64_t end, float* sums) {
                    kernel.gated_residual_backward(p, g, begin, end, sums, scratch(element_rows, p.columns));
                  });
}

void bias_activation(const BiasActivation& given, int threads) {
  BiasActivation p = given;
  stream_if_large(p.rows * p.columns, {p.x}, {&p.out});
  const ElementKernel& kernel = element_kernels.pick();
  threads = threads_of_light(p.rows * p.columns, threads);
  for_blocks(p.rows, rows_a_task(p.columns), threads, [&](int64_t, int64_t begin, int64_t end) {
    kernel.bias_activation(p, begin, end, scratch(element_rows, p.columns));
  });
}

void bias_activation_backward(const BiasActivation& p, const BiasActivationGradients& given, int threads) {
  BiasActivationGradients g = given;
  stream_if_large(p.rows * p.columns, {p.x, g.out}, {&g.x});
  const ElementKernel& kernel = element_kernels.pick();
  const int64_t arrays = p.bias.data == nullptr ? 0 : p.gated ? 2 : 1;
  sum_over_blocks(p.rows, p.columns, arrays, g.bias, threads, [&](int64_t begin, int64_t end, float* sums) {
    kernel.bias_activation_backward(p, g, begin, end, sums, scratch(element_rows, p.columns));
  });
}

}  // namespace epilogue
}  // namespace xmkern
