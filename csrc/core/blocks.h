// Matrices in memory that a kernel works on, cut into blocks of columns that small products take (core/product.h). For
// kernel sources (see core/capability.h).
#pragma once

#include <cstddef>

#include "core/product.h"

namespace xmkern::XMKERN_CAPABILITY {

inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t whole_vectors(int64_t count) { return round_up(count, lanes); }

// Columns cut into blocks that `stride` has room for, all but the last of one width, in whole panels.
struct Cut {
  int64_t columns, blocks, width;

  explicit Cut(int64_t count) : columns(count) {
    blocks = count > max_columns ? (count + max_columns - 1) / max_columns : 1;
    width = round_up((count + blocks - 1) / blocks, panel_width);
  }
  int64_t begin(int64_t block) const { return block * width; }
  int64_t size(int64_t block) const { return lesser(width, columns - block * width); }
};

// A matrix block by block; the rows of a block lie `stride` units apart.
template <class Unit>
struct Blocks {
  Unit* data;
  int64_t rows;
  Cut cut;

  static int64_t size(int64_t rows, const Cut& cut) { return rows * cut.blocks * stride; }
  Unit* at(int64_t block, int64_t row = 0) const { return data + (block * rows + row) * stride; }
  // `steps` rows of a block as the right side of a product.
  Panels<Unit> panels(int64_t block, int64_t steps) const {
    return as_panels(Rows<Unit>{at(block), stride}, steps, whole_vectors(cut.size(block)));
  }
  // Calls f with each vector's block and column, and which of its lanes hold columns of the matrix.
  template <class F>
  void for_vectors(F&& f) const {
    for (int64_t block = 0; block < cut.blocks; ++block)
      for (int64_t column = 0, size = cut.size(block); column < size; column += lanes)
        f(block, column, column + lanes <= size ? ~0u : (1u << (size - column)) - 1);
  }
};

// Hands out a workspace piece by piece; of one at address 0, only what is taken counts.
class Pieces {
 public:
  explicit Pieces(const void* memory) : begin_(reinterpret_cast<uintptr_t>(memory)), at_(begin_) {}

  template <class T>
  T* take(int64_t count) {
    static_assert(sizeof(T) == 4);
    const uintptr_t begin = at_;
    at_ += static_cast<uintptr_t>(round_up(count * 4, 64));
    return reinterpret_cast<T*>(begin);
  }
  template <class Unit>
  Blocks<Unit> blocks(int64_t rows, const Cut& cut) {
    return {take<Unit>(Blocks<Unit>::size(rows, cut)), rows, cut};
  }
  int64_t taken() const { return static_cast<int64_t>(at_ - begin_); }

 private:
  uintptr_t begin_, at_;
};

// A row to units; `out` may be the same memory.
template <class Unit>
inline void narrow_row(const Blocks<float>& from, int64_t row, const Blocks<Unit>& out) {
  for (int64_t block = 0; block < from.cut.blocks; ++block)
    narrow(from.at(block, row), whole_vectors(from.cut.size(block)), out.at(block, row));
}

template <class Unit>
inline Blocks<Unit> as_units(const Blocks<float>& x) {
  return {reinterpret_cast<Unit*>(x.data), x.rows, x.cut};
}

inline void clear(const Blocks<float>& x) {
  __builtin_memset(x.data, 0, static_cast<std::size_t>(Blocks<float>::size(x.rows, x.cut)) * sizeof(float));
}

// Rows of numbers as rows of a right side, `step`.. of panels.
inline void pack_numbers(const float* block, int64_t rows, const Panels<float>& out, int64_t step) {
  pack(block, rows, out, step);
}
#if defined(__AVX512BF16__)
inline constexpr float zeros[max_columns] = {};

inline void pack_numbers(const float* block, int64_t rows, const Panels<uint32_t>& out, int64_t step) {
  for (int64_t column = 0; column < out.columns; column += panel_width)
    for (int64_t r = 0; r < rows; r += 2) {
      const float* row = block + r * stride + column;
      interleave(row, r + 1 < rows ? row + stride : zeros, out.width(column), out.at(step + r / 2, column));
    }
}

// Pairs of rows to units, in place.
inline void pair_rows(const Blocks<float>& x, int64_t rows) {
  for (int64_t block = 0; block < x.cut.blocks; ++block)
    for (int64_t r = 0; r < rows; r += 2)
      interleave(x.at(block, r), r + 1 < rows ? x.at(block, r + 1) : zeros, whole_vectors(x.cut.size(block)),
                 reinterpret_cast<uint32_t*>(x.at(block, r / 2)));
}
#endif

// A product in passes over some of its steps, as equal as can be. What a pass reads of a panel then stays in the
// first-level cache from one group of rows to the next, and a sum in parts rounds less than a long one.
template <class Arithmetic, class Ahead = const NoPrefetcher>
inline void add_product(const typename Arithmetic::Unit* left, int64_t rows,
                        const Panels<typename Arithmetic::Unit>& right, int64_t step, int64_t steps,
                        int64_t column_begin, int64_t column_end, float* out, int64_t out_stride, bool add,
                        Ahead& ahead = no_prefetcher) {
  constexpr int64_t most = 64;
  const int64_t passes = steps > most ? (steps + most - 1) / most : 1;
  for (int64_t i = 0; i < passes; ++i) {
    const int64_t begin = i * steps / passes, end = (i + 1) * steps / passes;
    multiply<Arithmetic, false>(left + begin, rows, right, step + begin, end - begin, column_begin, column_end, out,
                                out_stride, add || i > 0, ahead);
  }
}

}  // namespace xmkern::XMKERN_CAPABILITY
