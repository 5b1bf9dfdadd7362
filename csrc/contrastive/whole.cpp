#include "contrastive/whole.h"

#include <algorithm>
#include <vector>

#include "contrastive/contrastive.h"
#include "contrastive/rounds.h"
#include "contrastive/totals.h"
#include "core/capability.h"

namespace xmkern {

XMKERN_KERNELS(kernels, contrastive::WholeKernel, contrastive_whole_kernel, avx512_bf16)

namespace contrastive {
namespace {

// Products of numbers that one thread has made before a second has woken up.
constexpr int64_t least_shared = int64_t{1} << 22;

// Columns that are a task: a part of a block, as many as there are rows in a group.
int64_t columns_a_task(const Problem& p, const Whole& w) {
  const int64_t share = ceil_div(p.y.count, w.groups);
  return share <= 64 ? 64 : share <= 128 ? 128 : block_columns;
}

float* workspace() { return static_cast<float*>(Scratch::get(4 * whole_workspace)); }

}  // namespace

double whole_loss(const Problem& p, double weight, const WholeGradients& gradients, int threads) {
  std::fill_n(gradients.x_scale, p.x.count, 0.0f), std::fill_n(gradients.y_scale, p.y.count, 0.0f);
  *gradients.bias = 0.0f;
  const auto clear = [&](void* grad, int64_t count) {
    if (grad) std::fill_n(static_cast<char*>(grad), count * p.depth * size_of(p.dtype), '\0');
  };
  if (p.x.count == 0 || p.y.count == 0) return clear(gradients.x, p.x.count), clear(gradients.y, p.y.count), 0.0;
  if (p.x.count * p.y.count * p.depth < least_shared) threads = 1;
  const WholeKernel& kernel = kernels.pick();
  Whole w{};
  // Two groups where one would do, for as many threads; else long sums over the rows of a group are the quicker ones.
  const int64_t groups = std::max(ceil_div(p.x.count, block_rows), std::min<int64_t>(2, ceil_div(p.x.count, 64)));
  w.group = ceil_div(ceil_div(p.x.count, groups), 2) * 2;
  w.groups = ceil_div(p.x.count, w.group), w.blocks = ceil_div(p.y.count, block_columns);
  kernel.arrange(p, w);
  w.memory = static_cast<float*>(Scratch::get<Scratch::of_call>(static_cast<size_t>(4 * w.size)));

  const int64_t strip = columns_a_task(p, w);
  SideLosses rows(p.x.count), columns(p.columns ? p.y.count : 0);
  reduce(p, rows.totals(), columns.totals(), [&](const Totals& row_totals, const Totals& column_totals) {
    parallel_for(w.groups + w.blocks, threads, [&](int64_t task) { kernel.pack_operands(p, w, task); });
    in_rounds(p, w.group, strip, 4 * whole_workspace, threads,
              [&](const Part& part) { kernel.forward(p, w, row_totals, column_totals, part); });
  });
  const double loss = rows.loss(p.kind, weight) + columns.loss(p.kind, weight);

  const int64_t first = gradients.y ? 0 : w.groups, end = gradients.x ? w.groups + w.blocks : w.groups;
  parallel_for(end - first, threads, [&](int64_t task) { kernel.pack_rows(p, w, first + task); });
  std::vector<float> bias(static_cast<size_t>(p.x.count)), scales(static_cast<size_t>(w.groups * p.y.count));
  parallel_for(w.groups, threads, [&](int64_t group) {
    Gradients g{};
    rows.serve(g.rows), columns.serve(g.columns);
    g.rows.grad_scale = gradients.x_scale, g.bias = bias.data();
    g.columns.grad_scale = scales.data() + group * p.y.count;
    kernel.backward_rows(p, g, w, group, gradients.x, workspace());
  });
  for (int64_t i = 0; i < w.groups * p.y.count; ++i) gradients.y_scale[i % p.y.count] += scales[static_cast<size_t>(i)];
  double bias_sum = 0;
  for (const float each : bias) bias_sum += each;
  *gradients.bias = static_cast<float>(bias_sum);
  if (gradients.y) {
    parallel_for(ceil_div(p.y.count, strip), threads, [&](int64_t task) {
      kernel.backward_columns(p, w, task * strip, std::min((task + 1) * strip, p.y.count), gradients.y, workspace());
    });
  }
  return loss;
}

}  // namespace contrastive
}  // namespace xmkern
