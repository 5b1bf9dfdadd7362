// Plans of optimal transport on the CPU: one sample a task. xmkern/ops/transport/README.md has the formulas.
#pragma once

#include <stdint.h>

namespace xmkern::transport {

struct Problem {
  int64_t samples, rows, columns;
  const float* cost;  // [sample, row, column], its last axis dense; strides in elements
  int64_t sample_stride, row_stride;
  const uint8_t *row_mask, *column_mask;  // [sample, row], [sample, column]; 1: takes part
  float* plan;                            // [sample, row, column], contiguous
  float beta;
  int64_t iterations, inner;
};

void plan(const Problem& problem, int threads);

}  // namespace xmkern::transport
