// Losses of a matrix that is kept, with their gradients. What differs from kernels.cpp: nothing is packed twice, and a
// row's gradient is summed over all columns, in cache, before it is rounded and leaves. Compiled once per instruction
// set (see core/capability.h): no standard-library code in here.
#include "contrastive/reductions.h"
#include "contrastive/slopes.h"
#include "contrastive/whole.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using contrastive::block_columns;
using contrastive::Whole;

// Numbers of a row whose gradient is summed at a time.
constexpr int64_t slice = 512, slice_stride = slice + 16;
static_assert(contrastive::whole_workspace >= block_columns * slice_stride);
static_assert(contrastive::whole_workspace >= block_size + panel_width * stride);

template <class Arithmetic>
struct Views {
  using Unit = typename Arithmetic::Unit;
  const Problem& p;
  const Whole& w;

  float* tile(int64_t group, int64_t block) const { return w.memory + (group * w.blocks + block) * w.group * stride; }
  // Gradients along rows: in the place of the tile where units are of one number.
  Unit* turned(int64_t group, int64_t block) const {
    if (Arithmetic::numbers == 1) return reinterpret_cast<Unit*>(tile(group, block));
    return reinterpret_cast<Unit*>(w.memory + w.turned) +
           (group * w.blocks + block) * units<Arithmetic>(w.group) * stride;
  }
  Unit* x_blocks(int64_t group) const {
    return reinterpret_cast<Unit*>(w.memory + w.x) + group * blocks_of(units<Arithmetic>(p.depth)) * block_size;
  }
  // Of columns from `begin`, that of a panel, on.
  Panels<Unit> y_columns(int64_t begin, int64_t count) const {
    const int64_t steps = units<Arithmetic>(p.depth);
    return {reinterpret_cast<Unit*>(w.memory + w.y) + begin * steps, steps, round_up(count, lanes)};
  }
  Panels<Unit> rows_of(const Side& side, int64_t place) const {
    return {reinterpret_cast<Unit*>(w.memory + place), units<Arithmetic>(side.count), round_up(p.depth, lanes)};
  }
  Panels<Unit> x_rows() const { return rows_of(p.x, w.x); }
  Panels<Unit> y_rows() const { return rows_of(p.y, w.y); }
};

template <class F>
void with_views(const Problem& p, const Whole& w, F&& f) {
  with_dtype(p.dtype, [&](auto type) { f(Views<typename ArithmeticOf<decltype(type)::value>::type>{p, w}, type); });
}

void arrange(const Problem& p, Whole& w) {
  with_views(p, w, [&]<class Arithmetic>(const Views<Arithmetic>&, auto) {
    const int64_t depth = units<Arithmetic>(p.depth), rows = round_up(p.depth, panel_width);
    const int64_t tiles = w.groups * w.blocks * stride;
    const auto larger_of = [](int64_t a, int64_t b) { return round_up(a < b ? b : a, 16); };
    w.turned = round_up(tiles * w.group, 16);
    w.x = round_up(w.turned + (Arithmetic::numbers > 1 ? tiles * units<Arithmetic>(w.group) : 0), 16);
    w.y = w.x + larger_of(w.groups * blocks_of(depth) * block_size, units<Arithmetic>(p.x.count) * rows);
    w.size = w.y + larger_of(depth * round_up(p.y.count, panel_width), units<Arithmetic>(p.y.count) * rows);
  });
}

void pack_operands(const Problem& p, const Whole& w, int64_t task) {
  with_views(p, w, [&]<class Arithmetic>(const Views<Arithmetic>& views, auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    if (task < w.groups)
      return load_rows<Arithmetic, dtype>(p.x, p.depth, task * w.group, w.rows(p, task), views.x_blocks(task));
    const int64_t begin = (task - w.groups) * block_columns, count = lesser(block_columns, p.y.count - begin);
    alignas(64) typename Arithmetic::Unit panel_block[panel_width * stride];
    pack_columns<Arithmetic, dtype>(p.y, p.depth, begin, count, views.y_columns(begin, count), panel_block);
  });
}

void pack_rows_of(const Problem& p, const Whole& w, int64_t task) {
  with_views(p, w, [&]<class Arithmetic>(const Views<Arithmetic>& views, auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    const bool of_x = task < w.groups;
    const int64_t begin = of_x ? task * w.group : (task - w.groups) * block_columns;
    const int64_t count = of_x ? w.rows(p, task) : lesser(block_columns, p.y.count - begin);
    pack_rows<Arithmetic, dtype>(of_x ? p.x : p.y, p.depth, begin, count, of_x ? views.x_rows() : views.y_rows(),
                                 begin / Arithmetic::numbers);
  });
}

