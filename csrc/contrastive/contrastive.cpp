#include "contrastive/contrastive.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "contrastive/kernels.h"
#include "core/capability.h"
#include "core/integer.h"
#include "core/large_array.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace xmkern {
namespace baseline {
extern const contrastive::Kernel contrastive_kernel;
}
#if XMKERN_X86
namespace avx2 {
extern const contrastive::Kernel contrastive_kernel;
}
namespace avx512 {
extern const contrastive::Kernel contrastive_kernel;
}
namespace avx512_bf16 {
extern const contrastive::Kernel contrastive_kernel;
}
#endif

namespace contrastive {
namespace {

#if XMKERN_X86
const KernelTable<Kernel> kernels = {{&baseline::contrastive_kernel, &avx2::contrastive_kernel,
                                      &avx512::contrastive_kernel, nullptr, &avx512_bf16::contrastive_kernel}};
#else
const KernelTable<Kernel> kernels = {{&baseline::contrastive_kernel}};
#endif

// Walks over all pairs of a group of rows and a strip of columns in rounds, as in a tournament: within a round no two
// tasks share a group or a strip, so that each adds to the totals of both without a lock, and in an order that does not
// depend on the number of threads.
template <class Task>
void walk(const Problem& p, int64_t workspace_bytes, int threads, const Task& task) {
  if (p.x.count == 0 || p.y.count == 0) return;
  // Many groups and strips make many tasks; larger ones make the most of what was packed.
  const int64_t strip = std::clamp<int64_t>(ceil_div(ceil_div(p.y.count, 8), 32) * 32, 96, strip_columns);
  const int64_t blocks = ceil_div(p.x.count, block_rows), strips = ceil_div(p.y.count, strip);
  const int64_t group_blocks = std::max(std::min<int64_t>(2, ceil_div(blocks, 8)), ceil_div(blocks, 32));
  const int64_t groups = ceil_div(blocks, group_blocks), group = ceil_div(p.x.count, groups);
  const int64_t tasks = std::min(groups, strips), rounds = std::max(groups, strips);
  for (int64_t round = 0; round < rounds; ++round) {
    parallel_for(tasks, threads, [&](int64_t i) {
      const int64_t row = (groups <= strips ? i : (i + round) % groups) * group;
      const int64_t column = (groups <= strips ? (i + round) % strips : i) * strip;
      task(Part{row, std::min(row + group, p.x.count), column, std::min(column + strip, p.y.count),
                Scratch::get(static_cast<size_t>(workspace_bytes))});
    });
  }
}

constexpr float infinity = std::numeric_limits<float>::infinity();

bool exponential(Kind kind) { return kind == Kind::logsumexp || kind == Kind::mil; }

// Nothing reduced yet.
void begin(const Problem& p, int64_t count, const Totals& totals) {
  const bool below_all = exponential(p.kind) || p.kind == Kind::maximum;
  std::fill_n(totals.value, count, below_all ? -infinity : 0.0f);
  std::fill_n(totals.positive, count, p.kind == Kind::mil ? -infinity : 0.0f);
  std::fill_n(totals.count, count, p.kind == Kind::maximum ? -1 : 0);
  if (!exponential(p.kind)) return;
  std::fill_n(totals.sum, count, 0.0f);
  std::fill_n(totals.positive_sum, count, 0.0f);
}

// References and sums of powers to log-sum-exps.
void finish(const Problem& p, int64_t count, const Totals& totals) {
  const auto join = [](float reference, float sum) {
    return sum == 0.0f ? -infinity : static_cast<float>(reference + std::log(static_cast<double>(sum)));
  };
  for (int64_t i = 0; i < count && exponential(p.kind); ++i) {
    totals.value[i] = join(totals.value[i], totals.sum[i]);
    if (p.kind == Kind::mil) totals.positive[i] = join(totals.positive[i], totals.positive_sum[i]);
  }
}

// What is found of one side on the way to a loss, and the loss's slopes.
struct SideLosses {
  std::vector<float> value, positive, grad_value, grad_positive;
  std::vector<int64_t> count;

  explicit SideLosses(int64_t size) : count(static_cast<size_t>(size)) {
    for (auto* each : {&value, &positive, &grad_value, &grad_positive}) each->resize(count.size());
  }

  Totals totals() { return {value.data(), positive.data(), count.data(), nullptr, nullptr}; }
  void serve(Slopes& slopes) const {
    slopes.value = value.data(), slopes.positive = positive.data();
    slopes.grad_value = grad_value.data(), slopes.grad_positive = grad_positive.data();
  }

  // The sum over what has positives of log-sum-exp less their mean.
  double cross_entropy() {
    double total = 0;
    for (size_t i = 0; i < count.size(); ++i) {
      if (count[i] == 0) continue;
      const float share = 1.0f / static_cast<float>(count[i]);
      total += static_cast<double>(value[i]) - static_cast<double>(positive[i]) * share;
      grad_value[i] = 1.0f, grad_positive[i] = -share;
    }
    return total;
  }
};

}  // namespace

void forward(const Problem& p, const Totals& rows, const Totals& columns, int threads) {
  const int64_t column_count = p.columns ? p.y.count : 0;
  const int64_t sums = exponential(p.kind) ? 2 * (p.x.count + column_count) : 0;
  const LargeArray<float> memory(static_cast<size_t>(sums));
  Totals row_totals = rows, column_totals = columns;
  if (sums) {
    row_totals.sum = memory.get(), row_totals.positive_sum = row_totals.sum + p.x.count;
    column_totals.sum = row_totals.positive_sum + p.x.count,
    column_totals.positive_sum = column_totals.sum + column_count;
  }
  begin(p, p.x.count, row_totals);
  begin(p, column_count, column_totals);
  const Kernel& kernel = kernels.pick();
  walk(p, kernel.forward_workspace(p), threads,
       [&](const Part& part) { kernel.forward(p, row_totals, column_totals, part); });
  finish(p, p.x.count, row_totals);
  finish(p, column_count, column_totals);
}

void backward(const Problem& p, const Gradients& g, int threads) {
  const Kernel& kernel = kernels.pick();
  walk(p, kernel.backward_workspace(p), threads, [&](const Part& part) { kernel.backward(p, g, nullptr, part); });
}

double loss(const Problem& problem, const Gradients& gradients, int threads) {
  Problem p = problem;
  Gradients g = gradients;
  SideLosses rows(p.x.count), columns(p.columns ? p.y.count : 0);
  rows.serve(g.rows), columns.serve(g.columns);
  if (p.kind == Kind::softplus) {  // its slopes need nothing but the logits
    std::fill(rows.grad_value.begin(), rows.grad_value.end(), 1.0f);
    const Totals totals = rows.totals();
    const Kernel& kernel = kernels.pick();
    walk(p, kernel.backward_workspace(p), threads, [&](const Part& part) { kernel.backward(p, g, &totals, part); });
    return std::accumulate(rows.value.begin(), rows.value.end(), 0.0);
  }
  p.products_stride = ceil_div(p.y.count, 16) * 16;
  p.products =
      static_cast<float*>(Scratch::get<Scratch::of_call>(static_cast<size_t>(4 * p.x.count * p.products_stride)));
  forward(p, rows.totals(), columns.totals(), threads);
  const double sum = rows.cross_entropy() + columns.cross_entropy();
  backward(p, g, threads);
  return sum;
}

}  // namespace contrastive
}  // namespace xmkern
