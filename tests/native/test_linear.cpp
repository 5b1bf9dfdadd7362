// The product of a linear layer against sums in double, for the sanitizers: every capability, every dtype, random sizes
// and strides, either side transposed, in exactly sized memory, so that a read past the end is seen.
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
  Dtype dtype;
  int64_t rows, depth, stride;
  bool transposed;
  std::unique_ptr<char[]> data;

  Numbers(Dtype type, int64_t count, int64_t d) : dtype(type), rows(count), depth(d), transposed(coin()) {
    const int64_t lines = transposed ? depth : rows, length = transposed ? rows : depth;
    stride = length + draw(0, 3);
    const int64_t size = (lines - 1) * stride + length;
    data = std::make_unique<char[]>(static_cast<size_t>(size * size_of(dtype)));
    for (int64_t i = 0; i < size; ++i) write(data.get(), dtype, i, static_cast<double>(draw(-16, 16)) / 8);
  }
  double at(int64_t row, int64_t k) const {
    return read(data.get(), dtype, transposed ? k * stride + row : row * stride + k);
  }
  Matrix matrix() const { return {data.get(), stride, transposed}; }
};

void check(Dtype dtype, int64_t rows, int64_t columns, int64_t depth) {
  const Numbers left(dtype, rows, depth), right(dtype, columns, depth), bias(dtype, columns, 1);
  const bool biased = coin();
  const auto got = std::make_unique<char[]>(static_cast<size_t>(rows * columns * size_of(dtype)));
  multiply({dtype, rows, columns, depth, left.matrix(), right.matrix(), biased ? bias.data.get() : nullptr, got.get()},
           static_cast<int>(draw(1, 3)));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c, ++checks) {
      double want = biased ? read(bias.data.get(), dtype, c) : 0;
      for (int64_t k = 0; k < depth; ++k) want += left.at(r, k) * right.at(c, k);
      const double x = read(got.get(), dtype, r * columns + c);
      const double rounding = dtype == Dtype::float32 ? 0 : epsilon(dtype) / 2;  // once
      if (std::fabs(x - want) <= rounding * std::fabs(want)) continue;
      std::printf("FAILED: (%d, %d) is %g, not %g, at %s: dtype %d, %d x %d x %d, transposed %d and %d\n",
                  static_cast<int>(r), static_cast<int>(c), x, want, capability_name(current_capability()),
                  static_cast<int>(dtype), static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(depth),
                  left.transposed, right.transposed);
      std::exit(1);
    }
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 120; ++i)
      check(static_cast<Dtype>(i % 3), draw(1, coin() ? 40 : 110), draw(1, 70), coin() ? draw(1, 40) : draw(100, 300));
    for (int i = 0; i < 6; ++i) check(static_cast<Dtype>(i % 3), draw(1, 60), draw(250, 600), draw(1, 300));
    for (int i = 0; i < 6; ++i) check(static_cast<Dtype>(i % 3), draw(1, 100), draw(1, 40), draw(1000, 2200));
  }
  std::printf("linear: %d checks passed on %d capabilities\n", checks, static_cast<int>(detected_capability()) + 1);
  return 0;
}
