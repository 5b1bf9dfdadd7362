// Fused attention on the CPU: splits a call into tasks for the kernels.
#pragma once

#include "attention/problem.h"

namespace xmkern::attention {

void forward(const Problem& problem, int threads);
void backward(const Problem& problem, const Gradients& gradients, int threads);

}  // namespace xmkern::attention
