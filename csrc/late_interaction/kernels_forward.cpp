// Scores of some samples against some. Compiled once per instruction set (see core/capability.h): no standard-library
// code in here.
//
// The tokens of some samples of x, side by side, are the columns of a product, those of one sample of y its rows. The
// largest of a column is found lane by lane; the largest of a row, over the columns of one sample, across lanes.
#include "core/product.h"
#include "late_interaction/kernels.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using late_interaction::Call;
using late_interaction::Tokens;
using late_interaction::with_winners;

inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

// Bit i is set where lane i of a and b are equal.
inline uint32_t equal(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_EQ_OQ);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(a == b)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < lanes; ++i) bits |= static_cast<uint32_t>(a[i] == b[i]) << i;
  return bits;
#endif
}

// Whether a lane of a or b is NaN.
inline bool any_nan(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_UNORD_Q) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), _CMP_UNORD_Q)) != 0;
#else
  bool any = false;
  for (int i = 0; i < lanes; ++i) any |= a[i] != a[i] || b[i] != b[i];
  return any;
#endif
}

// Where x is larger, it takes the place of `most`, and `place` that of `winner`.
inline void keep_larger(Floats x, uint32_t place, Floats& most, Words& winner) {
#if defined(__AVX512F__)
  const auto wide = reinterpret_cast<__m512>(x), before = reinterpret_cast<__m512>(most);
  const __mmask16 above = _mm512_cmp_ps_mask(wide, before, _CMP_GT_OQ);
  most = reinterpret_cast<Floats>(_mm512_mask_mov_ps(before, above, wide));
  winner = reinterpret_cast<Words>(
      _mm512_mask_set1_epi32(reinterpret_cast<__m512i>(winner), above, static_cast<int>(place)));
#else
  const Ints above = x > most;
  most = above ? x : most;
  winner = above ? splat(place) : winner;
#endif
}

// The products of some tokens of one sample of y, the rows, with all columns, and what is known of the columns so far.
struct Products {
  float* data;
  int64_t stride, rows, columns;  // columns: whole vectors
  float* most;                    // the largest of each column
  uint32_t* winner;               // and whose it is

  const float* row(int64_t r) const { return data + r * stride; }
};

// The largest of each column; the rows are the tokens `place`. Returns whether there is a NaN.
bool reduce_columns(const Products& p, const uint32_t* place, bool first) {
  bool nan = false;
  for (int64_t c = 0; c < p.columns; c += lanes) {
    Floats most = splat(-infinity);
    Words winner = splat(place[0]);
    if (!first) most = load(p.most + c), winner = load(p.winner + c);
    int64_t r = 0;
    for (; r + 2 <= p.rows; r += 2) {
      const Floats a = load(p.row(r) + c), b = load(p.row(r + 1) + c);
      nan |= any_nan(a, b);
      keep_larger(a, place[r], most, winner);
      keep_larger(b, place[r + 1], most, winner);
    }
    if (r < p.rows) {
      const Floats a = load(p.row(r) + c);
      nan |= any_nan(a, a);
      keep_larger(a, place[r], most, winner);
    }
    store(p.most + c, most), store(p.winner + c, winner);
  }
  return nan;
}

// What the comparisons of reduce_columns pass over: the first NaN of a column is its largest.
void prefer_nan(const Products& p, const uint32_t* place) {
  for (int64_t c = 0; c < p.columns; ++c)
    for (int64_t r = 0; r < p.rows; ++r)
      if (const float x = p.row(r)[c]; x != x && p.most[c] == p.most[c]) p.most[c] = x, p.winner[c] = place[r];
}

struct Largest {
  float value;
  int64_t place;
};

// The largest of `count` numbers, of equal ones the first. What lies behind them up to a whole vector is read.
Largest largest_of(const float* row, int64_t count, bool nan) {
  for (int64_t i = 0; nan && i < count; ++i)
    if (row[i] != row[i]) return {row[i], i};
  Floats most = splat(-infinity);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) most = larger(load(row + i), most);
  if (i < count) most = larger(select((1u << (count - i)) - 1, load(row + i), splat(-infinity)), most);
  const float value = largest(most);
  // Several vectors at a time: which of them has it cannot be foreseen, and a jump that was mistaken costs more.
  for (i = 0;; i += 4 * lanes) {
    uint64_t bits = 0;
    for (int v = 0; v < 4 && i + v * lanes < count; ++v)
      bits |= static_cast<uint64_t>(equal(load(row + i + v * lanes), splat(value))) << (v * lanes);
    if (bits) return {value, i + __builtin_ctzll(bits)};
  }
}

