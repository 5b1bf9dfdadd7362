// How a matrix is walked over by tasks that add to the totals of both of its sides.
#pragma once

#include <algorithm>

#include "contrastive/kernels.h"
#include "core/integer.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace xmkern::contrastive {

// Walks over all pairs of a group of rows and a strip of columns in rounds, as in a tournament: within a round no two
// tasks share a group or a strip, so that each adds to the totals of both without a lock, and in an order that does not
// depend on the number of threads.
template <class Task>
void in_rounds(const Problem& p, int64_t group, int64_t strip, int64_t workspace_bytes, int threads, const Task& task) {
  const int64_t groups = ceil_div(p.x.count, group), strips = ceil_div(p.y.count, strip);
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

// The same, cut as suits what is packed for each task.
template <class Task>
void walk(const Problem& p, int64_t workspace_bytes, int threads, const Task& task) {
  if (p.x.count == 0 || p.y.count == 0) return;
  // Many groups and strips make many tasks; larger ones make the most of what was packed.
  const int64_t strip = std::min<int64_t>(ceil_div(ceil_div(p.y.count, 8), 64) * 64, strip_columns);
  const int64_t blocks = ceil_div(p.x.count, block_rows);
  const int64_t group_blocks = std::max(std::min<int64_t>(2, ceil_div(blocks, 8)), ceil_div(blocks, 32));
  in_rounds(p, ceil_div(p.x.count, ceil_div(blocks, group_blocks)), strip, workspace_bytes, threads, task);
}

}  // namespace xmkern::contrastive
