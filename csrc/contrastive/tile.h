// A tile of the matrix of similarities: the operands packed, the products, and which pairs are of which sort. For
// kernel sources (see core/capability.h).
#pragma once

#include "contrastive/kernels.h"
#include "core/product.h"

namespace xmkern::XMKERN_CAPABILITY {

using contrastive::block_rows;
using contrastive::Part;
using contrastive::Problem;
using contrastive::Side;

// Units of k that a block of rows holds; longer rows take several blocks, one behind the other.
inline constexpr int64_t block_units = 256;
inline constexpr int64_t block_size = block_rows * stride;

template <Dtype dtype>
inline const void* number_at(const void* data, int64_t i) {
  return static_cast<const char*>(data) + i * (dtype == Dtype::float32 ? 4 : 2);
}

inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

inline int64_t blocks_of(int64_t units) { return (units + block_units - 1) / block_units; }

// Rows as left operand: blocks of 256 units of each.
template <class Arithmetic, Dtype dtype>
inline void load_rows(const Side& side, int64_t depth, int64_t begin, int64_t rows, typename Arithmetic::Unit* blocks) {
  constexpr int64_t width = block_units * Arithmetic::numbers;
  for (int64_t c = 0; c < depth; c += width, blocks += block_size)
    load_block<dtype>(number_at<dtype>(side.data, begin * side.stride + c), side.stride, rows, lesser(width, depth - c),
                      blocks);
}

// Rows as columns of a right operand. `block` has room for a panel's rows.
template <class Arithmetic, Dtype dtype>
inline void pack_columns(const Side& side, int64_t depth, int64_t begin, int64_t count,
                         const Panels<typename Arithmetic::Unit>& out, typename Arithmetic::Unit* block) {
  constexpr int64_t width = block_units * Arithmetic::numbers;
  for (int64_t column = 0; column < count; column += panel_width) {
    const int64_t rows = lesser(panel_width, count - column);
    for (int64_t c = 0, step = 0; c < depth; c += width, step += block_units) {
      load_block<dtype>(number_at<dtype>(side.data, (begin + column) * side.stride + c), side.stride, rows,
                        lesser(width, depth - c), block);
      pack_transposed(block, rows, out, column, step, lesser(block_units, out.steps - step));
    }
  }
}

// A vector of numbers of which only the first `left` are there.
template <Dtype dtype>
inline Floats load_some(const void* data, int64_t i, int64_t left) {
  if (left >= lanes) return load_floats<dtype>(data, i);
  float some[lanes] = {};
  for (int64_t lane = 0; lane < left; ++lane) some[lane] = load_float<dtype>(data, i + lane);
  return load(some);
}

// Rows as rows of a right operand, from its row `step` on: row by row, since what is read in order comes from memory in
// time.
template <class Arithmetic, Dtype dtype>
inline void pack_rows(const Side& side, int64_t depth, int64_t begin, int64_t rows, const Panels<float>& out,
                      int64_t step = 0) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t column = 0; column < out.columns; column += panel_width)
      for (int64_t c = column; c < column + out.width(column); c += lanes)
        store(out.at(step + r, column) + c - column,
              load_some<dtype>(side.data, (begin + r) * side.stride + c, depth - c));
}

#if defined(__AVX512BF16__)
template <class Arithmetic, Dtype dtype>
inline void pack_rows(const Side& side, int64_t depth, int64_t begin, int64_t rows, const Panels<uint32_t>& out,
                      int64_t step = 0) {
  const auto* from = static_cast<const uint16_t*>(side.data) + begin * side.stride;
  const auto halves = [&](int64_t r, int64_t c) {
    const int64_t left = depth - c;
    if (r >= rows || left <= 0) return Words{};
    if (left >= lanes) return load_halves(from + r * side.stride + c);
    const auto there = static_cast<__mmask16>((1u << left) - 1);
    return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from + r * side.stride + c)));
  };
  for (int64_t r = 0; r < rows; r += 2)
    for (int64_t column = 0; column < out.columns; column += panel_width)
      for (int64_t c = column; c < column + out.width(column); c += lanes)
        store(out.at(step + r / 2, column) + c - column, halves(r, c) | halves(r + 1, c) << 16);
}
#endif

// Panels in memory that is taken piece by piece.
class Memory {
 public:
  explicit Memory(void* data) : at_(static_cast<float*>(data)) {}

  float* floats(int64_t count) {
    float* begin = at_;
    at_ += round_up(count, 16);
    return begin;
  }

