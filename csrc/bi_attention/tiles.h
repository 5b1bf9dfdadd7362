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

// Rows of a tensor as the right side of products whose steps they are. Hidden rows are zeros, whatever they hold: they
// are multiplied by weights of zero.
template <class Arithmetic>
struct Right {
  using Unit = typename Arithmetic::Unit;

  Blocks<Unit> steps, chunk;  // a few rows as they come, if units hold those of several

  Right(int64_t rows, int64_t depth, Pieces& memory)
      : steps(memory.blocks<Unit>(units<Arithmetic>(rows), Cut(depth))), chunk(steps) {
    if constexpr (Arithmetic::numbers > 1) chunk = memory.blocks<Unit>(chunk_rows, Cut(depth));
  }

  template <Dtype dtype>
  void load(const char* from, int64_t row_stride, int64_t rows, const uint8_t* mask) const {
    const Cut& cut = steps.cut;
    for (int64_t row = 0; row < rows; row += chunk_rows) {
      const int64_t count = lesser(chunk_rows, rows - row);
      for (int64_t r = row; r < row + count; ++r)
        for (int64_t block = 0; block < cut.blocks; ++block) {
          Unit* to = Arithmetic::numbers > 1 ? chunk.at(block, r - row) : steps.at(block, r);
          if (mask && !mask[r])
            __builtin_memset(to, 0, static_cast<std::size_t>(cut.width) * sizeof(Unit));
          else
            load_block<dtype>(from + (r * row_stride + cut.begin(block)) * size_of(dtype), 0, 1, cut.size(block), to);
        }
      if constexpr (Arithmetic::numbers > 1)
        for (int64_t block = 0; block < cut.blocks; ++block)
          pack(chunk.at(block), count, panels(block, 0), row / Arithmetic::numbers);
    }
  }

  Panels<Unit> panels(int64_t block, int64_t rows) const { return steps.panels(block, units<Arithmetic>(rows)); }

 private:
  static constexpr int64_t chunk_rows = 16;
};

// All products of rows x with columns y.
template <class Arithmetic, Dtype dtype>
inline void multiply_rows(const char* x, int64_t x_stride, int64_t rows, const char* y, int64_t y_stride, int64_t depth,
                          const Blocks<float>& out) {
  const Cut& cut = out.cut;
  for (int64_t block = 0; block < cut.blocks; ++block)
    inner_products<Arithmetic, dtype>(x, x_stride, rows, y + cut.begin(block) * y_stride * size_of(dtype), y_stride,
                                      cut.size(block), depth, out.at(block), stride);
}

// What is read or written soon is on its way meanwhile.
template <bool write>
inline void fetch_row(const char* row, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, write, 2);
}

// Rows of weights, one for each column, times what `right` has for each column -> rows of a tensor.
template <class Arithmetic, Dtype dtype>
inline void write_products(const Blocks<typename Arithmetic::Unit>& left, int64_t rows, const Right<Arithmetic>& right,
                           float* scratch, char* out, int64_t out_stride) {
  const Cut &from = left.cut, &to = right.steps.cut;
  for (int64_t block = 0; block < to.blocks; ++block) {
    const auto panels = right.panels(block, from.columns);
    char* at = out + to.begin(block) * size_of(dtype);
    const bool in_place = dtype == Dtype::float32 && to.size(block) % lanes == 0;
    for (int64_t r = 0; !in_place && r < rows; ++r)
      fetch_row<true>(at + r * out_stride * size_of(dtype), to.size(block) * size_of(dtype));
    float* sums = in_place ? reinterpret_cast<float*>(at) : scratch;
    const int64_t sums_stride = in_place ? out_stride : stride;
    for (int64_t i = 0; i < from.blocks; ++i)
      add_product<Arithmetic>(left.at(i), rows, panels, from.begin(i) / Arithmetic::numbers,
                              units<Arithmetic>(from.size(i)), 0, panels.columns, sums, sums_stride, i > 0);
    for (int64_t r = 0; !in_place && r < rows; ++r)
      store_row<dtype>(at + r * out_stride * size_of(dtype), sums + r * stride, to.size(block), 1.0f);
  }
}

// Columns of weights, one number (or pair of numbers) for each row, times what `right` has for each row, are added to
// `sums`, a row for each column.
template <class Arithmetic>
inline void add_products(const Blocks<typename Arithmetic::Unit>& left, int64_t rows, const Right<Arithmetic>& right,
                         const Blocks<float>& sums) {
  const Cut &from = left.cut, &to = right.steps.cut;
  for (int64_t block = 0; block < to.blocks; ++block) {
    const auto panels = right.panels(block, rows);
    for (int64_t i = 0; i < from.blocks; ++i)
      multiply<Arithmetic, true>(left.at(i), from.size(i), panels, 0, panels.steps, 0, panels.columns,
                                 sums.at(block, from.begin(i)), stride, true);
  }
}

// Weights to units, for write_products.
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
