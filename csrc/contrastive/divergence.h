// How far the softmax of one matrix of similarities, the student's, is from that of another, the teacher's, of as many
// rows and columns; neither is formed.
#pragma once

#include "contrastive/kernels.h"

namespace xmkern::contrastive {

// Of both matrices are used: x, y, depth, dtype, which is that of both, and columns. The kind is logsumexp.
struct Comparison {
  Problem student, teacher;
};

// Of one side, [count] each: references and sums of powers below them (see Totals, of which no more is used), these
// sums' logarithms, and the sum over the other side of exp(t') (t' - z'), with z' and t' logits less their references,
// which becomes the divergence: the sum of p log (p / q). That a log-sum-exp stays in two parts keeps log q and log p
// as exact as they are where p is near 1.
struct Divergences {
  Totals student, teacher;
  float *divergence, *student_log, *teacher_log;
};

void divergence(const Comparison& comparison, const Divergences& rows, const Divergences& columns, int threads);

// Of one side, [count] each: what the forward left, and the gradient of the divergences.
struct Distances {
  const float *student_reference, *student_log, *teacher_reference, *teacher_log, *divergence, *grad;
};

// Where to add the gradients of one matrix: see Slopes. `wanted`: whether of anything.
struct MatrixGradients {
  float *x, *y, *x_scale, *y_scale;
  bool wanted;
};

void divergence_backward(const Comparison& comparison, const Distances& rows, const Distances& columns,
                         const MatrixGradients& student, const MatrixGradients& teacher, int threads);

struct DivergenceKernel {
  int64_t (*forward_workspace)(const Comparison&);
  int64_t (*backward_workspace)(const Comparison&);
  void (*forward)(const Comparison&, const Divergences& rows, const Divergences& columns, const Part&);
  void (*backward)(const Comparison&, const Distances& rows, const Distances& columns, const MatrixGradients& student,
                   const MatrixGradients& teacher, const Part&);
};

}  // namespace xmkern::contrastive
