// The product of a linear layer against sums in double, for the sanitizers: every capability, random sizes and strides,
// either side transposed, in exactly sized memory, so that a read past the end is seen.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "core/capability.h"
#include "linear/linear.h"
#include "numbers.h"

using namespace xmkern;
using namespace xmkern::linear;

namespace {

int checks = 0;

// Multiples of 1/8, whose products add up in float32 without rounding.
struct Numbers {
  int64_t rows, depth, stride;
  bool transposed;
  std::unique_ptr<float[]> data;

  Numbers(int64_t count, int64_t d) : rows(count), depth(d), transposed(draw(0, 1) != 0) {
    const int64_t lines = transposed ? depth : rows, length = transposed ? rows : depth;
    stride = length + draw(0, 3);
    const auto size = static_cast<size_t>((lines - 1) * stride + length);
    data = std::make_unique<float[]>(size);
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<float>(draw(-16, 16)) / 8;
  }
  double at(int64_t row, int64_t k) const {
    return data[static_cast<size_t>(transposed ? k * stride + row : row * stride + k)];
  }
  Matrix matrix() const { return {data.get(), stride, transposed}; }
};

void check(int64_t rows, int64_t columns, int64_t depth) {
  const Numbers left(rows, depth), right(columns, depth), bias(1, columns);
  const bool biased = draw(0, 1) != 0;
  const auto got = std::make_unique<float[]>(static_cast<size_t>(rows * columns));
  multiply({rows, columns, depth, left.matrix(), right.matrix(), biased ? bias.data.get() : nullptr, got.get()},
           static_cast<int>(draw(1, 3)));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c, ++checks) {
      double want = biased ? static_cast<double>(bias.data[static_cast<size_t>(c)]) : 0;
      for (int64_t k = 0; k < depth; ++k) want += left.at(r, k) * right.at(c, k);
      const double x = got[static_cast<size_t>(r * columns + c)];
      if (std::fabs(x - want) <= 1e-4) continue;
      std::printf("FAILED: (%d, %d) is %g, not %g, at %s: %d x %d x %d, transposed %d and %d\n", static_cast<int>(r),
                  static_cast<int>(c), x, want, capability_name(current_capability()), static_cast<int>(rows),
                  static_cast<int>(columns), static_cast<int>(depth), left.transposed, right.transposed);
      std::exit(1);
    }
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 60; ++i) check(draw(1, 110), draw(1, 70), draw(0, 1) ? draw(1, 40) : draw(100, 300));
    for (int i = 0; i < 4; ++i) check(draw(1, 60), draw(250, 600), draw(1, 300));
    for (int i = 0; i < 4; ++i) check(draw(1, 100), draw(1, 40), draw(1000, 2200));
  }
  std::printf("linear: %d checks passed on %d capabilities\n", checks, static_cast<int>(detected_capability()) + 1);
  return 0;
}
