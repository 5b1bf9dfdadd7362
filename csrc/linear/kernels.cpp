// Columns of the right side are packed for as much of the depth as a cache holds, and stay there while the left side
// passes by, a few rows at a time. Compiled once per instruction set (see core/capability.h): no standard-library code
// in here.
#include "core/blocks.h"
#include "linear/elements.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using linear::most_steps;

// Rows of the left side at a time, in whole groups of a product and whole cache lines.
constexpr int64_t group = 48;
// Of the depth at a time: what a product reads of a panel, and its rows, are then in the first-level cache.
constexpr int64_t stretch = panel_width < 64 ? 128 : 64;
static_assert(stretch <= max_columns && group <= max_columns);

// Whether the sums are made where the result belongs: they are its numbers, and end with a whole vector.
bool in_place(const Product& p, const Part& part) {
  return p.dtype == Dtype::float32 && p.columns % lanes == 0 && !part.streamed;
}

struct Layout {
  int64_t width, stride;  // of the columns, in whole vectors; from row to row of sums that are not in place
  int64_t steps, passes;  // of the depth, in passes as equal as can be

  Layout(const Product& p, const Part& part)
      : width(whole_vectors(part.column_end - part.column_begin)), stride(width + 16) {
    const int64_t least = (p.depth + most_steps - 1) / most_steps;
    steps = round_up((p.depth + least - 1) / least, stretch);
    passes = (p.depth + steps - 1) / steps;
  }
  // Sums stay from pass to pass; with a single one only those of a group are kept.
  int64_t sums(const Part& part) const { return stride * (passes > 1 ? part.row_end - part.row_begin : group); }
};

struct Memory {
  float *panels, *left, *block, *sums;
  int64_t bytes;

  Memory(const Product& p, const Layout& layout, const Part& part, void* begin) {
    Pieces pieces(begin);
    panels = pieces.take<float>(Panels<float>::size(layout.steps, layout.width));
    left = pieces.take<float>((group > stretch ? group : stretch) * stride);
    block = pieces.take<float>(panel_width * stride);
    sums = pieces.take<float>(in_place(p, part) ? 0 : layout.sums(part));
    bytes = pieces.taken();
  }
};

int64_t workspace(const Product& p, const Part& part) { return Memory(p, Layout(p, part), part, nullptr).bytes; }

// Rows of a matrix where they lie, if they are float32 and whole vectors can be read there, or else in a block.
template <Dtype dtype>
Rows<float> rows_of(const Matrix& m, int64_t line, int64_t lines, int64_t number, int64_t numbers, float* block) {
  if constexpr (dtype == Dtype::float32) {
    if (numbers % lanes == 0) return {reinterpret_cast<const float*>(element<dtype>(m, line, number)), m.stride};
  }
  load_block<dtype>(element<dtype>(m, line, number), m.stride, lines, numbers, block);
  return {block, stride};
}

template <Dtype dtype>
void pack_right(const Matrix& m, int64_t column, int64_t columns, int64_t step, const Panels<float>& out,
                float* block) {
  if (m.transposed) {
    for (int64_t k = 0; k < out.steps; k += panel_width) {
      const int64_t count = lesser(panel_width, out.steps - k);
      pack(rows_of<dtype>(m, step + k, count, column, columns, block), count, out, k);
    }
    return;
  }
  for (int64_t c = 0; c < columns; c += panel_width)
    for (int64_t k = 0; k < out.steps; k += max_columns) {
      const int64_t rows = lesser(panel_width, columns - c), count = lesser(max_columns, out.steps - k);
      pack_transposed(rows_of<dtype>(m, column + c, rows, step + k, count, block), rows,
                      block + rows / lanes * lanes * stride, out, c, k, count);
    }
}

// Some rows of the left side from a step on.
template <Dtype dtype>
struct LeftRows {
  const Matrix& m;
  int64_t row, rows, step, steps;

  // As they lie in memory: so many lines of so many numbers.
  const void* begin() const { return m.transposed ? element<dtype>(m, step, row) : element<dtype>(m, row, step); }
  int64_t lines() const { return m.transposed ? steps : rows; }
  int64_t numbers() const { return m.transposed ? rows : steps; }

  void load(float* block) const { load_block<dtype>(begin(), m.stride, lines(), numbers(), block); }
  void ask_for(Prefetcher& ahead) const {
    ahead.add(begin(), m.stride * size_of(dtype), lines(), numbers() * size_of(dtype));
  }
};

// Sums of some rows begin with the bias.
template <Dtype dtype>
void begin_with_bias(const Product& p, int64_t rows, int64_t column, int64_t columns, float* sums, int64_t apart) {
  const char* bias = static_cast<const char*>(p.bias) + column * size_of(dtype);
  for (int64_t r = 0; r < rows; ++r) load_block<dtype>(bias, 0, 1, columns, sums + r * apart);
}

template <Dtype dtype>
void run_as(const Product& p, const Part& part, void* workspace) {
  const Layout layout(p, part);
  const Memory memory(p, layout, part, workspace);
  const bool placed = in_place(p, part);
  const int64_t columns = part.column_end - part.column_begin, sums_stride = placed ? p.columns : layout.stride;
  for (int64_t pass = 0; pass < layout.passes; ++pass) {
    const int64_t first = pass * layout.steps, end = lesser(first + layout.steps, p.depth);
    const Panels<float> panels{memory.panels, end - first, layout.width};
    pack_right<dtype>(p.right, part.column_begin, columns, first, panels, memory.block);
    for (int64_t row = part.row_begin; row < part.row_end; row += group) {
      const int64_t rows = lesser(group, part.row_end - row);
      float* sums = placed ? static_cast<float*>(p.out) + row * p.columns + part.column_begin
                           : memory.sums + (layout.passes > 1 ? (row - part.row_begin) * layout.stride : 0);
      if (pass == 0 && p.bias != nullptr)
        begin_with_bias<dtype>(p, rows, part.column_begin, columns, sums, sums_stride);
      for (int64_t step = first; step < end; step += stretch) {
        const int64_t steps = lesser(stretch, end - step);
        LeftRows<dtype>{p.left, row, rows, step, steps}.load(memory.left);
        Prefetcher ahead;
        if (step + steps < end)
          LeftRows<dtype>{p.left, row, rows, step + steps, lesser(stretch, end - step - steps)}.ask_for(ahead);
        else if (row + rows < part.row_end)
          LeftRows<dtype>{p.left, row + rows, lesser(group, part.row_end - row - rows), first,
                          lesser(stretch, end - first)}
              .ask_for(ahead);
        ahead.spread(rows * layout.width * steps / products_a_step<Single>);
        const auto multiply_by = [&](auto transposed) {
          multiply<Single, decltype(transposed)::value != 0>(static_cast<const float*>(memory.left), rows, panels,
                                                             step - first, steps, 0, layout.width, sums, sums_stride,
                                                             step > 0 || p.bias != nullptr, ahead);
        };
        if (p.left.transposed)
          multiply_by(Count<1>{});
        else
          multiply_by(Count<0>{});
      }
      if (pass + 1 == layout.passes && !placed)
        for (int64_t r = 0; r < rows; ++r)
          finish<dtype>(p, row + r, part.column_begin, columns, part.streamed, nullptr, sums + r * sums_stride);
    }
  }
}

void run(const Product& p, const Part& part, void* workspace) {
  with_dtype(p.dtype, [&](auto dtype) { run_as<decltype(dtype)::value>(p, part, workspace); });
}

}  // namespace

extern const linear::Kernel linear_product;
const linear::Kernel linear_product = {workspace, run};

}  // namespace xmkern::XMKERN_CAPABILITY
