// A matrix so small that it is kept from the forward to the backward of one call, with its operands packed once: what
// is compiled once per instruction set.
#pragma once

#include "contrastive/contrastive.h"
#include "contrastive/kernels.h"

namespace xmkern::contrastive {

static_assert(block_columns == strip_columns);

// Groups of rows by blocks of columns, and where in memory, in numbers of 32 bits from its begin, things are: tiles
// [groups][blocks] of products, at the begin; their gradients along rows, where that takes a place of its own; and
// panels of x and y, first as operands of the products, then of the gradients.
struct Whole {
  int64_t group, groups, blocks;  // `group` rows, an even number; the last group has what is left
  int64_t turned, x, y, size;
  float* memory;

  int64_t rows(const Problem& p, int64_t g) const {
    return p.x.count - g * group < group ? p.x.count - g * group : group;
  }
};

struct WholeKernel {
  // Sets where things are.
  void (*arrange)(const Problem&, Whole&);
  // Part of the operands of the products: a group of rows of x, or, counted on from there, a block of those of y.
  void (*pack_operands)(const Problem&, const Whole&, int64_t task);
  // The same of those of the gradients; only of sides that the other's gradient is wanted of.
  void (*pack_rows)(const Problem&, const Whole&, int64_t task);
  // Products of a group with columns of a block, reduced. The workspace holds a tile.
  void (*forward)(const Problem&, const Whole&, const Totals& rows, const Totals& columns, const Part&);
  // Gradients of the products of a group, and of its rows: [count, depth], dense, in the operands' dtype, or null. Adds
  // the columns' grad_scale to that of `gradients`, which must be the group's own.
  void (*backward_rows)(const Problem&, const Gradients& gradients, const Whole&, int64_t group, void* grad,
                        float* workspace);
  // Gradients of columns of a block, likewise.
  void (*backward_columns)(const Problem&, const Whole&, int64_t begin, int64_t end, void* grad, float* workspace);
};

// Numbers of 32 bits of a workspace.
inline constexpr int64_t whole_workspace = 256 * (512 + 16);

}  // namespace xmkern::contrastive
