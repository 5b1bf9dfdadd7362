// Reductions of a matrix of similarities over its rows and columns, and their gradients; the matrix is never formed.
#pragma once

#include "contrastive/problem.h"

namespace xmkern::contrastive {

void forward(const Problem& problem, const Totals& rows, const Totals& columns, int threads);
// Adds to the gradients that are there.
void backward(const Problem& problem, const Gradients& gradients, int threads);

// How many logits may be kept between forward and backward of one call: no more than a tile of moderate size.
inline constexpr int64_t most_kept = int64_t{1} << 20;

// The sum of losses and, in one go, its gradients, one product of both sides cheaper than apart. Of `softplus`: the sum
// of the rows. Of `logsumexp`: of each row, and column if there are any, log-sum-exp less the mean of its positives,
// where it has some; the matrix has at most `most_kept` logits. Addresses of values and their gradients in `gradients`
// are unused.
double loss(const Problem& problem, const Gradients& gradients, int threads);

}  // namespace xmkern::contrastive
