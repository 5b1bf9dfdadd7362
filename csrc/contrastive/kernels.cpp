// Reductions of a matrix of similarities and their gradients, a tile at a time: forward, the products of a block of
// rows and a strip of columns are reduced and forgotten; backward, they are computed again, turned into their
// gradients, and multiplied with both sides. Compiled once per instruction set (see core/capability.h): no
// standard-library code in here.
#include "contrastive/reductions.h"
#include "contrastive/slopes.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

// Enough for any arithmetic.
int64_t shared_workspace(const Problem& p, int64_t columns) {
  const int64_t blocks = blocks_of(p.depth) + 1, panel_block = panel_width * stride;
  return blocks * block_size + panel_block + p.depth * round_up(columns, lanes);
}

int64_t forward_workspace(const Problem& p) { return 4 * (shared_workspace(p, contrastive::strip_columns) + 64); }

int64_t backward_workspace(const Problem& p) {
  const int64_t columns = contrastive::strip_columns, depth = round_up(p.depth, lanes);
  return 4 * (shared_workspace(p, columns) + block_size + (block_rows + columns) * depth + 96);
}

// Blocks as equal as whole groups of rows in registers allow: a short last block would waste what was packed for it.
int64_t rows_a_block(const Part& part) {
  const int64_t rows = part.row_end - part.row_begin, blocks = (rows + block_rows - 1) / block_rows;
  return round_up((rows + blocks - 1) / blocks, max_rows);
}

void copy_tile(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; c += lanes) store(to + r * to_stride + c, load(from + r * from_stride + c));
}

float* kept_tile(const Problem& p, int64_t row, const Strip& strip) {
  return p.products + row * p.products_stride + strip.begin;
}

template <class Arithmetic, Dtype dtype>
void forward_of(const Problem& p, const Totals& rows, const Totals& columns, const Part& part) {
  using Unit = typename Arithmetic::Unit;
  Memory memory(part.workspace);
  auto* blocks = reinterpret_cast<Unit*>(memory.floats(blocks_of(units<Arithmetic>(p.depth)) * block_size));
  auto* tile = memory.floats(block_size);
  auto* panel_block = reinterpret_cast<Unit*>(memory.floats(panel_width * stride));
  const Strip strip(p.y, part.column_begin, part.column_end);
  const auto packed = memory.panels<Arithmetic>(p.depth, strip.count);
  pack_columns<Arithmetic, dtype>(p.y, p.depth, strip.begin, strip.count, packed, panel_block);
  StripTotals strip_totals(p, strip, columns);
  const int64_t block = rows_a_block(part);
  for (int64_t row = part.row_begin; row < part.row_end; row += block) {
    const int64_t count = lesser(block, part.row_end - row);
    load_rows<Arithmetic, dtype>(p.x, p.depth, row, count, blocks);
    multiply_tile<Arithmetic>(blocks, count, packed, tile);
    if (p.products) copy_tile(tile, stride, kept_tile(p, row, strip), p.products_stride, count, strip.width);
    reduce(p, strip, row, count, tile, rows, strip_totals);
  }
  strip_totals.store(p, strip, columns);
}

// Gradients as left operands of both products: units along the rows, and, in their place, rows of units. In float32 a
// tile is both.
const float* transposed_units(const float* tile, int64_t, int64_t, float*) { return tile; }

#if defined(__AVX512BF16__)
const uint32_t* transposed_units(const float* tile, int64_t rows, int64_t columns, uint32_t* out) {
  alignas(64) static constexpr float nothing[max_columns] = {};
  for (int64_t r = 0; r < rows; r += 2) {
    const float* line = tile + r * stride;
    interleave(line, r + 1 < rows ? line + stride : nothing, columns, out + r / 2 * stride);
  }
  return out;
}
#endif

template <class Unit>
const Unit* units_in_place(float* tile, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) narrow(tile + r * stride, columns, reinterpret_cast<Unit*>(tile + r * stride));
  return reinterpret_cast<const Unit*>(tile);
}

template <class Arithmetic, Dtype dtype>
void backward_of(const Problem& p, const Gradients& g, const Totals* totals, const Part& part) {
  using Unit = typename Arithmetic::Unit;
  Memory memory(part.workspace);
  auto* blocks = reinterpret_cast<Unit*>(memory.floats(blocks_of(units<Arithmetic>(p.depth)) * block_size));
  auto* tile = memory.floats(block_size);
  auto* turned = reinterpret_cast<Unit*>(memory.floats(block_size));
  auto* panel_block = reinterpret_cast<Unit*>(memory.floats(panel_width * stride));
  const Strip strip(p.y, part.column_begin, part.column_end);
  const auto packed = memory.panels<Arithmetic>(p.depth, strip.count);
  const auto y_rows = memory.panels<Arithmetic>(strip.count, p.depth);
  const auto x_rows = memory.panels<Arithmetic>(block_rows, p.depth);
  if (!p.products) pack_columns<Arithmetic, dtype>(p.y, p.depth, strip.begin, strip.count, packed, panel_block);
  if (g.rows.grad) pack_rows<Arithmetic, dtype>(p.y, p.depth, strip.begin, strip.count, y_rows);
  StripSlopes strip_slopes(p, strip, g.columns);
  StripTotals strip_totals(p, strip, {});  // none: totals are of rows
  const int64_t depth = round_up(p.depth, 16);
  const int64_t block = rows_a_block(part);
  for (int64_t row = part.row_begin; row < part.row_end; row += block) {
    const int64_t count = lesser(block, part.row_end - row);
    if (p.products) {
      copy_tile(kept_tile(p, row, strip), p.products_stride, tile, stride, count, strip.width);
    } else {
      load_rows<Arithmetic, dtype>(p.x, p.depth, row, count, blocks);
      multiply_tile<Arithmetic>(blocks, count, packed, tile);
    }
    if (totals) reduce(p, strip, row, count, tile, *totals, strip_totals);
    differentiate(p, g, strip, row, count, tile, strip_slopes);
    if (g.columns.grad) {
      pack_rows<Arithmetic, dtype>(p.x, p.depth, row, count, x_rows);
      multiply<Arithmetic, true>(transposed_units(tile, count, strip.width, turned), strip.count, x_rows, 0,
                                 units<Arithmetic>(count), 0, x_rows.columns, g.columns.grad + strip.begin * depth,
                                 depth, true);
    }
    if (g.rows.grad)
      multiply<Arithmetic, false>(units_in_place<Unit>(tile, count, strip.width), count, y_rows, 0, y_rows.steps, 0,
                                  y_rows.columns, g.rows.grad + row * depth, depth, true);
  }
  strip_slopes.store(strip, g.columns);
}

void forward(const Problem& p, const Totals& rows, const Totals& columns, const Part& part) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    forward_of<typename ArithmeticOf<dtype>::type, dtype>(p, rows, columns, part);
  });
}

void backward(const Problem& p, const Gradients& g, const Totals* rows, const Part& part) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    backward_of<typename ArithmeticOf<dtype>::type, dtype>(p, g, rows, part);
  });
}

}  // namespace

extern const contrastive::Kernel contrastive_kernel;
const contrastive::Kernel contrastive_kernel = {forward_workspace, backward_workspace, forward, backward};

}  // namespace xmkern::XMKERN_CAPABILITY
