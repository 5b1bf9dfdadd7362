// Inexact proximal point iterations (Xie et al., 2018) in a cache: with A = exp(-cost / beta) and T the plan so far, an
// iteration is Q = A T; delta = 1 / (rows Q sigma), sigma = 1 / (columns Q^T delta), `inner` times; T = delta Q sigma.
// T is never stored: what makes it of Q waits in `delta` and `spread` until the next iteration multiplies by A.
// Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "transport/kernels.h"

#include "core/vector.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using transport::Problem;

// Rows are taken four at a time, which share what is loaded of the columns.
constexpr int64_t together = 4;

int64_t whole(int64_t count, int64_t part) { return (count + part - 1) / part * part; }

// One sample; rows and columns are filled up with such as take no part.
struct Sample {
  int64_t rows, columns;
  float *kernel, *product;  // A and Q, [row, column]
  float *delta, *sigma;
  float *spread, *sums;  // of columns: sigma as it was when T was made, and Q^T delta

  Sample(const Problem& p, float* memory) : rows(whole(p.rows, together)), columns(whole(p.columns, lanes)) {
    kernel = memory, product = kernel + rows * columns;
    sigma = product + rows * columns, spread = sigma + columns, sums = spread + columns, delta = sums + columns;
  }
};

int64_t workspace(const Problem& p) {
  const int64_t rows = whole(p.rows, together), columns = whole(p.columns, lanes);
  return 4 * (2 * rows * columns + 3 * columns + rows);
}

// 1 / x; 0 where x is nothing, because a row or column takes no part or all that could reach it has underflowed.
constexpr float least = 0x1p-126f;
Floats inverse(Floats x) { return x < least ? Floats{} : 1.0f / x; }
float inverse(float x) { return x < least ? 0.0f : 1.0f / x; }

// A, each row divided by its greatest number, which delta makes good. 0 where a row or a column takes no part.
void fill_kernel(const Problem& p, int64_t sample, const Sample& s) {
  const uint8_t *row_mask = p.row_mask + sample * p.rows, *column_mask = p.column_mask + sample * p.columns;
  const float scale = log2_e / p.beta;
  for (int64_t r = 0; r < s.rows; ++r) {
    float* row = s.kernel + r * s.columns;
    const bool there = r < p.rows && row_mask[r];
    const float* cost = p.cost + sample * p.sample_stride + r * p.row_stride;
    for (int64_t c = 0; c < s.columns; ++c) row[c] = there && c < p.columns && column_mask[c] ? -cost[c] : -infinity;
    Floats most = splat(-infinity);
    for (int64_t c = 0; c < s.columns; c += lanes) most = larger(load(row + c), most);
    const float shift = largest(most);
    for (int64_t c = 0; c < s.columns; c += lanes) {
      const Floats x = load(row + c);
      store(row + c, x == -infinity ? Floats{} : exp2((x - shift) * scale));
    }
  }
}

// Delta from sigma, then the sums for the next sigma; before that, with `advance`, the next Q from the last.
template <bool advance>
void pass(const Sample& s, float row_count) {
  for (int64_t c = 0; c < s.columns; c += lanes) store(s.sums + c, Floats{});
  for (int64_t r = 0; r < s.rows; r += together) {
    float* product = s.product + r * s.columns;
    const float* kernel = s.kernel + r * s.columns;
    float* delta = s.delta + r;
    Floats totals[together] = {};
    for (int64_t c = 0; c < s.columns; c += lanes) {
      const Floats sigma = load(s.sigma + c), spread = load(s.spread + c);
#pragma GCC unroll 4
      for (int i = 0; i < together; ++i) {
        const int64_t at = i * s.columns + c;
        Floats q = load(product + at);
        if constexpr (advance) {
          q = q * spread * delta[i] * load(kernel + at);
          store(product + at, q);
        }
        totals[i] += q * sigma;
      }
    }
    float dots[together];
    sum4(totals, dots);
    for (int i = 0; i < together; ++i) delta[i] = inverse(row_count * dots[i]);
    for (int64_t c = 0; c < s.columns; c += lanes) {
      Floats sum = load(s.sums + c);
#pragma GCC unroll 4
      for (int i = 0; i < together; ++i) sum += load(product + i * s.columns + c) * delta[i];
      store(s.sums + c, sum);
    }
  }
}

int64_t count(const uint8_t* mask, int64_t size) {
  int64_t total = 0;
  for (int64_t i = 0; i < size; ++i) total += mask[i];
  return total;
}

void plan(const Problem& p, int64_t sample, void* memory) {
  const Sample s(p, static_cast<float*>(memory));
  const auto rows = static_cast<float>(count(p.row_mask + sample * p.rows, p.rows));
  const auto columns = static_cast<float>(count(p.column_mask + sample * p.columns, p.columns));
  fill_kernel(p, sample, s);
  for (int64_t i = 0; i < s.rows * s.columns; ++i) s.product[i] = 1.0f;
  for (int64_t r = 0; r < s.rows; ++r) s.delta[r] = 1.0f;
  for (int64_t c = 0; c < s.columns; ++c) s.sigma[c] = inverse(columns), s.spread[c] = 1.0f;

  for (int64_t i = 0; i < p.iterations; ++i)
    for (int64_t j = 0; j < p.inner; ++j) {
      j == 0 ? pass<true>(s, rows) : pass<false>(s, rows);
      for (int64_t c = 0; c < s.columns; c += lanes) store(s.sigma + c, inverse(load(s.sums + c) * columns));
      if (j + 1 == p.inner)
        for (int64_t c = 0; c < s.columns; c += lanes) store(s.spread + c, load(s.sigma + c));
    }

  for (int64_t r = 0; r < p.rows; ++r) {
    const float* product = s.product + r * s.columns;
    float* out = p.plan + (sample * p.rows + r) * p.columns;
    for (int64_t c = 0; c < p.columns; ++c) out[c] = s.delta[r] * product[c] * s.sigma[c];
  }
}

}  // namespace

extern const transport::PlanKernel transport_plan;
const transport::PlanKernel transport_plan = {workspace, plan};

}  // namespace xmkern::XMKERN_CAPABILITY
