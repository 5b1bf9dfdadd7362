// Inner products of rows with rows, out[i][j] = <x_i, y_j>, for kernel sources (see core/capability.h). Vectors run
// along the rows, which are read where they lie: unlike in core/product.h nothing is packed, and no side is padded to
// whole panels, but each sum has its lanes to add at the end. Good for rows of a few hundred numbers.
#pragma once

#include "core/blocks.h"

namespace xmkern::XMKERN_CAPABILITY {

#if defined(__AVX512F__)
inline constexpr int inner_rows = 6;  // with four columns, 24 of 32 registers
#else
inline constexpr int inner_rows = 3;  // 12 of 16
#endif
inline constexpr int inner_columns = 4;

// What a vector holds of a row: `size` numbers.
template <class Arithmetic, Dtype dtype>
struct Stretch {
  static constexpr int size = lanes;
  static Floats all(const void* row, int64_t i) { return load_floats<dtype>(row, i); }
  static Floats some(const void* row, int64_t i, int64_t count) { return load_some_floats<dtype>(row, i, count); }
};

#if defined(__AVX512BF16__)
template <Dtype dtype>
struct Stretch<Pair, dtype> {
  static_assert(dtype == Dtype::bfloat16);
  static constexpr int size = 2 * lanes;
  static Words all(const void* row, int64_t i) {
    return reinterpret_cast<Words>(_mm512_loadu_si512(static_cast<const uint16_t*>(row) + i));
  }
  static Words some(const void* row, int64_t i, int64_t count) {
    return reinterpret_cast<Words>(_mm512_maskz_loadu_epi16((1u << count) - 1, static_cast<const uint16_t*>(row) + i));
  }
};
#endif

// The sums over the lanes of four vectors of each of two rows.
[[gnu::always_inline]] inline void sum4_of_two(const Floats first[4], const Floats second[4], float out[2][4]) {
#if defined(__AVX512F__)
  __m512 x[4];
  for (int i = 0; i < 4; ++i) {
    const auto a = reinterpret_cast<__m512>(first[i]), b = reinterpret_cast<__m512>(second[i]);
    x[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  const __m512 two = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  const __m512 others = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  const __m512 four = _mm512_add_ps(_mm512_shuffle_ps(two, others, 0x44), _mm512_shuffle_ps(two, others, 0xee));
  const __m512 all = _mm512_add_ps(four, _mm512_shuffle_f32x4(four, four, 0xb1));
  _mm_storeu_ps(out[0], _mm512_castps512_ps128(all));
  _mm_storeu_ps(out[1], _mm512_extractf32x4_ps(all, 2));
#else
  sum4(first, out[0]);
  sum4(second, out[1]);
#endif
}

// What a tile fetches meanwhile, so many bytes from the beginning at each step: one row, or those of a tile.
struct NextRow {
  const char* row;

  void fetch(int64_t at) const { __builtin_prefetch(row + at, 0, 2); }
};

struct NextRows {
  const char* rows;
  int64_t stride;

  [[gnu::always_inline]] void fetch(int64_t at) const {
#pragma GCC unroll 4
    for (int i = 0; i < inner_columns; ++i) __builtin_prefetch(rows + i * stride + at, 0, 2);
  }
};

// The strides of x and y are in bytes.
template <class Arithmetic, Dtype dtype, int Rows, int Columns, class Next>
[[gnu::noinline]] void inner_tile(const char* x, int64_t x_stride, const char* y, int64_t y_stride, int64_t depth,
                                  float* out, int64_t out_stride, Next next) {
  using Part = Stretch<Arithmetic, dtype>;
  Floats sums[Rows][4] = {};
  const auto add = [&](auto&& part) {
    decltype(part(x)) rows[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) rows[r] = part(x + r * x_stride);
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) {
      const auto column = part(y + c * y_stride);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) sums[r][c] = Arithmetic::multiply_add(sums[r][c], rows[r], column);
    }
  };
  int64_t k = 0;
  for (; k + Part::size <= depth; k += Part::size) {
    next.fetch(k * size_of(dtype));
    add([&](const char* row) { return Part::all(row, k); });
  }
  if (k < depth) add([&](const char* row) { return Part::some(row, k, depth - k); });
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r += 2) {
    float totals[2][4];
    if (r + 1 < Rows)
      sum4_of_two(sums[r], sums[r + 1], totals);
    else
      sum4(sums[r], totals[0]);
    for (int i = 0; i < 2 && r + i < Rows; ++i)
      __builtin_memcpy(out + (r + i) * out_stride, totals[i], Columns * sizeof(float));
  }
}

template <class Arithmetic, Dtype dtype, int Rows = inner_rows, int Columns = inner_columns, class Next>
inline void inner_tile_of(int rows, int columns, const char* x, int64_t x_stride, const char* y, int64_t y_stride,
                          int64_t depth, float* out, int64_t out_stride, Next next) {
  if constexpr (Rows > 1) {
    if (rows < Rows)
      return inner_tile_of<Arithmetic, dtype, Rows - 1, Columns>(rows, columns, x, x_stride, y, y_stride, depth, out,
                                                                 out_stride, next);
  }
  if constexpr (Columns > 1) {
    if (columns < Columns)
      return inner_tile_of<Arithmetic, dtype, Rows, Columns - 1>(rows, columns, x, x_stride, y, y_stride, depth, out,
                                                                 out_stride, next);
  }
  inner_tile<Arithmetic, dtype, Rows, Columns>(x, x_stride, y, y_stride, depth, out, out_stride, next);
}

// The strides of x and y are in numbers.
template <class Arithmetic, Dtype dtype>
inline void inner_products(const char* x, int64_t x_stride, int64_t rows, const char* y, int64_t y_stride,
                           int64_t columns, int64_t depth, float* out, int64_t out_stride) {
  x_stride *= size_of(dtype), y_stride *= size_of(dtype);
  // Groups as equal as can be: a tile of one or two sums would leave the multipliers waiting for each other.
  const int64_t row_groups = (rows + inner_rows - 1) / inner_rows;
  const int64_t column_groups = (columns + inner_columns - 1) / inner_columns;
  for (int64_t i = 0; i < row_groups; ++i) {
    const int64_t row = i * rows / row_groups, height = (i + 1) * rows / row_groups - row;
    for (int64_t j = 0; j < column_groups; ++j) {
      const int64_t column = j * columns / column_groups, width = (j + 1) * columns / column_groups - column;
      // Each tile fetches a row of the next group of rows.
      const int64_t next = lesser(row + height + j % inner_rows, rows - 1);
      inner_tile_of<Arithmetic, dtype>(static_cast<int>(height), static_cast<int>(width), x + row * x_stride, x_stride,
                                       y + column * y_stride, y_stride, depth, out + row * out_stride + column,
                                       out_stride, NextRow{x + next * x_stride});
    }
  }
}

}  // namespace xmkern::XMKERN_CAPABILITY