float sum_of(const float* row, int64_t count) {
  Floats total{};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) total += load(row + i);
  if (i < count) total += select((1u << (count - i)) - 1, load(row + i), Floats{});
  return sum(total);
}

template <class Arithmetic>
struct Workspace {
  using Unit = typename Arithmetic::Unit;

  Unit *block, *panels;  // block: of columns to pack, then of rows
  Products products;
  double* totals;  // over the tokens of y, for each sample of x

  Workspace(const Call& call, int64_t samples, int64_t tokens, void* memory) {
    float* at = static_cast<float*>(memory);
    const auto take = [&](int64_t count) {
      float* begin = at;
      at += round_up(count, 16);
      return begin;
    };
    products.columns = round_up(tokens, lanes), products.stride = row_stride(tokens);
    block = reinterpret_cast<Unit*>(take(panel_width * stride));
    panels = reinterpret_cast<Unit*>(take(units<Arithmetic>(call.depth) * products.columns));
    products.data = take(max_rows * products.stride);
    products.most = take(products.stride);
    products.winner = reinterpret_cast<uint32_t*>(take(products.stride));
    totals = reinterpret_cast<double*>(take(2 * samples));
  }

  // With room for a vector that begins at the last column; an odd number of cache lines, so that rows don't meet in the
  // same cache set.
  static int64_t row_stride(int64_t tokens) { return round_up(tokens + 2 * lanes, 32) + 16; }
};

// Enough for any arithmetic.
int64_t workspace(const Call& call, int64_t samples, int64_t tokens) {
  const int64_t rows = (max_rows + 2) * Workspace<Single>::row_stride(tokens);
  return 4 * (panel_width * stride + call.depth * round_up(tokens, lanes) + rows + 2 * samples + 6 * 16);
}

template <class Arithmetic, Dtype dtype>
struct Forward {
  using Unit = typename Arithmetic::Unit;

  const Call& call;
  int64_t x_begin, x_end;
  Workspace<Arithmetic> w;

  // Of a token of x in the list.
  int64_t column_of(int64_t i) const { return i - call.x.begin[x_begin]; }

  Panels<Unit> panels() const { return {w.panels, units<Arithmetic>(call.depth), w.products.columns}; }

  // Calls f(first step, number of steps) for each chunk of the inner axis, as much as fills a block.
  template <class F>
  void for_chunks(F&& f) const {
    const int64_t steps = units<Arithmetic>(call.depth);
    for (int64_t step = 0; step < steps; step += max_columns) f(step, lesser(steps - step, max_columns));
  }

  // Some tokens of a list, a chunk of each, to rows of a block.
  void load_tokens(const Tokens& tokens, int64_t begin, int64_t count, int64_t step, int64_t steps, Unit* block) const {
    const int64_t k = step * Arithmetic::numbers, numbers = lesser(call.depth - k, steps * Arithmetic::numbers);
    for (int64_t r = 0; r < count; ++r) {
      const auto* from = static_cast<const char*>(tokens.data) + (tokens.offset[begin + r] + k) * size_of(dtype);
      load_block<dtype>(from, 0, 1, numbers, block + r * stride);
    }
  }

  void pack_columns() const {
    const int64_t begin = call.x.begin[x_begin], end = call.x.begin[x_end];
    for (int64_t at = begin; at < end; at += panel_width)
      for_chunks([&](int64_t step, int64_t steps) {
        const int64_t count = lesser(end - at, panel_width);
        load_tokens(call.x, at, count, step, steps, w.block);
        pack_transposed(w.block, count, panels(), at - begin, step, steps);
      });
  }

