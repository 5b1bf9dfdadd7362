// What attention reads as its kernels take it: rows where they lie, in blocks or in panels. For kernel sources (see
// core/capability.h).
#pragma once

#include "attention/kernels.h"
#include "attention/mask.h"
#include "core/product.h"

namespace xmkern::XMKERN_CAPABILITY {

using attention::Gradients;
using attention::Operand;
using attention::Part;
using attention::Problem;
using attention::Source;

inline const void* row_of(const Operand& x, Dtype dtype, int64_t batch, int64_t head, int64_t row) {
  return static_cast<const char*>(x.data) + (batch * x.batch + head * x.head + row * x.row) * size_of(dtype);
}
inline void* mutable_row_of(const Operand& x, Dtype dtype, int64_t batch, int64_t head, int64_t row) {
  return const_cast<void*>(row_of(x, dtype, batch, head, row));
}

// Asks for what the next head reads and writes, if heads are short enough for the caches: most likely the same thread
// does it.
template <class Arithmetic>
inline Prefetcher next_head(const Problem& p, const Gradients* g, int64_t batch, int64_t head) {
  Prefetcher ahead;
  batch += (head + 1) / p.heads, head = (head + 1) % p.heads;
  if (batch == p.batches || p.queries > 256) return ahead;
  const auto add = [&](const Operand& x, int64_t of_head, int64_t rows, int64_t columns) {
    const int64_t size = size_of(p.dtype);
    ahead.add(row_of(x, p.dtype, batch, of_head, 0), x.row * size, rows, columns * size);
  };
  const int64_t group = p.heads / p.key_heads, key_head = head / group;
  for (int64_t i = 0; i < p.source_count && head % group == 0; ++i) {
    const Source& source = p.sources[i];
    add(source.value, key_head, source.keys, p.value_depth), add(source.key, key_head, source.keys, p.depth);
  }
  add(p.query, head, p.queries, p.depth);
  if (g) add(g->out, head, p.queries, p.value_depth);
  add(p.out, head, p.queries, p.value_depth);
  if (g) {
    add(g->query, head, p.queries, p.depth);
    for (int64_t i = 0; i < p.source_count && head % group == 0; ++i) {
      const int64_t keys = p.sources[i].keys;
      add(g->sources[i].value, key_head, keys, p.value_depth), add(g->sources[i].key, key_head, keys, p.depth);
    }
  }
  const int64_t depths = g ? 3 * p.depth + 2 * p.value_depth : p.depth + p.value_depth;
  ahead.spread(p.queries * p.places * depths / products_a_step<Arithmetic>);
  return ahead;
}

// Rows a block, at most `most`, as equal as can be.
inline int64_t rows_per_block(int64_t rows, int64_t most) {
  const int64_t blocks = (rows + most - 1) / most;
  return blocks == 0 ? 1 : (rows + blocks - 1) / blocks;
}

// Queries with the sign of the scale, which is then taken to be positive: a masked score is -inf, and the largest score
// must be the largest exponent.
template <class Arithmetic, Dtype dtype>
inline void load_query(const Problem& p, int64_t batch, int64_t head, int64_t row_begin, int64_t rows,
                       typename Arithmetic::Unit* out) {
  load_block<dtype>(row_of(p.query, dtype, batch, head, row_begin), p.query.row, rows, p.depth, out);
  if (p.scale >= 0) return;
  auto* words = reinterpret_cast<uint32_t*>(out);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < units<Arithmetic>(p.depth); c += lanes)
      store(words + r * stride + c, load(words + r * stride + c) ^ splat(Arithmetic::signs));
}

// Whether rows of a tensor are made of units as they lie, so that products can read them there.
template <class Arithmetic, Dtype dtype>
inline bool in_units(const Operand& x, int64_t columns) {
  if constexpr (size_of(dtype) * Arithmetic::numbers != sizeof(typename Arithmetic::Unit)) return false;
  constexpr int64_t numbers = Arithmetic::numbers;
  const auto address = reinterpret_cast<uintptr_t>(x.data);
  return (columns | x.row | x.head | x.batch) % numbers == 0 && address % sizeof(typename Arithmetic::Unit) == 0;
}

// Rows of a tensor, in place.
template <class Arithmetic, Dtype dtype>
inline Rows<typename Arithmetic::Unit> rows_in_place(const Operand& x, int64_t batch, int64_t head, int64_t row) {
  return {static_cast<const typename Arithmetic::Unit*>(row_of(x, dtype, batch, head, row)),
          x.row / Arithmetic::numbers};
}

// Rows where they lie, if whole vectors of units can be read there, or else in a block.
template <class Arithmetic, Dtype dtype>
inline Rows<typename Arithmetic::Unit> rows_or_block(const Operand& x, int64_t batch, int64_t key_head, int64_t key,
                                                     int64_t rows, int64_t columns, typename Arithmetic::Unit* block) {
  if (columns % (lanes * Arithmetic::numbers) == 0 && in_units<Arithmetic, dtype>(x, columns))
    return rows_in_place<Arithmetic, dtype>(x, batch, key_head, key);
  load_block<dtype>(row_of(x, dtype, batch, key_head, key), x.row, rows, columns, block);
  return {block, stride};
}

