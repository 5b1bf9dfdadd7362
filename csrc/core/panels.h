// What small matrix products work on, for kernel sources (see core/capability.h): blocks of rows, panels of columns,
// and the units that both are made of.
#pragma once

#include "core/halves.h"

namespace xmkern::XMKERN_CAPABILITY {

// Units from one row of a block to the next: 256 columns, and a little so that rows don't meet in the same cache set.
inline constexpr int stride = 256 + 16;
inline constexpr int max_columns = 256;

// Rows in whole groups of a product, the vectors that the sums of one take, and the columns of a panel. A product of R
// rows by V vectors loads R + V of them for R V multiply-adds: of six by four that is the least by far, where a
// processor has as many multipliers as loads.
#if defined(__AVX512F__)
inline constexpr int max_rows = 12, sums_at_once = 24;  // of 32 registers
inline constexpr int panel_width = 4 * lanes;
#else
inline constexpr int max_rows = 6, sums_at_once = 12;  // of 16
inline constexpr int panel_width = 2 * lanes;
#endif

inline constexpr int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// What the operands are made of: units of 32 bits, each with the numbers of one k, or of several whose products are
// added at once.

// Float32 numbers, one a unit.
struct Single {
  using Unit = float;
  static constexpr int numbers = 1;
  static constexpr uint32_t signs = 0x80000000;
  static Floats multiply_add(Floats sum, Floats a, Floats b) { return sum + a * b; }
};

#if defined(__AVX512BF16__)
// Two bfloat16 numbers a unit; their products are added in float32.
struct Pair {
  using Unit = uint32_t;
  static constexpr int numbers = 2;
  static constexpr uint32_t signs = 0x80008000;
  static Floats multiply_add(Floats sum, Words a, Words b) {
    return reinterpret_cast<Floats>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
  }
};
#endif

template <Dtype dtype>
struct ArithmeticOf {
  using type = Single;
};
#if defined(__AVX512BF16__)
template <>
struct ArithmeticOf<Dtype::bfloat16> {
  using type = Pair;
};
#endif

// Multiply-adds of a step of a product.
template <class Arithmetic>
inline constexpr int64_t products_a_step = int64_t{sums_at_once} * lanes * Arithmetic::numbers;

// Units that `count` numbers take.
template <class Arithmetic>
inline int64_t units(int64_t count) {
  return (count + Arithmetic::numbers - 1) / Arithmetic::numbers;
}

// Rows that do not lie in a block, so many units apart.
template <class Unit>
struct Rows {
  const Unit* data;
  int64_t apart;
};

// Panels over `columns` columns (a multiple of `lanes`): panel by panel, k by k; the last may be narrower.
template <class Unit>
struct Panels {
  Unit* data;
  int64_t steps, columns;
  int64_t apart = -1;  // where nothing is packed: so many units from row to row, none where rows are one and the same

  static int64_t size(int64_t steps, int64_t columns) { return steps * round_up(columns, lanes); }
  int64_t width(int64_t column) const { return columns - column < panel_width ? columns - column : panel_width; }
  int64_t step_size(int64_t column) const { return apart >= 0 ? apart : width(column); }
  // `column` begins a panel.
  Unit* at(int64_t step, int64_t column) const {
    return apart >= 0 ? data + step * apart + column : data + column * steps + step * width(column);
  }
};

// Rows of whole vectors as the right side of a product, where they lie.
template <class Unit>
inline Panels<Unit> as_panels(Rows<Unit> rows, int64_t steps, int64_t columns) {
  return {const_cast<Unit*>(rows.data), steps, columns, rows.apart};  // a product only reads them
}

// Rows of a tensor to a block of float32: row r of out has `columns` numbers and zeros up to a multiple of `lanes`.
template <Dtype dtype>
inline void load_block(const void* data, int64_t row_stride, int64_t rows, int64_t columns, float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = out + r * stride;
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) store(row + c, load_floats<dtype>(data, r * row_stride + c));
    if (c == columns) continue;
    store(row + c, Floats{});
    for (; c < columns; ++c) row[c] = load_float<dtype>(data, r * row_stride + c);
  }
}

