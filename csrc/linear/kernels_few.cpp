// So few rows that what counts is to read the columns from memory once: they are multiplied where they lie, as packing
// them would take longer. Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "core/inner_products.h"
#include "linear/elements.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using linear::few_rows;

// Columns whose sums leave together.
constexpr int64_t few_columns = 32;

int64_t workspace(const Product&, const Part&) { return few_rows * few_columns * static_cast<int64_t>(sizeof(float)); }

template <Dtype dtype>
void run_as(const Product& p, const Part& part, float* sums) {
  using Arithmetic = typename ArithmeticOf<dtype>::type;
  const int64_t rows = part.row_end - part.row_begin, groups = (rows + inner_rows - 1) / inner_rows;
  const int64_t left_stride = p.left.stride * size_of(dtype), right_stride = p.right.stride * size_of(dtype);
  for (int64_t column = part.column_begin; column < part.column_end; column += few_columns) {
    const int64_t columns = lesser(few_columns, part.column_end - column);
    for (int64_t c = 0; c < columns; c += inner_columns) {
      const char* right = element<dtype>(p.right, column + c, 0);
      const auto width = static_cast<int>(lesser(inner_columns, columns - c));
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t row = g * rows / groups, height = (g + 1) * rows / groups - row;
        // The first rows fetch the next columns. They lie in a piece, but so little of it is read at a time that the
        // processor would not foresee them.
        const NextRows next{g == 0 ? right + inner_columns * right_stride : right, right_stride};
        inner_tile_of<Arithmetic, dtype>(static_cast<int>(height), width,
                                         element<dtype>(p.left, part.row_begin + row, 0), left_stride, right,
                                         right_stride, p.depth, sums + row * few_columns + c, few_columns, next);
      }
    }
    for (int64_t r = 0; r < rows; ++r)
      finish<dtype>(p, part.row_begin + r, column, columns, part.streamed, p.bias, sums + r * few_columns);
  }
}

void run(const Product& p, const Part& part, void* workspace) {
  with_dtype(p.dtype, [&](auto dtype) { run_as<decltype(dtype)::value>(p, part, static_cast<float*>(workspace)); });
}

}  // namespace

extern const linear::Kernel linear_few;
const linear::Kernel linear_few = {workspace, run};

}  // namespace xmkern::XMKERN_CAPABILITY
