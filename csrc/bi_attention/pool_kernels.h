// What of additive pooling is compiled once per instruction set. Workspaces lie on a cache line.
#pragma once

#include "bi_attention/pool.h"

namespace xmkern::pool {

struct Kernel {
  int64_t (*workspace_bytes)(const Problem&);
  void (*forward)(const Problem&, int64_t batch, void* workspace);
  // Adds to weight_sums [width, in whole vectors of 16].
  void (*backward)(const Problem&, const Gradients&, int64_t batch, float* weight_sums, void* workspace);
  // The gradient of the weight from so many sums, one behind the other.
  void (*finish)(const Problem&, const Gradients&, float* weight_sums, int64_t count);
};

}  // namespace xmkern::pool