// Numbers as units: in float32, they are.
inline void store_units(float* out, int64_t column, Floats x) { store(out + column, x); }
inline void narrow(const float*, int64_t, float*) {}  // in place

// Rows as rows `step`.. of panels, padded with what is behind them.
inline void pack(Rows<float> from, int64_t rows, const Panels<float>& out, int64_t step) {
  for (int64_t column = 0; column < out.columns; column += panel_width) {
    const int64_t width = out.width(column);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < width; c += lanes)
        store(out.at(step + r, column) + c, load(from.data + r * from.apart + column + c));
  }
}

#if defined(__AVX512BF16__)
// As many of `count` bfloat16 numbers as there is room for, two a unit, and zeros.
inline Words load_pairs(const uint16_t* from, int64_t count) {
  const __mmask32 there = count < 2 * lanes ? (1u << count) - 1 : ~0u;
  return reinterpret_cast<Words>(_mm512_maskz_loadu_epi16(there, from));
}

// Rows of bfloat16 as they are, two numbers a unit, zeros up to a multiple of `lanes` units.
template <Dtype dtype>
inline void load_block(const void* data, int64_t row_stride, int64_t rows, int64_t columns, uint32_t* out) {
  static_assert(dtype == Dtype::bfloat16);
  const auto* from = static_cast<const uint16_t*>(data);
  for (int64_t r = 0; r < rows; ++r, from += row_stride) {
    for (int64_t c = 0; c < columns; c += 2 * lanes) store(out + r * stride + c / 2, load_pairs(from + c, columns - c));
  }
}

