// The products of one matrix while a strip of its columns is worked on, and what gradients of products make of both of
// its sides. For kernel sources (see core/capability.h).
#pragma once

#include "contrastive/slopes.h"

namespace xmkern::XMKERN_CAPABILITY {

// Blocks as equal as whole groups of rows in registers allow: a short last block would waste what was packed for it.
inline int64_t rows_a_block(const Part& part) {
  const int64_t rows = part.row_end - part.row_begin, blocks = (rows + block_rows - 1) / block_rows;
  return round_up((rows + blocks - 1) / blocks, max_rows);
}

// The strip's columns as right operand.
template <class Arithmetic, Dtype dtype>
class Products {
 public:
  using Unit = typename Arithmetic::Unit;

  // Numbers of 32 bits: enough for any arithmetic.
  static int64_t size(const Problem& p) {
    return (blocks_of(p.depth) + 1) * block_size + panel_width * stride + p.depth * max_columns + 64;
  }

  Products(const Problem& p, const Part& part, Memory& memory)
      : p_(p),
        blocks_(reinterpret_cast<Unit*>(memory.floats(blocks_of(units<Arithmetic>(p.depth)) * block_size))),
        packed_(memory.panels<Arithmetic>(p.depth, part.column_end - part.column_begin)),
        tile(memory.floats(block_size)),
        strip(p.y, part.column_begin, part.column_end) {
    auto* panel_block = reinterpret_cast<Unit*>(memory.floats(panel_width * stride));
    pack_columns<Arithmetic, dtype>(p.y, p.depth, strip.begin, strip.count, packed_, panel_block);
  }

  // With some rows, to the tile.
  void multiply_rows(int64_t row, int64_t count) {
    load_rows<Arithmetic, dtype>(p_.x, p_.depth, row, count, blocks_);
    multiply_tile<Arithmetic>(blocks_, count, packed_, tile);
  }

 private:
  const Problem& p_;
  Unit* blocks_;
  Panels<Unit> packed_;

 public:
  float* tile;
  Strip strip;
};

// The strip's rows of y, and rows of x, as right operands of gradients: of those sides that these are wanted of.
template <class Arithmetic, Dtype dtype>
class SideGradients {
 public:
  using Unit = typename Arithmetic::Unit;

  static int64_t size(const Problem& p) {
    return block_size + (block_rows + max_columns) * round_up(p.depth, lanes) + 96;
  }

  SideGradients(const Problem& p, const Strip& strip, float* grad_x, float* grad_y, Memory& memory)
      : p_(p),
        strip_(strip),
        turned_(reinterpret_cast<Unit*>(memory.floats(block_size))),
        y_rows_(memory.panels<Arithmetic>(strip.count, p.depth)),
        x_rows_(memory.panels<Arithmetic>(block_rows, p.depth)),
        grad_x_(grad_x),
        grad_y_(grad_y) {
    if (grad_x) pack_rows<Arithmetic, dtype>(p.y, p.depth, strip.begin, strip.count, y_rows_);
  }

  // What a tile of gradients of products, which it overwrites, makes of both sides.
  void add(float* tile, int64_t row, int64_t count) {
    const int64_t depth = round_up(p_.depth, 16);
    if (grad_y_) {
      pack_rows<Arithmetic, dtype>(p_.x, p_.depth, row, count, x_rows_);
      multiply<Arithmetic, true>(transposed_units(tile, count, strip_.width, turned_), strip_.count, x_rows_, 0,
                                 units<Arithmetic>(count), 0, x_rows_.columns, grad_y_ + strip_.begin * depth, depth,
                                 true);
    }
    if (grad_x_)
      multiply<Arithmetic, false>(units_in_place<Unit>(tile, count, strip_.width), count, y_rows_, 0, y_rows_.steps, 0,
                                  y_rows_.columns, grad_x_ + row * depth, depth, true);
  }

 private:
  const Problem& p_;
  const Strip& strip_;
  Unit* turned_;
  Panels<Unit> y_rows_, x_rows_;
  float *grad_x_, *grad_y_;
};

// Calls f<Arithmetic, dtype>() with those of a dtype.
template <class F>
inline void with_arithmetic(Dtype dtype, F&& f) {
  with_dtype(dtype, [&](auto type) {
    constexpr Dtype known = decltype(type)::value;
    f.template operator()<typename ArithmeticOf<known>::type, known>();
  });
}

}  // namespace xmkern::XMKERN_CAPABILITY
