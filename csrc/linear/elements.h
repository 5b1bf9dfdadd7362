// What the kernels of a product share: where an element lies, and how a row of sums leaves.
#pragma once

#include "core/stream.h"
#include "linear/kernels.h"

namespace xmkern::XMKERN_CAPABILITY {

using linear::Matrix;
using linear::Part;
using linear::Product;

template <Dtype dtype>
inline const char* element(const Matrix& m, int64_t line, int64_t number) {
  return static_cast<const char*>(m.data) + (line * m.stride + number) * size_of(dtype);
}

// A row of sums, and the bias if any, to the result.
template <Dtype dtype>
inline void finish(const Product& p, int64_t row, int64_t column, int64_t columns, bool streamed, const void* bias,
                   const float* sums) {
  const int64_t at = row * p.columns + column;
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) {
    Floats x = load(sums + c);
    if (bias != nullptr) x += load_floats<dtype>(bias, column + c);
    if (streamed)
      stream_floats<dtype>(static_cast<char*>(p.out) + (at + c) * size_of(dtype), x);
    else
      store_floats<dtype>(p.out, at + c, x);
  }
  for (; c < columns; ++c)
    store_float<dtype>(p.out, at + c, sums[c] + (bias != nullptr ? load_float<dtype>(bias, column + c) : 0.0f));
}

}  // namespace xmkern::XMKERN_CAPABILITY
