// The divergence of the softmaxes of two matrices, and its gradients, two tiles at a time: see kernels.cpp. Compiled
// once per instruction set (see core/capability.h): no standard-library code in here.
#include "contrastive/divergence.h"
#include "contrastive/matrix.h"
#include "contrastive/reductions.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using contrastive::Comparison;
using contrastive::Distances;
using contrastive::Divergences;
using contrastive::MatrixGradients;

int64_t forward_workspace(const Comparison& c) {
  return 4 * (Products<Single, Dtype::float32>::size(c.student) + Products<Single, Dtype::float32>::size(c.teacher));
}

int64_t backward_workspace(const Comparison& c) {
  using Gradients = SideGradients<Single, Dtype::float32>;
  return forward_workspace(c) + 4 * (Gradients::size(c.student) + Gradients::size(c.teacher));
}

// Of a side, what the totals were before a tile.
template <int64_t most>
struct Before {
  float student[most], teacher[most], teacher_sum[most];

  void keep(int64_t i, float z, float t, float t_sum) { student[i] = z, teacher[i] = t, teacher_sum[i] = t_sum; }

  // A divergence so far, as the references are now.
  Floats moved(int64_t i, Floats divergence, Floats z, Floats t) const {
    const Floats old_t = load(teacher + i), away = (old_t - t) - (load(student + i) - z);
    const Floats there = (divergence + load(teacher_sum + i) * away) * exponential(old_t - t);
    return select(greater(old_t, splat(-infinity)), there, Floats{});
  }
};

// Adds to the divergences what tiles of logits z and t have, when their own totals are there.
void add_surplus(const Comparison& c, const Strip& strip, int64_t row_begin, int64_t rows, const float* z_tile,
                 const float* t_tile, const Divergences& of_rows, const StripTotals& z_columns,
                 const StripTotals& t_columns, float* of_columns) {
  ColumnSums sums(strip);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = row_begin + r;
    const float z_reference = of_rows.student.value[row], t_reference = of_rows.teacher.value[row];
    Floats total{};
    for (int64_t k = 0; k < strip.width; k += lanes) {
      const Floats z = load(z_tile + r * stride + k), t = load(t_tile + r * stride + k);
      const uint32_t there = bits_there(strip, k);  // what is past the end is -inf in both tiles
      const Floats below = t - t_reference, surplus = select(there, below - (z - z_reference), Floats{});
      total += exponential(below) * surplus;
      if (!c.teacher.columns) continue;
      const Floats down = t - load(t_columns.value + k);
      sums.add(k, exponential(down) * select(there, down - (z - load(z_columns.value + k)), Floats{}));
    }
    of_rows.divergence[row] += sum(total);
  }
  if (c.teacher.columns) sums.add_to(of_columns, strip);
}

void forward(const Comparison& c, const Divergences& rows, const Divergences& columns, const Part& part) {
  with_arithmetic(c.student.dtype, [&]<class Arithmetic, Dtype dtype>() {
    Memory memory(part.workspace);
    Products<Arithmetic, dtype> student(c.student, part, memory), teacher(c.teacher, part, memory);
    const Strip& strip = student.strip;
    StripTotals z_columns(c.student, strip, columns.student), t_columns(c.teacher, strip, columns.teacher);
    float of_columns[max_columns];
    if (c.student.columns) strip.copy(columns.divergence, of_columns);
    const int64_t block = rows_a_block(part);
    for (int64_t row = part.row_begin; row < part.row_end; row += block) {
      const int64_t count = lesser(block, part.row_end - row);
      student.multiply_rows(row, count), teacher.multiply_rows(row, count);
      Before<block_rows + lanes> rows_before;
      Before<max_columns> columns_before;
      for (int64_t r = 0; r < count; ++r)
        rows_before.keep(r, rows.student.value[row + r], rows.teacher.value[row + r], rows.teacher.sum[row + r]);
      for (int64_t k = 0; k < strip.width && c.student.columns; ++k)
        columns_before.keep(k, z_columns.value[k], t_columns.value[k], t_columns.sum[k]);
      reduce_exponential<Kind::logsumexp>(c.student, strip, row, count, student.tile, rows.student, z_columns);
      reduce_exponential<Kind::logsumexp>(c.teacher, teacher.strip, row, count, teacher.tile, rows.teacher, t_columns);
      for (int64_t r = 0; r < count; ++r) {
        float& at = rows.divergence[row + r];
        at = rows_before.moved(r, splat(at), splat(rows.student.value[row + r]), splat(rows.teacher.value[row + r]))[0];
      }
      for (int64_t k = 0; k < strip.width && c.student.columns; k += lanes)
        store(of_columns + k,
              columns_before.moved(k, load(of_columns + k), load(z_columns.value + k), load(t_columns.value + k)));
      add_surplus(c, strip, row, count, student.tile, teacher.tile, rows, z_columns, t_columns, of_columns);
    }
    z_columns.store(c.student, strip, columns.student), t_columns.store(c.teacher, strip, columns.teacher);
    for (int64_t k = 0; k < strip.count && c.student.columns; ++k) columns.divergence[strip.begin + k] = of_columns[k];
  });
}

