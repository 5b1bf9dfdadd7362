// Fused attention on the CPU: splits a call into tasks for the kernels. The tasks of all its problems share one
// parallel loop, and each gives the same bits as alone.
#pragma once

#include "attention/problem.h"

namespace xmkern::attention {

void forward(const Problem* problems, int64_t count, int threads);
void backward(const Problem* problems, const Gradients* gradients, int64_t count, int threads);

}  // namespace xmkern::attention
