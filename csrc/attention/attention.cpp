#include "attention/attention.h"

#include <algorithm>

#include "attention/kernels.h"
#include "core/capability.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace xmkern {
namespace baseline {
extern const attention::Kernels attention_kernels;
}
#if XMKERN_X86
namespace avx2 {
extern const attention::Kernels attention_kernels;
}
namespace avx512 {
extern const attention::Kernels attention_kernels;
}
#endif

namespace attention {
namespace {

#if XMKERN_X86
const KernelTable<Kernels> table = {
    {&baseline::attention_kernels, &avx2::attention_kernels, &avx512::attention_kernels, nullptr, nullptr}};
#else
const KernelTable<Kernels> table = {{&baseline::attention_kernels}};
#endif

// How many parts the rows of one head are cut into: enough tasks for many threads, but each part packs the keys again.
// By the shape alone, so that results don't depend on the number of threads.
int64_t parts_of_rows(const Problem& p, int64_t least_rows, int64_t tasks) {
  const int64_t wanted = (tasks + p.batches * p.key_heads - 1) / std::max<int64_t>(p.batches * p.key_heads, 1);
  const int64_t possible = p.queries * (p.heads / p.key_heads) / least_rows;
  return std::clamp<int64_t>(std::min(wanted, possible), 1, std::max<int64_t>(p.queries, 1));
}

}  // namespace

void forward(const Problem& p, int threads) {
  if (p.batches * p.heads * p.queries == 0) return;
  const Kernels& kernels = table.pick();
  const int64_t parts = parts_of_rows(p, 512, 128);
  const auto bytes = static_cast<size_t>(kernels.forward_workspace(p));
  parallel_for(p.batches * p.key_heads * parts, threads, [&](int64_t task) {
    const int64_t part = task % parts, head = task / parts % p.key_heads, batch = task / parts / p.key_heads;
    kernels.forward(p, batch, head, part * p.queries / parts, (part + 1) * p.queries / parts, Scratch::get(bytes));
  });
}

}  // namespace attention
}  // namespace xmkern
