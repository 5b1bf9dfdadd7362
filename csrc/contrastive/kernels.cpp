// Reductions of a matrix of similarities and their gradients, a tile at a time: forward, the products of a block of
// rows and a strip of columns are reduced and forgotten; backward, they are computed again, turned into their
// gradients, and multiplied with both sides. Compiled once per instruction set (see core/capability.h): no
// standard-library code in here.
#include "contrastive/matrix.h"
#include "contrastive/reductions.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

int64_t forward_workspace(const Problem& p) { return 4 * Products<Single, Dtype::float32>::size(p); }

int64_t backward_workspace(const Problem& p) {
  return forward_workspace(p) + 4 * SideGradients<Single, Dtype::float32>::size(p);
}

void forward(const Problem& p, const Totals& rows, const Totals& columns, const Part& part) {
  with_arithmetic(p.dtype, [&]<class Arithmetic, Dtype dtype>() {
    Memory memory(part.workspace);
    Products<Arithmetic, dtype> products(p, part, memory);
    StripTotals strip_totals(p, products.strip, columns);
    const int64_t block = rows_a_block(part);
    for (int64_t row = part.row_begin; row < part.row_end; row += block) {
      const int64_t count = lesser(block, part.row_end - row);
      products.multiply_rows(row, count);
      reduce(p, products.strip, row, count, products.tile, rows, strip_totals);
    }
    strip_totals.store(p, products.strip, columns);
  });
}

void backward(const Problem& p, const Gradients& g, const Totals* rows, const Part& part) {
  with_arithmetic(p.dtype, [&]<class Arithmetic, Dtype dtype>() {
    Memory memory(part.workspace);
    Products<Arithmetic, dtype> products(p, part, memory);
    SideGradients<Arithmetic, dtype> sides(p, products.strip, g.rows.grad, g.columns.grad, memory);
    StripSlopes strip_slopes(p, products.strip, g.columns);
    StripTotals strip_totals(p, products.strip, {});  // none: totals are of rows
    const int64_t block = rows_a_block(part);
    for (int64_t row = part.row_begin; row < part.row_end; row += block) {
      const int64_t count = lesser(block, part.row_end - row);
      products.multiply_rows(row, count);
      if (rows) reduce(p, products.strip, row, count, products.tile, *rows, strip_totals);
      differentiate(p, g, products.strip, row, count, products.tile, strip_slopes);
      sides.add(products.tile, row, count);
    }
    strip_slopes.store(products.strip, g.columns);
  });
}

}  // namespace

extern const contrastive::Kernel contrastive_kernel;
const contrastive::Kernel contrastive_kernel = {forward_workspace, backward_workspace, forward, backward};

}  // namespace xmkern::XMKERN_CAPABILITY
