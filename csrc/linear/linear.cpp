#include "linear/linear.h"

#include <algorithm>
#include <atomic>

#include "core/capability.h"
#include "core/integer.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "linear/kernels.h"

namespace xmkern {

XMKERN_KERNELS(kernels, linear::Kernel, linear_product, avx512)
XMKERN_KERNELS(kernels_few, linear::Kernel, linear_few, avx512_bf16)

namespace linear {
namespace {

// Sums of several passes stay in memory for so many rows.
constexpr int64_t most_rows = 2048;
// Narrower strips of columns would cost more in rows read again than they give to idle threads.
constexpr int64_t least_columns = 96;
// Strips begin on a cache line in every dtype, and fill panels of every instruction set.
constexpr int64_t whole_columns = 64;
// A result that no cache holds until it is read is written past the caches.
constexpr int64_t streamed_bytes = int64_t{16} << 20;

// How often columns and rows are cut.
struct Cut {
  int64_t columns, rows;

  // The share of the threads' time that is not spent waiting for the last of them.
  double balance(int threads) const {
    const auto tasks = static_cast<double>(columns * rows);
    return tasks / static_cast<double>(ceil_div(columns * rows, threads) * threads);
  }
};

// Strips that are as wide as can be, narrower only where threads would wait. Cutting rows costs packing twice.
Cut cut(const Product& p, int threads) {
  const int64_t least_rows = p.depth > most_steps ? ceil_div(p.rows, most_rows) : 1;
  Cut best{ceil_div(p.columns, most_columns), least_rows};
  const int64_t most = std::max(best.columns, p.columns / least_columns);
  for (Cut each = best; each.columns <= most; ++each.columns)
    if (each.balance(threads) > best.balance(threads)) best = each;
  while (best.balance(threads) < 0.75 && p.rows / best.rows >= most_columns) ++best.rows;
  return best;
}

}  // namespace

void multiply(const Product& p, int threads) {
  const bool few = p.rows <= few_rows && !p.left.transposed && !p.right.transposed;
  const Kernel& kernel = few ? kernels_few.pick() : kernels.pick();
  const Cut strips = cut(p, threads);
  const int64_t width = ceil_div(ceil_div(p.columns, strips.columns), whole_columns) * whole_columns;
  const int64_t height = ceil_div(p.rows, strips.rows);
  const int64_t columns = ceil_div(p.columns, width), rows = ceil_div(p.rows, height);
  const bool aligned = reinterpret_cast<uintptr_t>(p.out) % 64 == 0 && p.columns % whole_columns == 0;
  const bool streamed = aligned && p.rows * p.columns * size_of(p.dtype) >= streamed_bytes;
  parallel_for(columns * rows, threads, [&](int64_t task) {
    const int64_t column = task / rows * width, row = task % rows * height;
    const Part part{row, std::min(p.rows, row + height), column, std::min(p.columns, column + width), streamed};
    kernel.run(p, part, Scratch::get(static_cast<size_t>(kernel.workspace(p, part))));
    if (streamed) std::atomic_thread_fence(std::memory_order_seq_cst);  // what went past is in no order by itself
  });
}

}  // namespace linear
}  // namespace xmkern
