// Small matrix products in registers: C[row][column] += sum over k of A[row][k] B[k][column], for kernel sources (see
// core/capability.h).
//
// A lies in a block of rows `stride` units apart (a constant, so that addresses need no arithmetic) and its numbers are
// broadcast one by one; B is packed in panels, a few vectors of columns wide, so that it is read in order.
#pragma once

#include "core/panels.h"
#include "core/prefetch.h"

namespace xmkern::XMKERN_CAPABILITY {

template <class Unit>
inline const Unit* begin_of(const Unit* block) {
  return block;
}
template <class Unit>
inline const Unit* begin_of(Rows<Unit> rows) {
  return rows.data;
}
// A constant for a block, so that addresses need no arithmetic.
template <class Unit>
inline constexpr int64_t distance_of(const Unit*) {
  return stride;
}
template <class Unit>
inline int64_t distance_of(Rows<Unit> rows) {
  return rows.apart;
}

// A(row, k) is a[row * stride + k], or, transposed, a[k * stride + row]. The columns are Halves half vectors; behind an
// odd one, zeros are stored. The odd halves of two rows share a vector, so that none of the lanes idle.
template <class Arithmetic, int Height, int Halves, bool Transposed, class Left, class Ahead>
[[gnu::noinline]] void product(Left rows, const typename Arithmetic::Unit* b, int64_t b_step, int64_t steps, float* c,
                               int64_t c_stride, bool add, Ahead& ahead) {
  const auto* a = begin_of(rows);
  const auto apart = distance_of(rows);
  constexpr int vectors = Halves / 2;
  constexpr bool odd = Halves % 2 != 0;
  Floats sums[Height][vectors + 1];  // the last one is not used
  Floats pair_sums[Height / 2 + 1];  // of the odd halves
#pragma GCC unroll 16
  for (int r = 0; r < Height; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = Floats{};
    if (r % 2 == 0) pair_sums[r / 2] = Floats{};
  }
  auto lines = ahead.lines(steps);
  for (int64_t left = steps; left > 0; left -= lines.every) {
    lines.next();
    for (int64_t i = left < lines.every ? left : lines.every; i > 0; --i) {
      decltype(load(b)) columns[vectors + 1], before{};
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) columns[v] = load(b + v * lanes);
      if constexpr (odd) columns[vectors] = load_half_twice(b + vectors * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < Height; ++r) {
        const auto number = splat(a[Transposed ? r : r * apart]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[r][v] = Arithmetic::multiply_add(sums[r][v], number, columns[v]);
        if constexpr (odd) {
          if (r % 2 != 0 || r + 1 == Height)
            pair_sums[r / 2] = Arithmetic::multiply_add(pair_sums[r / 2], r % 2 != 0 ? join(before, number) : number,
                                                        columns[vectors]);
          before = number;
        }
      }
      a += Transposed ? apart : 1;
      b += b_step;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Height; ++r, c += c_stride) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* at = c + v * lanes;
      // Added last: a long sum then has a rounding at its full size once a block, not once a term.
      store(at, add ? load(at) + sums[r][v] : sums[r][v]);
    }
    if constexpr (odd) {
      float* at = c + vectors * lanes;
      const HalfFloats half = r % 2 != 0 ? half_of<1>(pair_sums[r / 2]) : half_of<0>(pair_sums[r / 2]);
      store(at, add ? load_half(at) + half : half);
      store(at + lanes / 2, HalfFloats{});
    }
  }
}

template <int Number>
struct Count {
  static constexpr int value = Number;
};

// Rows whose sums the registers hold, with room for what they are made of. Even, since two rows share a vector of odd
// halves; with twelve, the sums of a single vector do not wait for each other.
inline constexpr int rows_at_once(int halves) {
  const int rows = 2 * sums_at_once / halves;
  return rows < 12 ? rows / 2 * 2 : 12;
}

// The product for a number of rows that is known at run time only, 1 to rows_at_once.
template <class Arithmetic, int Halves, bool Transposed, int Height = rows_at_once(Halves), class Left, class Ahead>
inline void product_of_rows(int rows, Left a, const typename Arithmetic::Unit* b, int64_t b_step, int64_t steps,
                            float* c, int64_t c_stride, bool add, Ahead& ahead) {
  if constexpr (Height > 1) {
    if (rows < Height)
      return product_of_rows<Arithmetic, Halves, Transposed, Height - 1>(rows, a, b, b_step, steps, c, c_stride, add,
                                                                         ahead);
  }
  product<Arithmetic, Height, Halves, Transposed>(a, b, b_step, steps, c, c_stride, add, ahead);
}

template <bool Transposed, class Unit>
inline const Unit* rows_from(const Unit* block, int64_t row) {
  return block + row * (Transposed ? 1 : stride);
}
template <bool Transposed, class Unit>
inline Rows<Unit> rows_from(Rows<Unit> rows, int64_t row) {
  return {rows.data + row * (Transposed ? 1 : rows.apart), rows.apart};
}

// Calls f with how many half vectors `left` columns take, at most those of so many vectors: a constant, and even unless
// an odd number is worth its code.
template <int Vectors, bool Odd, class F>
inline void with_halves(int64_t left, F&& f) {
  constexpr int most = (Vectors - 1) * lanes;
  if constexpr (Vectors > 1) {
    if (left <= most) return with_halves<Vectors - 1, Odd>(left, f);
  }
  if constexpr (Odd) {
    if (left <= most + lanes / 2) return f(Count<2 * Vectors - 1>{});
  }
  f(Count<2 * Vectors>{});
}

// C += A B for `rows` rows of A, `steps` units of k from the panels' row `step` on, and panels from column_begin (the
// begin of one) to column_end. C's columns count from column_begin, and are whole vectors. Narrow: a half vector is not
// multiplied where column_end leaves it out, and zeros are stored there; more code, for products of few columns. At
// each step `ahead` asks for what is needed next.
template <class Arithmetic, bool Transposed, bool Narrow = false, class Left, class Ahead = const NoPrefetcher>
inline void multiply(Left a, int64_t rows, const Panels<typename Arithmetic::Unit>& b, int64_t step, int64_t steps,
                     int64_t column_begin, int64_t column_end, float* c, int64_t c_stride, bool add,
                     Ahead& ahead = no_prefetcher) {
  constexpr bool odd = Narrow && lanes > 4;  // a vector of four is not worth halving
  for (int64_t column = column_begin; column < column_end; column += panel_width) {
    const auto* panel = b.at(step, column);
    const int64_t step_size = b.step_size(column), left = column_end - column;
    const auto run = [&](auto halves) {
      constexpr int count = decltype(halves)::value, most = rows_at_once(count);
      // Groups of rows as equal as can be: a group of one or two would leave the multipliers waiting for each other.
      const int64_t groups = (rows + most - 1) / most;
      for (int64_t group = 0, row = 0; group < groups; ++group) {
        const int height = static_cast<int>(rows / groups + (group < rows % groups));
        product_of_rows<Arithmetic, count, Transposed>(height, rows_from<Transposed>(a, row), panel, step_size, steps,
                                                       c + row * c_stride + column - column_begin, c_stride, add,
                                                       ahead);
        row += height;
      }
    };
    with_halves<panel_width / lanes, odd>(left, run);
  }
}

}  // namespace xmkern::XMKERN_CAPABILITY
