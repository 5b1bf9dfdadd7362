#include "attention/attention.h"

#include <algorithm>
#include <cmath>

#include "attention/kernels.h"
#include "core/capability.h"
#include "core/integer.h"
#include "core/large_array.h"
#include "core/parallel.h"
#include "core/scratch.h"

#define XMKERN_ATTENTION_KERNELS                           \
  extern const attention::ForwardKernel attention_forward; \
  extern const attention::DecodeKernel attention_decode;   \
  extern const attention::BackwardKernel attention_backward;

namespace xmkern {
namespace baseline {
XMKERN_ATTENTION_KERNELS
}
#if XMKERN_X86
namespace avx2 {
XMKERN_ATTENTION_KERNELS
}
namespace avx512 {
XMKERN_ATTENTION_KERNELS
}
namespace avx512_bf16 {
XMKERN_ATTENTION_KERNELS
}
#endif

namespace attention {
namespace {

#if XMKERN_X86
const KernelTable<ForwardKernel> forward_kernels = {{&baseline::attention_forward, &avx2::attention_forward,
                                                     &avx512::attention_forward, nullptr,
                                                     &avx512_bf16::attention_forward}};
const KernelTable<DecodeKernel> decode_kernels = {{&baseline::attention_decode, &avx2::attention_decode,
                                                   &avx512::attention_decode, nullptr, &avx512_bf16::attention_decode}};
const KernelTable<BackwardKernel> backward_kernels = {{&baseline::attention_backward, &avx2::attention_backward,
                                                       &avx512::attention_backward, nullptr,
                                                       &avx512_bf16::attention_backward}};
#else
const KernelTable<ForwardKernel> forward_kernels = {{&baseline::attention_forward}};
const KernelTable<DecodeKernel> decode_kernels = {{&baseline::attention_decode}};
const KernelTable<BackwardKernel> backward_kernels = {{&baseline::attention_backward}};
#endif

// How many parts the rows of one head are cut into: enough tasks for many threads, but each part packs the keys again.
// By the shape alone, so that results don't depend on the number of threads.
int64_t parts_of_rows(const Problem& p, int64_t owners, int64_t wanted, int64_t least_rows) {
  const int64_t possible = p.queries * (p.heads / p.key_heads) / least_rows;
  return std::clamp<int64_t>(std::min((wanted + owners - 1) / owners, possible), 1, std::max<int64_t>(p.queries, 1));
}

int64_t row_at(const Problem& p, int64_t part, int64_t parts) { return part * p.queries / parts; }

// Each key head's keys are cut into parts of 2048: enough tasks for many threads, and long enough to be read in a row.
void decode(const Problem& p, int threads) {
  constexpr int64_t part_tiles = 32;
  const DecodeKernel& kernel = decode_kernels.pick();
  const int64_t tiles = ceil_div(p.keys, 64), parts = std::max<int64_t>(ceil_div(tiles, part_tiles), 1);
  const int64_t heads = p.heads / p.key_heads, rows = heads * p.queries;
  const int64_t size = kernel.partial_size(p);  // of a row; [batch, key head, part, row]
  const LargeArray<float> partials(static_cast<size_t>(p.batches * p.key_heads * parts * rows * size));
  const auto bytes = static_cast<size_t>(kernel.workspace(p));
  parallel_for(p.batches * p.key_heads * parts, threads, [&](int64_t task) {
    const int64_t part = task % parts, key_head = task / parts % p.key_heads, batch = task / parts / p.key_heads;
    kernel.run(p, batch, key_head, part * part_tiles, std::min((part + 1) * part_tiles, tiles), Scratch::get(bytes),
               partials.get() + task * rows * size);
  });
  for (int64_t i = 0; i < p.batches * p.heads * p.queries; ++i) {
    const int64_t query = i % p.queries, head = i / p.queries % p.heads, batch = i / p.queries / p.heads;
    const int64_t owner = batch * p.key_heads + head / heads, row = head % heads * p.queries + query;
    kernel.merge(p, batch, head, query, partials.get() + (owner * parts * rows + row) * size, parts, rows * size);
  }
}

}  // namespace

void forward(const Problem& p, int threads) {
  const int64_t owners = p.batches * p.key_heads;
  if (owners * p.queries == 0) return;
  if (p.queries * (p.heads / p.key_heads) <= decode_rows) return decode(p, threads);
  const ForwardKernel& kernel = forward_kernels.pick();
  const int64_t parts = parts_of_rows(p, owners, 128, 512);
  const auto bytes = static_cast<size_t>(kernel.workspace(p));
  parallel_for(owners * parts, threads, [&](int64_t task) {
    const int64_t part = task % parts, head = task / parts % p.key_heads, batch = task / parts / p.key_heads;
    kernel.run(p, {batch, head, row_at(p, part, parts), row_at(p, part + 1, parts), Scratch::get(bytes)});
  });
}

void backward(const Problem& p, const Gradients& g, int threads) {
  const int64_t heads = p.key_heads, group = p.heads / std::max<int64_t>(heads, 1);
  if (p.batches * heads == 0) return;
  const BackwardKernel& kernel = backward_kernels.pick();
  // A row of the bias's gradient is summed over the batches and heads that share it: by one task, in their order.
  const bool rows = g.bias.form == BiasForm::rows;
  const int64_t batches_a_task = rows && g.bias.batch == 0 ? p.batches : 1;
  const int64_t heads_a_task = rows && g.bias.head == 0 ? heads : 1;
  const int64_t owners = p.batches / batches_a_task * (heads / heads_a_task);
  const int64_t parts = parts_of_rows(p, owners, 16, 256);

  const int64_t key_numbers = p.keys * ((p.depth + 15) / 16 * 16),
                value_numbers = p.keys * ((p.value_depth + 15) / 16 * 16);
  const int64_t share = key_numbers + value_numbers;
  const LargeArray<float> shares(parts > 1 ? static_cast<size_t>(p.batches * heads * parts * share) : 0);
  const bool vectors = g.bias.form != BiasForm::none && !rows;
  const int64_t length = vectors ? (g.bias.length + 15) / 16 * 16 : 0;
  const LargeArray<float> vector_shares(static_cast<size_t>(p.batches * p.heads * parts * length));
  std::fill_n(vector_shares.get(), p.batches * p.heads * parts * length, 0.0f);

  const auto bytes = static_cast<size_t>(kernel.workspace(p));
  parallel_for(owners * parts, threads, [&](int64_t task) {
    const int64_t part = task % parts, owner = task / parts;
    const int64_t head_begin = owner % (heads / heads_a_task) * heads_a_task;
    const int64_t batch_begin = owner / (heads / heads_a_task) * batches_a_task;
    for (int64_t batch = batch_begin; batch < batch_begin + batches_a_task; ++batch) {
      for (int64_t head = head_begin; head < head_begin + heads_a_task; ++head) {
        Shares own{};
        if (parts > 1) {
          own.key = shares.get() + ((batch * heads + head) * parts + part) * share;
          own.value = own.key + key_numbers;
        }
        if (vectors) {
          own.bias = vector_shares.get() + ((batch * p.heads + head * group) * parts + part) * length;
          own.bias_stride = parts * length;
        }
        kernel.run(p, g, {batch, head, row_at(p, part, parts), row_at(p, part + 1, parts), Scratch::get(bytes)}, own);
      }
    }
  });
  if (parts > 1) {
    parallel_for(p.batches * heads, threads, [&](int64_t task) {
      const float* first = shares.get() + task * parts * share;
      const int64_t batch = task / heads, head = task % heads;
      kernel.add_shares(p, first, parts, share, g.key, p.depth, std::fabs(p.scale), batch, head);
      kernel.add_shares(p, first + key_numbers, parts, share, g.value, p.value_depth, p.dropout.kept_scale, batch,
                        head);
    });
  }
  if (vectors) {
    for (int64_t i = 0; i < p.batches * p.heads * parts; ++i) {
      const int64_t batch = i / parts / p.heads, head = i / parts % p.heads;
      float* out = g.bias.data + batch * g.bias.batch + head * g.bias.head;
      const float* from = vector_shares.get() + i * length;
      for (int64_t c = 0; c < g.bias.length; ++c) out[c] += from[c];
    }
  }
}

}  // namespace attention
}  // namespace xmkern