  template <class Arithmetic>
  Panels<typename Arithmetic::Unit> panels(int64_t steps, int64_t columns) {
    using Unit = typename Arithmetic::Unit;
    steps = units<Arithmetic>(steps);
    return {reinterpret_cast<Unit*>(floats(Panels<Unit>::size(steps, columns))), steps, round_up(columns, lanes)};
  }

 private:
  float* at_;
};

// The products of a block of rows and a strip of columns, as a block. Sums are taken over `run` units at a time: one
// long sum of each would have twice the rounding error.
template <class Arithmetic>
inline void multiply_tile(const typename Arithmetic::Unit* rows, int64_t count,
                          const Panels<typename Arithmetic::Unit>& columns, float* tile) {
  constexpr int64_t run = 128;
  for (int64_t step = 0; step < columns.steps; step += run)
    multiply<Arithmetic, false>(rows + step / block_units * block_size + step % block_units, count, columns, step,
                                lesser(run, columns.steps - step), 0, columns.columns, tile, stride, step > 0);
}

// What a tile needs to know of its columns, padded to whole vectors.
struct Strip {
  float scale[max_columns];
  int64_t ids[max_columns], groups[max_columns];
  int64_t begin, count, width;

  Strip(const Side& side, int64_t column_begin, int64_t column_end)
      : begin(column_begin), count(column_end - column_begin), width(round_up(count, lanes)) {
    copy(side.scale, scale);
    copy(side.ids, ids);
    copy(side.groups, groups);
  }

  // Columns of one side's array, with zeros behind them; nothing if there is none.
  template <class T>
  void copy(const T* from, T* to) const {
    for (int64_t c = 0; from && c < width; ++c) to[c] = c < count ? from[begin + c] : T{};
  }
};

// Sums over a tile's rows, for each column: added to totals at its end, because one long sum of all would have a larger
// rounding error.
struct ColumnSums {
  float data[max_columns];

  explicit ColumnSums(const Strip& strip) {
    for (int64_t c = 0; c < strip.width; c += lanes) store(data + c, Floats{});
  }
  void add(int64_t column, Floats x) { store(data + column, load(data + column) + x); }
  void add_to(float* totals, const Strip& strip) const {
    for (int64_t c = 0; c < strip.width; c += lanes) store(totals + c, load(totals + c) + load(data + c));
  }
};

// Bit i is set where id i of `lanes` ids is `id`.
inline uint32_t equal_bits(const int64_t* ids, int64_t id) {
#if defined(__AVX512F__)
  const __m512i wanted = _mm512_set1_epi64(id);
  const uint32_t low = _mm512_cmpeq_epi64_mask(_mm512_loadu_si512(ids), wanted);
  return low | static_cast<uint32_t>(_mm512_cmpeq_epi64_mask(_mm512_loadu_si512(ids + 8), wanted)) << 8;
#else
  uint32_t bits = 0;
  for (int i = 0; i < lanes; ++i) bits |= static_cast<uint32_t>(ids[i] == id) << i;
  return bits;
#endif
}

inline uint32_t true_bits(const uint8_t* flags, int64_t left) {
#if defined(__AVX512F__)
  if (left >= lanes) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(flags));
    return _mm_test_epi8_mask(x, x);
  }
#endif
  uint32_t bits = 0;
  for (int64_t i = 0; i < lesser(left, lanes); ++i) bits |= static_cast<uint32_t>(flags[i] != 0) << i;
  return bits;
}

// The sorts of `lanes` pairs of a row, as bits.
struct Sorts {
  uint32_t positive, visible;  // visible: in the matrix, and not hidden
};

// Of `lanes` columns, those that are in the strip.
inline uint32_t bits_there(const Strip& strip, int64_t column) {
  const int64_t left = strip.count - column;
  return left >= lanes ? (1u << lanes) - 1 : (1u << left) - 1;
}

inline Sorts sorts_of(const Problem& p, const Strip& strip, int64_t row, int64_t column) {
  const int64_t left = strip.count - column;
  const uint32_t there = bits_there(strip, column);
  uint32_t positive = 0, hidden = 0;
  if (p.relevance)
    positive = true_bits(p.relevance + row * p.relevance_stride + strip.begin + column, left);
  else if (p.x.ids)
    positive = equal_bits(strip.ids + column, p.x.ids[row]) & there;
  if (p.x.groups) hidden = equal_bits(strip.groups + column, p.x.groups[row]) & ~positive;
  return {positive, there & ~hidden};
}

// Calls f(i) for each bit i that is set.
template <class F>
inline void for_bits(uint32_t bits, F&& f) {
  for (; bits; bits &= bits - 1) f(__builtin_ctz(bits));
}

}  // namespace xmkern::XMKERN_CAPABILITY
