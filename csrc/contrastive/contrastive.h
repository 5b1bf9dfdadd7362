// Reductions of a matrix of similarities over its rows and columns, and their gradients; the matrix is never formed.
#pragma once

#include "contrastive/problem.h"

namespace xmkern::contrastive {

void forward(const Problem& problem, const Totals& rows, const Totals& columns, int threads);
// Adds to the gradients that are there.
void backward(const Problem& problem, const Gradients& gradients, int threads);

}  // namespace xmkern::contrastive
