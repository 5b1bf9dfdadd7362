// What is compiled once per instruction set: a share of the rows of one matrix of affinities against all of its
// columns.
#pragma once

#include "bi_attention/bi_attention.h"

namespace xmkern::bi_attention {

// Rows that are in work at once.
inline constexpr int64_t strip_rows = 48;

// A share of the rows begins and ends with whole strips.
struct Share {
  int64_t batch, head, row_begin, row_end;
  bool goes_on = false;  // with the matrix behind this one, on the same thread
};

// What a share of the rows adds to the columns lies in `part`, float32; `finish` sums `count` parts, `part_bytes`
// apart, and writes what is the columns'. Parts and workspaces lie on a cache line and hold as many bytes as is asked
// for.
struct ForwardKernel {
  int64_t (*part_bytes)(const Problem&);
  int64_t (*workspace_bytes)(const Problem&);
  void (*run)(const Problem&, const Share&, void* part, void* workspace);
  void (*finish)(const Problem&, int64_t batch, int64_t head, void* parts, int64_t count);
};

struct BackwardKernel {
  int64_t (*part_bytes)(const Problem&);
  int64_t (*workspace_bytes)(const Problem&);
  void (*run)(const Problem&, const Gradients&, const Share&, void* part, void* workspace);
  void (*finish)(const Problem&, const Gradients&, int64_t batch, int64_t head, void* parts, int64_t count);
};

}  // namespace xmkern::bi_attention
