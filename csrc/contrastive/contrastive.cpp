#include "contrastive/contrastive.h"

#include <algorithm>

#include "contrastive/kernels.h"
#include "contrastive/rounds.h"
#include "contrastive/totals.h"
#include "core/capability.h"

namespace xmkern {

XMKERN_KERNELS(kernels, contrastive::Kernel, contrastive_kernel, avx512_bf16)

namespace contrastive {
void forward(const Problem& p, const Totals& rows, const Totals& columns, int threads) {
  const Kernel& kernel = kernels.pick();
  reduce(p, rows, columns, [&](const Totals& row_totals, const Totals& column_totals) {
    walk(p, kernel.forward_workspace(p), threads,
         [&](const Part& part) { kernel.forward(p, row_totals, column_totals, part); });
  });
}

void backward(const Problem& p, const Gradients& g, int threads) {
  const Kernel& kernel = kernels.pick();
  walk(p, kernel.backward_workspace(p), threads, [&](const Part& part) { kernel.backward(p, g, nullptr, part); });
}

double loss(const Problem& p, double weight, const Gradients& gradients, int threads) {
  Gradients g = gradients;
  SideLosses rows(p.x.count);
  rows.serve(g.rows);
  rows.loss(p.kind, weight);  // for the slopes, which need nothing but the logits
  const Totals totals = rows.totals();
  const Kernel& kernel = kernels.pick();
  walk(p, kernel.backward_workspace(p), threads, [&](const Part& part) { kernel.backward(p, g, &totals, part); });
  return rows.loss(p.kind, weight);
}

}  // namespace contrastive
}  // namespace xmkern
