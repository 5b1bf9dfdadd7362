// What is compiled once per instruction set: attention for some rows of one head.
#pragma once

#include "attention/problem.h"

namespace xmkern::attention {

struct Kernels {
  // Attention of the queries row_begin to row_end of the heads that share a key head; `workspace` holds as many bytes
  // as forward_workspace says, on a cache line.
  void (*forward)(const Problem&, int64_t batch, int64_t key_head, int64_t row_begin, int64_t row_end, void* workspace);
  int64_t (*forward_workspace)(const Problem&);
};

}  // namespace xmkern::attention
