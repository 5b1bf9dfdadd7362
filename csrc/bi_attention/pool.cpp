#include "bi_attention/pool.h"

#include <algorithm>
#include <cstring>

#include "bi_attention/pool_kernels.h"
#include "core/capability.h"
#include "core/integer.h"
#include "core/large_array.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace xmkern {

XMKERN_KERNELS(kernels, pool::Kernel, additive_pool, avx512)

namespace pool {
namespace {

// Sums of the gradient of the weight: enough tasks for many threads, and no more than to add at the end.
constexpr int64_t most_shares = 32;

}  // namespace

void forward(const Problem& p, int threads) {
  const Kernel& kernel = kernels.pick();
  const auto bytes = static_cast<size_t>(kernel.workspace_bytes(p));
  parallel_for(p.batches, threads, [&](int64_t batch) { kernel.forward(p, batch, Scratch::get(bytes)); });
}

void backward(const Problem& p, const Gradients& g, int threads) {
  const Kernel& kernel = kernels.pick();
  const auto bytes = static_cast<size_t>(kernel.workspace_bytes(p));
  const int64_t count = std::clamp<int64_t>(p.batches, 1, most_shares), width = ceil_div(p.width, 16) * 16;
  const auto size = static_cast<size_t>(count * width);
  const LargeArray<float> sums(size);
  std::memset(sums.get(), 0, size * sizeof(float));
  parallel_for(count, threads, [&](int64_t share) {
    for (int64_t batch = share * p.batches / count; batch < (share + 1) * p.batches / count; ++batch)
      kernel.backward(p, g, batch, sums.get() + share * width, Scratch::get(bytes));
  });
  kernel.finish(p, g, sums.get(), count);
}

}  // namespace pool
}  // namespace xmkern
