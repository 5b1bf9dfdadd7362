// What reductions begin with and come to, and what is found of a side on the way to a loss.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "contrastive/problem.h"
#include "core/large_array.h"

namespace xmkern::contrastive {

inline bool exponential(Kind kind) { return kind == Kind::logsumexp || kind == Kind::mil; }

// Nothing reduced yet.
inline void begin(const Problem& p, int64_t count, const Totals& totals) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const bool below_all = exponential(p.kind) || p.kind == Kind::maximum;
  std::fill_n(totals.value, count, below_all ? -infinity : 0.0f);
  std::fill_n(totals.positive, count, p.kind == Kind::mil ? -infinity : 0.0f);
  std::fill_n(totals.count, count, p.kind == Kind::maximum ? -1 : 0);
  if (!exponential(p.kind)) return;
  std::fill_n(totals.sum, count, 0.0f);
  std::fill_n(totals.positive_sum, count, 0.0f);
}

// References and sums of powers to log-sum-exps.
inline void finish(const Problem& p, int64_t count, const Totals& totals) {
  const auto join = [](float reference, float sum) {
    return sum == 0.0f ? -std::numeric_limits<float>::infinity()
                       : static_cast<float>(reference + std::log(static_cast<double>(sum)));
  };
  for (int64_t i = 0; i < count && exponential(p.kind); ++i) {
    totals.value[i] = join(totals.value[i], totals.sum[i]);
    if (p.kind == Kind::mil) totals.positive[i] = join(totals.positive[i], totals.positive_sum[i]);
  }
}

// Has `walk` add all pairs to the totals, with memory for what these need meanwhile.
template <class Walk>
void reduce(const Problem& p, const Totals& rows, const Totals& columns, const Walk& walk) {
  const int64_t column_count = p.columns ? p.y.count : 0;
  const int64_t sums = exponential(p.kind) ? 2 * (p.x.count + column_count) : 0;
  const LargeArray<float> memory(static_cast<size_t>(sums));
  Totals row_totals = rows, column_totals = columns;
  if (sums) {
    row_totals.sum = memory.get(), row_totals.positive_sum = row_totals.sum + p.x.count;
    column_totals.sum = row_totals.positive_sum + p.x.count,
    column_totals.positive_sum = column_totals.sum + column_count;
  }
  begin(p, p.x.count, row_totals);
  begin(p, column_count, column_totals);
  walk(row_totals, column_totals);
  finish(p, p.x.count, row_totals);
  finish(p, column_count, column_totals);
}

// What is found of one side on the way to a loss, and the loss's slopes.
struct SideLosses {
  std::vector<float> value, positive, grad_value, grad_positive;
  std::vector<int64_t> count;

  explicit SideLosses(int64_t size) : count(static_cast<size_t>(size)) {
    for (auto* each : {&value, &positive, &grad_value, &grad_positive}) each->resize(count.size());
  }

  Totals totals() { return {value.data(), positive.data(), count.data(), nullptr, nullptr}; }
  void serve(Slopes& slopes) const {
    slopes.value = value.data(), slopes.positive = positive.data();
    slopes.grad_value = grad_value.data(), slopes.grad_positive = grad_positive.data();
  }

  // `weight` times the sum of what was found (softplus), or of what has positives less their mean (log-sum-exps). Sets
  // the slopes.
  double loss(Kind kind, double weight) {
    double total = 0;
    for (size_t i = 0; i < count.size(); ++i) {
      const bool draws = kind != Kind::softplus, counts = !draws || count[i] > 0;
      const double share = draws && counts ? 1.0 / static_cast<double>(count[i]) : 0.0;
      grad_value[i] = counts ? static_cast<float>(weight) : 0.0f;
      grad_positive[i] = static_cast<float>(-weight * share);
      if (counts) total += static_cast<double>(value[i]) - static_cast<double>(positive[i]) * share;
    }
    return weight * total;
  }
};

}  // namespace xmkern::contrastive
