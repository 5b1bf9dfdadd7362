// What forward and backward share: operands of one matrix, rows as the right side of a product, products into tensors.
// For kernel sources (see core/capability.h).
#pragma once

#include "bi_attention/kernels.h"
#include "core/blocks.h"
#include "core/inner_products.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using bi_attention::Operand;
using bi_attention::Problem;
using bi_attention::Share;
using bi_attention::Side;
using bi_attention::strip_rows;

inline char* row_of(const Operand& x, Dtype dtype, int64_t batch, int64_t head, int64_t row) {
  return static_cast<char*>(x.data) + (batch * x.batch + head * x.head + row * x.row) * size_of(dtype);
}

inline const uint8_t* mask_of(const Side& side, int64_t batch) {
  return side.mask ? side.mask + batch * side.count : nullptr;
}

// Columns up to the last that is there: those behind it cost nothing.
inline int64_t columns_in(const Problem& p, int64_t batch) {
  const uint8_t* mask = mask_of(p.columns, batch);
  int64_t count = p.columns.count;
  while (mask && count > 0 && !mask[count - 1]) --count;
  return count;
}

inline bool any_row(const uint8_t* mask, int64_t begin, int64_t end) {
  while (mask && begin < end && !mask[begin]) ++begin;
  return begin < end;
}

// Which lanes of each vector of columns are there.
inline void flags_of(const uint8_t* mask, int64_t columns, uint32_t* flags) {
  for (int64_t c = 0; c < columns; ++c) {
    if (c % lanes == 0) flags[c / lanes] = 0;
    if (!mask || mask[c]) flags[c / lanes] |= 1u << (c % lanes);
  }
}

// What a layout of memory takes.
template <class Layout, class... Given>
int64_t bytes_of(const Problem& p, Given... given) {
  Pieces memory(nullptr);
  Layout(p, given..., memory);
  return memory.taken();
}

// Enough for any arithmetic.
template <template <class> class Workspace>
int64_t workspace_bytes(const Problem& p) {
  const int64_t single = bytes_of<Workspace<Single>>(p, p.columns.count);
  const int64_t other = bytes_of<Workspace<ArithmeticOf<Dtype::bfloat16>::type>>(p, p.columns.count);
  return single > other ? single : other;
}

