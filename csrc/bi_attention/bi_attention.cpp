#include "bi_attention/bi_attention.h"

#include <algorithm>

#include "bi_attention/kernels.h"
#include "core/capability.h"
#include "core/integer.h"
#include "core/large_array.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace xmkern {

XMKERN_KERNELS(forward_kernels, bi_attention::ForwardKernel, bi_attention_forward, avx512_bf16)
XMKERN_KERNELS(backward_kernels, bi_attention::BackwardKernel, bi_attention_backward, avx512_bf16)

namespace bi_attention {
namespace {

// Enough tasks for many threads; each share of the rows sums up gradients or values of all columns by itself.
constexpr int64_t enough_tasks = 16;
constexpr int64_t strips_a_share = 2;
// Matrices that a thread takes at once, so that it can fetch the next one, where that leaves enough tasks.
constexpr int64_t matrices_a_task = 4;

// Runs the kernels on shares of the rows of each matrix. How many there are follows from the sizes alone.
template <class Kernel, class... Given>
void run(const Kernel& kernel, const Problem& p, int threads, const Given&... given) {
  const int64_t matrices = p.batches * p.heads, strips = ceil_div(p.rows.count, strip_rows);
  const int64_t most = std::max<int64_t>(1, ceil_div(strips, strips_a_share));
  const int64_t shares = std::clamp<int64_t>(ceil_div(enough_tasks, std::max<int64_t>(matrices, 1)), 1, most);
  const int64_t part_bytes = kernel.part_bytes(p), workspace_bytes = kernel.workspace_bytes(p);
  const auto share_of = [&](int64_t matrix, int64_t i) {
    const auto row = [&](int64_t share) { return std::min(share * strips / shares * strip_rows, p.rows.count); };
    return Share{matrix / p.heads, matrix % p.heads, row(i), row(i + 1)};
  };
  if (shares == 1) {
    const auto bytes = static_cast<size_t>(part_bytes + workspace_bytes);
    const int64_t together = std::clamp<int64_t>(matrices / enough_tasks, 1, matrices_a_task);
    parallel_for(ceil_div(matrices, together), threads, [&](int64_t task) {
      char* memory = static_cast<char*>(Scratch::get(bytes));
      const int64_t end = std::min((task + 1) * together, matrices);
      for (int64_t matrix = task * together; matrix < end; ++matrix) {
        Share share = share_of(matrix, 0);
        share.goes_on = matrix + 1 < end;
        kernel.run(p, given..., share, memory, memory + part_bytes);
        kernel.finish(p, given..., share.batch, share.head, memory, 1);
      }
    });
    return;
  }
  const LargeArray<char> parts(static_cast<size_t>(matrices * shares * part_bytes));
  parallel_for(matrices * shares, threads, [&](int64_t task) {
    kernel.run(p, given..., share_of(task / shares, task % shares), parts.get() + task * part_bytes,
               Scratch::get(static_cast<size_t>(workspace_bytes)));
  });
  parallel_for(matrices, threads, [&](int64_t matrix) {
    kernel.finish(p, given..., matrix / p.heads, matrix % p.heads, parts.get() + matrix * shares * part_bytes, shares);
  });
}

}  // namespace

void forward(const Problem& p, int threads) { run(forward_kernels.pick(), p, threads); }

void backward(const Problem& p, const Gradients& g, int threads) { run(backward_kernels.pick(), p, threads, g); }

}  // namespace bi_attention
}  // namespace xmkern