  // The largest of each row over the columns of each sample of x; the rows are the tokens `place` of sample `y`.
  template <class Winner>
  void reduce_rows(int64_t y, const uint32_t* place, bool nan, Winner* winners) const {
    for (int64_t x = x_begin; x < x_end; ++x) {
      const int64_t count = call.x.count(x), from = call.x.begin[x];
      if (count == 0) continue;
      Winner* of_pair = winners + (x * call.y.samples + y) * call.y.tokens;
      double total = 0;
      for (int64_t r = 0; r < w.products.rows; ++r) {
        const Largest found = largest_of(w.products.row(r) + column_of(from), count, nan);
        total += static_cast<double>(found.value);
        of_pair[place[r]] = static_cast<Winner>(call.x.place[from + found.place]);
      }
      w.totals[x - x_begin] += total;
    }
  }

  // The products with sample `y`, a block of its tokens at a time, reduced both ways.
  void meet(int64_t y) {
    const int64_t count = call.y.count(y), blocks = (count + max_rows - 1) / max_rows;
    for (int64_t block = 0, row = 0; block < blocks; ++block, row += w.products.rows) {
      // As equal as can be: few rows would leave the multipliers waiting for each other.
      w.products.rows = (block + 1) * count / blocks - row;
      const uint32_t* place = call.y.place + call.y.begin[y] + row;
      for_chunks([&](int64_t step, int64_t steps) {
        load_tokens(call.y, call.y.begin[y] + row, w.products.rows, step, steps, w.block);
        multiply<Arithmetic, false>(w.block, w.products.rows, panels(), step, steps, 0, w.products.columns,
                                    w.products.data, w.products.stride, step > 0);
      });
      const bool nan = reduce_columns(w.products, place, row == 0);
      if (nan) prefer_nan(w.products, place);
      if (call.y_out.scores)
        with_winners(call.y_out.winners, call.x.tokens, [&](auto* to) { reduce_rows(y, place, nan, to); });
    }
  }

  template <class Winner>
  void store_winners(int64_t y, Winner* winners) const {
    for (int64_t x = x_begin; x < x_end; ++x) {
      Winner* of_pair = winners + (x * call.y.samples + y) * call.x.tokens;
      for (int64_t i = call.x.begin[x]; i < call.x.begin[x + 1]; ++i)
        of_pair[call.x.place[i]] = static_cast<Winner>(w.products.winner[column_of(i)]);
    }
  }

  void score(int64_t y) {
    for (int64_t x = x_begin; x < x_end; ++x) w.totals[x - x_begin] = 0;
    meet(y);
    const int64_t y_count = call.y.count(y);
    if (y_count > 0) with_winners(call.x_out.winners, call.y.tokens, [&](auto* to) { store_winners(y, to); });
    for (int64_t x = x_begin; x < x_end; ++x) {
      const int64_t pair = x * call.y.samples + y, x_count = call.x.count(x);
      const bool nothing = x_count == 0 || y_count == 0;
      const float total = nothing ? 0.0f : sum_of(w.products.most + column_of(call.x.begin[x]), x_count);
      call.x_out.scores[pair] = nothing || !call.mean ? total : total / static_cast<float>(x_count);
      if (call.y_out.scores) {
        const double y_total = w.totals[x - x_begin];
        call.y_out.scores[pair] =
            static_cast<float>(nothing || !call.mean ? y_total : y_total / static_cast<double>(y_count));
      }
    }
  }
};

void forward(const Call& call, int64_t x_begin, int64_t x_end, int64_t y_begin, int64_t y_end, void* memory) {
  with_dtype(call.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    using Arithmetic = typename ArithmeticOf<dtype>::type;
    Forward<Arithmetic, dtype> run{
        call, x_begin, x_end, {call, x_end - x_begin, call.x.begin[x_end] - call.x.begin[x_begin], memory}};
    run.pack_columns();
    for (int64_t y = y_begin; y < y_end; ++y) run.score(y);
  });
}

}  // namespace

extern const late_interaction::ForwardKernel late_interaction_forward;
const late_interaction::ForwardKernel late_interaction_forward = {workspace, forward};

}  // namespace xmkern::XMKERN_CAPABILITY