// Pairs of neighbouring rows as rows `step`.. of panels; a last row without a neighbour has zeros.
inline void pack(Rows<uint32_t> from, int64_t rows, const Panels<uint32_t>& out, int64_t step) {
  // Where the halves of two vectors, one behind the other, go: the first halves of each, then the last ones.
  alignas(64) static constexpr uint16_t order[2][32] = {
      {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
       8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
      {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
       24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
  const __m512i first = _mm512_load_si512(order[0]), last = _mm512_load_si512(order[1]);
  for (int64_t column = 0; column < out.columns; column += panel_width) {
    const int64_t width = out.width(column);
    for (int64_t r = 0; r < rows; r += 2) {
      const uint32_t* row = from.data + r * from.apart + column / 2;
      uint32_t* to = out.at(step + r / 2, column);
      for (int64_t c = 0; c < width; c += 2 * lanes) {
        const auto even = reinterpret_cast<__m512i>(load(row + c / 2));
        const auto odd = r + 1 < rows ? reinterpret_cast<__m512i>(load(row + c / 2 + from.apart)) : __m512i{};
        store(to + c, reinterpret_cast<Words>(_mm512_permutex2var_epi16(even, first, odd)));
        if (c + lanes < width)
          store(to + c + lanes, reinterpret_cast<Words>(_mm512_permutex2var_epi16(even, last, odd)));
      }
    }
  }
}

inline void store_units(uint32_t* out, int64_t column, Floats x) { store_floats<Dtype::bfloat16>(out, column, x); }

// `columns` numbers, a multiple of `lanes`, to units; `out` may be `row`.
inline void narrow(const float* row, int64_t columns, uint32_t* out) {
  for (int64_t c = 0; c < columns; c += lanes) store_units(out, c, load(row + c));
}

// What halves_of gives as units of the two numbers of each lane, the first in the low half.
inline Words interleaved(Words halves) {
  alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return reinterpret_cast<Words>(_mm512_permutexvar_epi16(_mm512_load_si512(order), reinterpret_cast<__m512i>(halves)));
}

// The first (0) or last (1) half of a vector.
template <int Number>
inline void store_half(uint32_t* out, Words x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_extracti64x4_epi64(reinterpret_cast<__m512i>(x), Number));
}

// Two rows to units of both. `out` may be `first`.
inline void interleave(const float* first, const float* second, int64_t columns, uint32_t* out) {
  for (int64_t c = 0; c < columns; c += lanes)
    store(out + c, interleaved(halves_of(load(first + c), load(second + c))));
}
#endif

// Sums of the products of two rows of a tensor, by lanes.
template <class Arithmetic, Dtype dtype>
inline Floats inner_product(const void* a, const void* b, int64_t columns) {
  Floats total{};
#if defined(__AVX512BF16__)
  if constexpr (Arithmetic::numbers > 1) {
    const auto *x = static_cast<const uint16_t*>(a), *y = static_cast<const uint16_t*>(b);
    for (int64_t c = 0; c < columns; c += 2 * lanes)
      total = Arithmetic::multiply_add(total, load_pairs(x + c, columns - c), load_pairs(y + c, columns - c));
    return total;
  }
#endif
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) total += load_floats<dtype>(a, c) * load_floats<dtype>(b, c);
  if (c < columns) total += load_some_floats<dtype>(a, c, columns - c) * load_some_floats<dtype>(b, c, columns - c);
  return total;
}

// Rows of a block as rows of panels.
template <class Unit>
inline void pack(const Unit* block, int64_t rows, const Panels<Unit>& out, int64_t step) {
  pack(Rows<Unit>{block, stride}, rows, out, step);
}

// As many rows as there are lanes, transposed into a vector of the `steps` rows of a panel, from `out` on.
template <class Unit>
inline void transpose_rows(Rows<Unit> from, Unit* out, int64_t out_apart, int64_t steps) {
  for (int64_t k = 0; k < steps; k += 4) {
    const int64_t left = steps - k < 4 ? steps - k : 4;
    Words strip[4];
    transpose4(reinterpret_cast<const uint32_t*>(from.data) + k, from.apart, strip);
    for (int64_t c = 0; c < left; ++c) store(reinterpret_cast<uint32_t*>(out + (k + c) * out_apart), strip[c]);
  }
}

// Up to `panel_width` rows, transposed into `steps` rows, from `step` on, of the panel at `column`: they become
// columns. Whole vectors of a row are read; `spare`, a block, takes those that are fewer than the lanes.
template <class Unit>
inline void pack_transposed(Rows<Unit> from, int64_t rows, Unit* spare, const Panels<Unit>& out, int64_t column,
                            int64_t step, int64_t steps) {
  const int64_t width = out.width(column);
  for (int64_t r = 0; r < width; r += lanes, rows -= lanes) {
    Rows<Unit> group{from.data + r * from.apart, from.apart};
    if (rows < lanes) {
      for (int64_t i = 0; i < lanes; ++i)
        for (int64_t k = 0; k < steps; k += lanes)
          store(spare + i * stride + k, i < rows ? load(group.data + i * group.apart + k) : decltype(load(spare)){});
      group = {spare, stride};
    }
    transpose_rows(group, out.at(step, column) + r, out.step_size(column), steps);
  }
}

template <class Unit>
inline void pack_transposed(Rows<Unit> from, int64_t rows, Unit* spare, const Panels<Unit>& out, int64_t column) {
  pack_transposed(from, rows, spare, out, column, 0, out.steps);
}

// The same of a block, whose rows behind are overwritten.
template <class Unit>
inline void pack_transposed(Unit* block, int64_t rows, const Panels<Unit>& out, int64_t column, int64_t step,
                            int64_t steps) {
  pack_transposed(Rows<Unit>{block, stride}, rows, block + rows / lanes * lanes * stride, out, column, step, steps);
}

template <class Unit>
inline void pack_transposed(Unit* block, int64_t rows, const Panels<Unit>& out, int64_t column) {
  pack_transposed(block, rows, out, column, 0, out.steps);
}

}  // namespace xmkern::XMKERN_CAPABILITY