// The gradients of one matrix's products, on the way to those of its scales.
struct Scales {
  const Problem& p;
  const Strip& strip;
  const MatrixGradients& g;
  ColumnSums columns;
  Floats of_row{};

  Scales(const Problem& problem, const Strip& of, const MatrixGradients& gradients)
      : p(problem), strip(of), g(gradients), columns(of) {}

  // From the gradient of a logit to that of its product, in the product's place.
  void turn(float* products, int64_t c, float row_scale, Floats grad) {
    const Floats product = load(products), down = grad * load(strip.scale + c);
    of_row += down * product;
    columns.add(c, grad * row_scale * product);
    store(products, down * row_scale);
  }
  void end_row(int64_t row) { g.x_scale[row] += sum(of_row), of_row = Floats{}; }
  void end_tile() {
    for (int64_t c = 0; c < strip.count; ++c) g.y_scale[strip.begin + c] += columns.data[c];
  }
};

struct StripDistances {
  float student_reference[max_columns], student_log[max_columns], teacher_reference[max_columns];
  float teacher_log[max_columns], divergence[max_columns], grad[max_columns];

  StripDistances(const Strip& strip, const Distances& from) {
    strip.copy(from.student_reference, student_reference), strip.copy(from.student_log, student_log);
    strip.copy(from.teacher_reference, teacher_reference), strip.copy(from.teacher_log, teacher_log);
    strip.copy(from.divergence, divergence), strip.copy(from.grad, grad);
  }
};

// Adds how divergences times their gradients change with logits z and t. `at` reads a number of them all.
template <class Numbers, class At>
void add_slopes(const Numbers& from, Floats z, Floats t, Floats& of_z, Floats& of_t, const At& at) {
  const Floats log_q = (z - at(from.student_reference)) - at(from.student_log);
  const Floats log_p = (t - at(from.teacher_reference)) - at(from.teacher_log);
  const Floats p = exponential(log_p), grad = at(from.grad);
  of_z += grad * (exponential(log_q) - p);
  of_t += grad * p * (log_p - log_q - at(from.divergence));
}

void differentiate_both(const Comparison& c, const Distances& rows, const StripDistances& columns, int64_t row_begin,
                        int64_t count, float* z_tile, float* t_tile, Scales& student, Scales& teacher) {
  const Strip& strip = student.strip;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t row = row_begin + r;
    const float z_scale = c.student.x.scale[row], t_scale = c.teacher.x.scale[row];
    for (int64_t k = 0; k < strip.width; k += lanes) {
      float *z_at = z_tile + r * stride + k, *t_at = t_tile + r * stride + k;
      const Floats z = logits(c.student, strip, z_scale, k, load(z_at));
      const Floats t = logits(c.teacher, teacher.strip, t_scale, k, load(t_at));
      Floats of_z{}, of_t{};
      add_slopes(rows, z, t, of_z, of_t, [&](const float* numbers) { return splat(numbers[row]); });
      if (c.student.columns)
        add_slopes(columns, z, t, of_z, of_t, [&](const float* numbers) { return load(numbers + k); });
      const uint32_t there = bits_there(strip, k);
      student.turn(z_at, k, z_scale, select(there, of_z, Floats{}));
      if (teacher.g.wanted) teacher.turn(t_at, k, t_scale, select(there, of_t, Floats{}));
    }
    student.end_row(row);
    if (teacher.g.wanted) teacher.end_row(row);
  }
  student.end_tile();
  if (teacher.g.wanted) teacher.end_tile();
}

void backward(const Comparison& c, const Distances& rows, const Distances& columns, const MatrixGradients& student,
              const MatrixGradients& teacher, const Part& part) {
  with_arithmetic(c.student.dtype, [&]<class Arithmetic, Dtype dtype>() {
    Memory memory(part.workspace);
    Products<Arithmetic, dtype> z(c.student, part, memory), t(c.teacher, part, memory);
    SideGradients<Arithmetic, dtype> of_z(c.student, z.strip, student.x, student.y, memory);
    SideGradients<Arithmetic, dtype> of_t(c.teacher, t.strip, teacher.x, teacher.y, memory);
    const StripDistances strip_distances(z.strip, columns);
    const int64_t block = rows_a_block(part);
    for (int64_t row = part.row_begin; row < part.row_end; row += block) {
      const int64_t count = lesser(block, part.row_end - row);
      z.multiply_rows(row, count), t.multiply_rows(row, count);
      Scales z_scales(c.student, z.strip, student), t_scales(c.teacher, t.strip, teacher);
      differentiate_both(c, rows, strip_distances, row, count, z.tile, t.tile, z_scales, t_scales);
      of_z.add(z.tile, row, count);
      if (teacher.wanted) of_t.add(t.tile, row, count);
    }
  });
}

}  // namespace

extern const contrastive::DivergenceKernel contrastive_divergence;
const contrastive::DivergenceKernel contrastive_divergence = {forward_workspace, backward_workspace, forward, backward};

}  // namespace xmkern::XMKERN_CAPABILITY
