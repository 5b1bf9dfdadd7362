#include "contrastive/divergence.h"

#include <cmath>
#include <vector>

#include "contrastive/rounds.h"
#include "contrastive/totals.h"
#include "core/capability.h"

namespace xmkern {

XMKERN_KERNELS(kernels, contrastive::DivergenceKernel, contrastive_divergence, avx512_bf16)

namespace contrastive {
namespace {

// What reductions of one side have besides what is asked for.
struct SideSums {
  std::vector<float> numbers;
  std::vector<int64_t> counts;
  Divergences sums;

  SideSums(int64_t count, const Divergences& out)
      : numbers(static_cast<size_t>(4 * count)), counts(static_cast<size_t>(count)), sums(out) {
    float* at = numbers.data();
    for (Totals* totals : {&sums.student, &sums.teacher}) {
      totals->sum = at, totals->positive = totals->positive_sum = at + count, totals->count = counts.data();
      at += 2 * count;
    }
  }
};

void begin(const Comparison& c, int64_t count, const Divergences& side) {
  begin(c.student, count, side.student), begin(c.teacher, count, side.teacher);
  std::fill_n(side.divergence, count, 0.0f);
}

// The divergence is the mean of t' - z' under the teacher's softmax, less the difference of the logarithms.
void finish(int64_t count, const Divergences& side) {
  for (int64_t i = 0; i < count; ++i) {
    const double student_sum = side.student.sum[i], teacher_sum = side.teacher.sum[i];
    const double student_log = std::log(student_sum), teacher_log = std::log(teacher_sum);
    side.student_log[i] = static_cast<float>(student_log), side.teacher_log[i] = static_cast<float>(teacher_log);
    if (teacher_sum == 0) continue;  // of nothing: there is no distance
    side.divergence[i] = static_cast<float>(side.divergence[i] / teacher_sum - (teacher_log - student_log));
  }
}

}  // namespace

void divergence(const Comparison& c, const Divergences& rows, const Divergences& columns, int threads) {
  const int64_t row_count = c.student.x.count, column_count = c.student.columns ? c.student.y.count : 0;
  const SideSums row_sums(row_count, rows), column_sums(column_count, columns);
  begin(c, row_count, row_sums.sums), begin(c, column_count, column_sums.sums);
  const DivergenceKernel& kernel = kernels.pick();
  walk(c.student, kernel.forward_workspace(c), threads,
       [&](const Part& part) { kernel.forward(c, row_sums.sums, column_sums.sums, part); });
  finish(row_count, row_sums.sums), finish(column_count, column_sums.sums);
}

void divergence_backward(const Comparison& c, const Distances& rows, const Distances& columns,
                         const MatrixGradients& student, const MatrixGradients& teacher, int threads) {
  const DivergenceKernel& kernel = kernels.pick();
  walk(c.student, kernel.backward_workspace(c), threads,
       [&](const Part& part) { kernel.backward(c, rows, columns, student, teacher, part); });
}

}  // namespace contrastive
}  // namespace xmkern