#if defined(__AVX512BF16__)
// Two rows of bfloat16 to units, the first in their low halves, zeros up to a multiple of two vectors of units; null is
// a row of zeros.
inline void pair_numbers(const uint16_t* first, const uint16_t* second, int64_t columns, uint32_t* out) {
  // Where the halves of two vectors, one behind the other, go.
  alignas(64) static constexpr uint16_t order[2][32] = {
      {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
       8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
      {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
       24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
  const __m512i begin = _mm512_load_si512(order[0]), end = _mm512_load_si512(order[1]);
  for (int64_t c = 0; c < columns; c += 2 * lanes) {
    const auto numbers = [&](const uint16_t* row) {
      return reinterpret_cast<__m512i>(row ? load_pairs(row + c, columns - c) : Words{});
    };
    const __m512i low = numbers(first), high = numbers(second);
    store(out + c, reinterpret_cast<Words>(_mm512_permutex2var_epi16(low, begin, high)));
    store(out + c + lanes, reinterpret_cast<Words>(_mm512_permutex2var_epi16(low, end, high)));
  }
}
#endif

// Rows of a tensor as the right side of products whose steps they are. Hidden rows are zeros, whatever they hold: they
// are multiplied by weights of zero.
template <class Arithmetic>
struct Right {
  using Unit = typename Arithmetic::Unit;

  Blocks<Unit> steps;

  Right(int64_t rows, int64_t depth, Pieces& memory)
      : steps(memory.blocks<Unit>(units<Arithmetic>(rows), Cut(depth))) {}

  template <Dtype dtype>
  void load(const char* from, int64_t row_stride, int64_t rows, const uint8_t* mask) const {
    const Cut& cut = steps.cut;
    const auto numbers = [&](int64_t row, int64_t block) -> const char* {
      const bool there = row < rows && (!mask || mask[row]);
      return there ? from + (row * row_stride + cut.begin(block)) * size_of(dtype) : nullptr;
    };
    for (int64_t row = 0; row < rows; row += Arithmetic::numbers)
      for (int64_t block = 0; block < cut.blocks; ++block) {
        Unit* to = steps.at(block, row / Arithmetic::numbers);
        if constexpr (Arithmetic::numbers > 1)
          pair_numbers(reinterpret_cast<const uint16_t*>(numbers(row, block)),
                       reinterpret_cast<const uint16_t*>(numbers(row + 1, block)), cut.size(block), to);
        else if (const char* at = numbers(row, block))
          load_block<dtype>(at, 0, 1, cut.size(block), to);
        else
          __builtin_memset(to, 0, static_cast<std::size_t>(cut.width) * sizeof(Unit));
      }
  }

  Panels<Unit> panels(int64_t block, int64_t rows) const { return steps.panels(block, units<Arithmetic>(rows)); }
};

// Columns as the right side of products along the depth. Where that is short, inner products would add up lanes for as
// long as they multiply: columns are packed, transposed. Where it is long, they are left where they lie.
template <class Arithmetic>
struct Along {
  using Unit = typename Arithmetic::Unit;

  bool packed;
  Panels<Unit> panels;
  Unit *chunk, *left;  // a few columns, a strip of rows

  Along(int64_t columns, int64_t depth, Pieces& memory)
      : packed(depth <= max_columns),
        panels{memory.take<Unit>(packed ? units<Arithmetic>(depth) * whole_vectors(columns) : 0),
               units<Arithmetic>(depth), whole_vectors(columns)},
        chunk(memory.take<Unit>(packed ? panel_width * stride : 0)),
        left(memory.take<Unit>(packed ? strip_rows * stride : 0)) {}

  template <Dtype dtype>
  void load(const char* from, int64_t row_stride, int64_t columns, int64_t depth) {
    panels.columns = whole_vectors(columns);
    for (int64_t c = 0; packed && c < columns; c += panel_width) {
      const int64_t count = lesser(panel_width, columns - c);
      load_block<dtype>(from + c * row_stride * size_of(dtype), row_stride, count, depth, chunk);
      pack_transposed(chunk, count, panels, c);
    }
  }
};

// All products of rows x with columns y, which `along` has loaded.
template <class Arithmetic, Dtype dtype>
inline void multiply_rows(const char* x, int64_t x_stride, int64_t rows, const char* y, int64_t y_stride, int64_t depth,
                          const Along<Arithmetic>& along, const Blocks<float>& out, Prefetcher& ahead) {
  const Cut& cut = out.cut;
  if (along.packed) load_block<dtype>(x, x_stride, rows, depth, along.left);
  for (int64_t block = 0; block < cut.blocks; ++block) {
    const int64_t begin = cut.begin(block), size = cut.size(block);
    if (along.packed)
      add_product<Arithmetic>(along.left, rows, along.panels, 0, along.panels.steps, begin, begin + whole_vectors(size),
                              out.at(block), stride, false, ahead);
    else
      inner_products<Arithmetic, dtype>(x, x_stride, rows, y + begin * y_stride * size_of(dtype), y_stride, size, depth,
                                        out.at(block), stride);
  }
}

// Asks for rows `begin` to `end` of a matrix.
inline void fetch(const Operand& x, const Problem& p, int64_t batch, int64_t head, int64_t begin, int64_t end,
                  int64_t columns, Prefetcher& ahead) {
  ahead.add(row_of(x, p.dtype, batch, head, begin), x.row * size_of(p.dtype), end - begin, columns * size_of(p.dtype));
}

// What comes behind the strip that ends at row `end`: the next one, or the first one and the columns of the next
// matrix. f is called with the batch element, the head and the first and last of the rows, and whether the columns come
// too.
template <class F>
inline void for_next(const Problem& p, const Share& share, int64_t end, F&& f) {
  if (end < share.row_end)
    f(share.batch, share.head, end, lesser(end + strip_rows, share.row_end), false);
  else if (share.goes_on)
    f(share.batch + (share.head + 1) / p.heads, (share.head + 1) % p.heads, 0, lesser(strip_rows, p.rows.count), true);
}

// Spreads what has been asked for over the products of a strip with all columns, one over each of the depths.
template <class Arithmetic>
inline void spread(const Problem& p, int64_t rows, Prefetcher& ahead) {
  const int64_t depths = p.depth + p.rows.value_depth + p.columns.value_depth;
  ahead.spread(rows * p.columns.count * depths / products_a_step<Arithmetic>);
}

// What is written soon is on its way meanwhile.
inline void fetch_row(const char* row, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 1, 2);
}

// Rows of weights, one for each column, times what `right` has for each column -> rows of a tensor. Fetched: `ahead`
// asks for these rows, from the second group of max_rows on.
template <class Arithmetic, Dtype dtype, class Ahead>
inline void write_products(const Blocks<typename Arithmetic::Unit>& left, int64_t rows, const Right<Arithmetic>& right,
                           float* scratch, char* out, int64_t out_stride, Ahead& ahead, bool fetched = false) {
  const Cut &from = left.cut, &to = right.steps.cut;
  const auto multiply = [&](int64_t block, int64_t row, int64_t count, float* sums, int64_t sums_stride) {
    const auto panels = right.panels(block, from.columns);
    for (int64_t i = 0; i < from.blocks; ++i)
      add_product<Arithmetic>(left.at(i, row), count, panels, from.begin(i) / Arithmetic::numbers,
                              units<Arithmetic>(from.size(i)), 0, panels.columns, sums, sums_stride, i > 0, ahead);
  };
  if (dtype == Dtype::float32 && to.columns % lanes == 0) {
    for (int64_t block = 0; block < to.blocks; ++block)
      multiply(block, 0, rows, reinterpret_cast<float*>(out) + to.begin(block), out_stride);
    return;
  }
  // So few rows that their sums stay in the first-level cache until they are converted.
  for (int64_t row = 0; row < rows; row += max_rows) {
    const int64_t count = lesser(max_rows, rows - row);
    for (int64_t block = 0; block < to.blocks; ++block) {
      char* at = out + to.begin(block) * size_of(dtype);
      for (int64_t r = row; (row == 0 || !fetched) && r < row + count; ++r)
        fetch_row(at + r * out_stride * size_of(dtype), to.size(block) * size_of(dtype));
      multiply(block, row, count, scratch, stride);
      for (int64_t r = 0; r < count; ++r)
        store_row<dtype>(at + (row + r) * out_stride * size_of(dtype), scratch + r * stride, to.size(block), 1.0f);
    }
  }
}

// Columns of weights, one number (or pair of numbers) for each row, times what `right` has for each row -> `sums`, a
// row for each column, or added to them.
template <class Arithmetic, class Ahead>
inline void add_products(const Blocks<typename Arithmetic::Unit>& left, int64_t rows, const Right<Arithmetic>& right,
                         const Blocks<float>& sums, bool add, Ahead& ahead) {
  const Cut &from = left.cut, &to = right.steps.cut;
  for (int64_t block = 0; block < to.blocks; ++block) {
    const auto panels = right.panels(block, rows);
    for (int64_t i = 0; i < from.blocks; ++i)
      multiply<Arithmetic, true>(left.at(i), from.size(i), panels, 0, panels.steps, 0, panels.columns,
                                 sums.at(block, from.begin(i)), stride, add, ahead);
  }
}

// Weights to units, for write_products; `out` may be the same memory.
template <class Unit>
inline void scale_row(const Blocks<float>& from, int64_t row, float scale, const Blocks<Unit>& out) {
  from.for_vectors([&](int64_t block, int64_t column, uint32_t) {
    store_units(out.at(block, row), column, load(from.at(block, row) + column) * scale);
  });
}

template <class Unit>
inline void narrow_rows(const Blocks<float>& from, int64_t rows, const Blocks<Unit>& out) {
  for (int64_t row = 0; row < rows; ++row) narrow_row(from, row, out);
}

template <Dtype dtype>
inline void clear_rows(const Operand& x, int64_t batch, int64_t head, int64_t begin, int64_t end, int64_t columns) {
  for (int64_t row = begin; row < end; ++row)
    __builtin_memset(row_of(x, dtype, batch, head, row), 0, static_cast<std::size_t>(columns * size_of(dtype)));
}

// Zero weights make rows of zeros, and of NaN where there is NaN on the other side; hidden rows have none of it.
template <Dtype dtype>
inline void clear_hidden(const uint8_t* mask, const Operand& x, int64_t batch, int64_t head, int64_t begin, int64_t end,
                         int64_t columns) {
  for (int64_t row = begin; mask && row < end; ++row)
    if (!mask[row]) clear_rows<dtype>(x, batch, head, row, row + 1, columns);
}

template <Dtype dtype>
inline void store_blocks(const Blocks<float>& x, int64_t row, float scale, char* out) {
  const Cut& cut = x.cut;
  for (int64_t block = 0; block < cut.blocks; ++block)
    store_row<dtype>(out + cut.begin(block) * size_of(dtype), x.at(block, row), cut.size(block), scale);
}

}  // namespace
}  // namespace xmkern::XMKERN_CAPABILITY
