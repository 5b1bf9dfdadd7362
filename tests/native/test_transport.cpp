// The kernel of optimal transport against the formulas in double, for the sanitizers: every capability, random shapes,
// strides and masks, in exactly sized memory, so that a read past the end is seen.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/capability.h"
#include "numbers.h"
#include "transport/transport.h"

using namespace xmkern;
using namespace xmkern::transport;

namespace {

int checks = 0;

void check() {
  const int64_t samples = draw(0, 3), rows = draw(0, 20), columns = draw(0, 1) ? draw(0, 20) : draw(30, 70);
  const int64_t row_stride = columns + draw(0, 3), sample_stride = row_stride * rows + draw(0, 3);
  const auto iterations = draw(1, 20), inner = draw(1, 3);
  const double beta = draw(0, 1) ? 0.5 : 0.25;
  const bool empty = samples * rows * columns == 0;
  const auto size = static_cast<size_t>(empty ? 0 : (samples - 1) * sample_stride + (rows - 1) * row_stride + columns);
  const auto cost = std::make_unique<float[]>(size);
  for (size_t i = 0; i < size; ++i) cost[i] = static_cast<float>(draw(0, 128)) / 64;
  const auto mask = [](int64_t count) {
    auto flags = std::make_unique<uint8_t[]>(static_cast<size_t>(count));
    const int64_t share = draw(0, 4);
    for (int64_t i = 0; i < count; ++i) flags[static_cast<size_t>(i)] = draw(1, 4) <= share;
    return flags;
  };
  const auto row_mask = mask(samples * rows), column_mask = mask(samples * columns);
  const auto got = std::make_unique<float[]>(static_cast<size_t>(samples * rows * columns));
  plan({samples, rows, columns, cost.get(), sample_stride, row_stride, row_mask.get(), column_mask.get(), got.get(),
        static_cast<float>(beta), iterations, inner},
       2);

  for (int64_t b = 0; b < samples; ++b) {
    const uint8_t *row_there = row_mask.get() + b * rows, *column_there = column_mask.get() + b * columns;
    double n = 0, m = 0;
    for (int64_t r = 0; r < rows; ++r) m += row_there[r];
    for (int64_t c = 0; c < columns; ++c) n += column_there[c];
    const auto at = [&](int64_t r, int64_t c) { return static_cast<size_t>(r * columns + c); };
    std::vector<double> kernel(static_cast<size_t>(rows * columns)), product(kernel), want(kernel.size(), 1);
    std::vector<double> delta(static_cast<size_t>(rows)), sigma(static_cast<size_t>(columns), n ? 1 / n : 0);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        if (row_there[r] && column_there[c])
          kernel[at(r, c)] = std::exp(-cost[static_cast<size_t>(b * sample_stride + r * row_stride + c)] / beta);
    for (int64_t i = 0; i < iterations; ++i) {
      for (size_t e = 0; e < want.size(); ++e) product[e] = kernel[e] * want[e];
      for (int64_t j = 0; j < inner; ++j) {
        for (int64_t r = 0; r < rows; ++r) {
          double total = 0;
          for (int64_t c = 0; c < columns; ++c) total += product[at(r, c)] * sigma[static_cast<size_t>(c)];
          delta[static_cast<size_t>(r)] = total > 0 ? 1 / (m * total) : 0;
        }
        for (int64_t c = 0; c < columns; ++c) {
          double total = 0;
          for (int64_t r = 0; r < rows; ++r) total += product[at(r, c)] * delta[static_cast<size_t>(r)];
          sigma[static_cast<size_t>(c)] = total > 0 ? 1 / (n * total) : 0;
        }
      }
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
          want[at(r, c)] = delta[static_cast<size_t>(r)] * product[at(r, c)] * sigma[static_cast<size_t>(c)];
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c, ++checks) {
        const double x = got[static_cast<size_t>(b * rows * columns) + at(r, c)];
        if (std::fabs(x - want[at(r, c)]) <= 1e-5) continue;
        std::printf("FAILED: plan(%d, %d) is %g, not %g, at %s: %d x %d, %d iterations of %d\n", static_cast<int>(r),
                    static_cast<int>(c), x, want[at(r, c)], capability_name(current_capability()),
                    static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(iterations),
                    static_cast<int>(inner));
        std::exit(1);
      }
  }
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 200; ++i) check();
  }
  std::printf("transport: %d checks passed on %d capabilities\n", checks, static_cast<int>(detected_capability()) + 1);
  return 0;
}