void forward(const Problem& p, const Whole& w, const Totals& rows, const Totals& columns, const Part& part) {
  with_views(p, w, [&]<class Arithmetic>(const Views<Arithmetic>& views, auto) {
    const int64_t group = part.row_begin / w.group, count = part.row_end - part.row_begin;
    const Strip strip(p.y, part.column_begin, part.column_end);
    float* kept = views.tile(group, strip.begin / block_columns) + strip.begin % block_columns;
    auto* tile = static_cast<float*>(part.workspace);
    multiply_tile<Arithmetic>(views.x_blocks(group), count, views.y_columns(strip.begin, strip.count), tile);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < strip.width; c += lanes) store(kept + r * stride + c, load(tile + r * stride + c));
    StripTotals strip_totals(p, strip, columns);
    reduce(p, strip, part.row_begin, count, tile, rows, strip_totals);
    strip_totals.store(p, strip, columns);
  });
}

// Sums of products, [rows, numbers of a slice], to rows of the result.
template <Dtype dtype>
void store_slice(const float* sums, int64_t rows, int64_t numbers, int64_t depth, int64_t column, void* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* line = sums + r * slice_stride;
    const int64_t place = r * depth + column;
    int64_t c = 0;
    for (; c + lanes <= numbers; c += lanes) store_floats<dtype>(out, place + c, load(line + c));
    for (; c < numbers; ++c) store_float<dtype>(out, place + c, line[c]);
  }
}

// Calls multiply(first column, their end, sums) for each slice of the result's `rows` rows, and stores what it leaves.
template <Dtype dtype, class Multiply>
void by_slices(int64_t depth, int64_t rows, void* out, float* sums, const Multiply& multiply_slice) {
  for (int64_t column = 0; column < depth; column += slice) {
    const int64_t numbers = lesser(slice, depth - column);
    multiply_slice(column, column + round_up(numbers, lanes), sums);
    store_slice<dtype>(sums, rows, numbers, depth, column, out);
  }
}

void backward_rows(const Problem& p, const Gradients& g, const Whole& w, int64_t group, void* grad, float* sums) {
  with_views(p, w, [&]<class Arithmetic>(const Views<Arithmetic>& views, auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    const int64_t row = group * w.group, count = w.rows(p, group);
    for (int64_t block = 0; block < w.blocks; ++block) {
      const Strip strip(p.y, block * block_columns, lesser((block + 1) * block_columns, p.y.count));
      StripSlopes slopes(p, strip, g.columns);
      float* tile = views.tile(group, block);
      differentiate(p, g, strip, row, count, tile, slopes);
      slopes.store(strip, g.columns);
      transposed_units(tile, count, strip.width, views.turned(group, block));
      units_in_place<typename Arithmetic::Unit>(tile, count, strip.width);
    }
    if (grad == nullptr) return;
    const auto y = views.y_rows();
    void* out = static_cast<char*>(grad) + row * p.depth * size_of(dtype);
    by_slices<dtype>(p.depth, count, out, sums, [&](int64_t begin, int64_t end, float* to) {
      for (int64_t block = 0; block < w.blocks; ++block) {
        const int64_t step = block * (block_columns / Arithmetic::numbers);
        multiply<Arithmetic, false>(reinterpret_cast<const typename Arithmetic::Unit*>(views.tile(group, block)), count,
                                    y, step, lesser(block_columns / Arithmetic::numbers, y.steps - step), begin, end,
                                    to, slice_stride, block > 0);
      }
    });
  });
}

void backward_columns(const Problem& p, const Whole& w, int64_t begin, int64_t end, void* grad, float* sums) {
  with_views(p, w, [&]<class Arithmetic>(const Views<Arithmetic>& views, auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    const auto x = views.x_rows();
    void* out = static_cast<char*>(grad) + begin * p.depth * size_of(dtype);
    by_slices<dtype>(p.depth, end - begin, out, sums, [&](int64_t first, int64_t last, float* to) {
      for (int64_t group = 0; group < w.groups; ++group)
        multiply<Arithmetic, true>(views.turned(group, begin / block_columns) + begin % block_columns, end - begin, x,
                                   group * w.group / Arithmetic::numbers, units<Arithmetic>(w.rows(p, group)), first,
                                   last, to, slice_stride, group > 0);
    });
  });
}

}  // namespace

extern const contrastive::WholeKernel contrastive_whole_kernel;
const contrastive::WholeKernel contrastive_whole_kernel = {arrange, pack_operands, pack_rows_of,
                                                           forward, backward_rows, backward_columns};

}  // namespace xmkern::XMKERN_CAPABILITY