// Rows of queries: where they lie, or in a block. Whole: such that whole vectors of units can be read.
template <class Arithmetic, Dtype dtype>
inline Rows<typename Arithmetic::Unit> query_rows(const Problem& p, int64_t batch, int64_t head, int64_t row_begin,
                                                  int64_t rows, bool whole, typename Arithmetic::Unit* block) {
  const bool fit = !whole || p.depth % (lanes * Arithmetic::numbers) == 0;
  if (fit && p.scale >= 0 && in_units<Arithmetic, dtype>(p.query, p.depth))
    return rows_in_place<Arithmetic, dtype>(p.query, batch, head, row_begin);
  load_query<Arithmetic, dtype>(p, batch, head, row_begin, rows, block);
  return {block, stride};
}

// Calls f(source, first key, number of keys) for as many neighbouring keys as a panel is wide, and again.
template <class F>
inline void for_panels(const Problem& p, F&& f) {
  for (int64_t i = 0; i < p.source_count; ++i) {
    const Source& source = p.sources[i];
    for (int64_t key = 0; key < source.keys; key += panel_width) f(source, key, lesser(panel_width, source.keys - key));
  }
}

// Whether zero times any of the numbers is zero.
template <class Arithmetic>
inline bool finite(Rows<typename Arithmetic::Unit> from, int64_t rows, int64_t columns) {
  Floats squares{};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < units<Arithmetic>(columns); c += lanes) {
      const auto numbers = load(from.data + r * from.apart + c);
      squares = Arithmetic::multiply_add(squares, numbers, numbers);
    }
  return sum(squares) < infinity;
}

// The same with zeros for those that no query sees: zero times what happens to lie there, NaN perhaps, must be zero.
// Finite numbers do no harm, so that a look at the rows nearly always settles it.
template <class Arithmetic, Dtype dtype>
inline Rows<typename Arithmetic::Unit> seen_rows(const Problem& p, const Source& source, const Operand& x,
                                                 int64_t batch, int64_t key_head, int64_t key, int64_t rows,
                                                 int64_t columns, typename Arithmetic::Unit* block) {
  const auto from = rows_or_block<Arithmetic, dtype>(x, batch, key_head, key, rows, columns, block);
  if (source.mask.length == 0 || finite<Arithmetic>(from, rows, columns)) return from;
  load_block<dtype>(row_of(x, dtype, batch, key_head, key), x.row, rows, columns, block);
  const int64_t heads = p.heads / p.key_heads, first = key / tile_keys * tile_keys;
  uint64_t seen = 0;
  for (int64_t head = key_head * heads; head < (key_head + 1) * heads; ++head)
    for (int64_t query = 0; query < p.queries; ++query)
      seen |= visible_word(source.mask, batch, head, query, first, source.keys);
  for (int64_t r = 0; r < rows; ++r) {
    if (seen >> (key + r - first) & 1) continue;
    for (int64_t c = 0; c < units<Arithmetic>(columns); c += lanes)
      store(block + r * stride + c, decltype(load(block)){});
  }
  return {block, stride};
}

// Keys or values as the right side of products along the keys: where they lie, if they are whole vectors of units of
// one number there in all sources, and where a mask hides some, finite; or else packed.
template <class Arithmetic>
struct AlongKeys {
  using Unit = typename Arithmetic::Unit;

  const Operand Source::* side;
  Panels<Unit> packed;
  bool in_place = false;

  template <Dtype dtype>
  void begin(const Problem& p, int64_t batch, int64_t key_head, int64_t columns) {
    in_place = Arithmetic::numbers == 1 && columns % lanes == 0;
    for (int64_t i = 0; i < p.source_count && in_place; ++i) {
      const Source& source = p.sources[i];
      const auto rows = rows_in_place<Arithmetic, dtype>(source.*side, batch, key_head, 0);
      in_place = in_units<Arithmetic, dtype>(source.*side, columns) &&
                 (source.mask.length == 0 || finite<Arithmetic>(rows, source.keys, columns));
    }
  }

  // Rows from `key` on, as seen_rows has them; what is left in place has been looked at.
  template <Dtype dtype>
  Rows<Unit> seen(const Problem& p, const Source& source, int64_t batch, int64_t key_head, int64_t key, int64_t rows,
                  int64_t columns, Unit* block) const {
    if (in_place) return rows_in_place<Arithmetic, dtype>(source.*side, batch, key_head, key);
    return seen_rows<Arithmetic, dtype>(p, source, source.*side, batch, key_head, key, rows, columns, block);
  }

  // Rows from `place` on, as many as a panel is wide; needed where they are not left in place.
  void pack_rows(Rows<Unit> from, int64_t rows, int64_t place) const {
    pack(from, rows, packed, place / Arithmetic::numbers);
  }

  // The panels, and their first row, of the neighbouring keys from `key` on.
  struct Right {
    Panels<Unit> panels;
    int64_t step;
  };
  template <Dtype dtype>
  Right from(const Source& source, int64_t batch, int64_t key_head, int64_t key, int64_t keys) const {
    if (!in_place) return {packed, (source.place + key) / Arithmetic::numbers};
    const auto rows = rows_in_place<Arithmetic, dtype>(source.*side, batch, key_head, key);
    return {as_panels(rows, keys, packed.columns), 0};
  }
};

}  // namespace xmkern::XMKERN_CAPABILITY
