// Scores of a block of queries against groups of key tiles, shared by the forward and the backward kernel.
#pragma once

#include "attention/kernels.h"
#include "attention/mask.h"
#include "core/philox.h"
#include "core/product.h"

namespace xmkern::XMKERN_CAPABILITY {

using attention::Bias;
using attention::Gradients;
using attention::Operand;
using attention::Part;
using attention::Problem;
using attention::Source;

inline constexpr int group_tiles = max_columns / tile_keys;
inline constexpr int block_rows = 64;

inline const void* row_of(const Operand& x, Dtype dtype, int64_t batch, int64_t head, int64_t row) {
  return static_cast<const char*>(x.data) + (batch * x.batch + head * x.head + row * x.row) * size_of(dtype);
}
inline void* mutable_row_of(const Operand& x, Dtype dtype, int64_t batch, int64_t head, int64_t row) {
  return const_cast<void*>(row_of(x, dtype, batch, head, row));
}

// Asks for what the next head reads and writes, if heads are short enough for the caches: most likely the same thread
// does it.
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
  if (!g) return ahead;
  add(g->query, head, p.queries, p.depth);
  for (int64_t i = 0; i < p.source_count && head % group == 0; ++i) {
    const int64_t keys = p.sources[i].keys;
    add(g->sources[i].value, key_head, keys, p.value_depth), add(g->sources[i].key, key_head, keys, p.depth);
  }
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

// The same, or a block of them.
template <class Arithmetic, Dtype dtype>
inline Rows<typename Arithmetic::Unit> query_rows(const Problem& p, int64_t batch, int64_t head, int64_t row_begin,
                                                  int64_t rows, typename Arithmetic::Unit* block) {
  if (p.scale >= 0 && in_units<Arithmetic, dtype>(p.query, p.depth))
    return rows_in_place<Arithmetic, dtype>(p.query, batch, head, row_begin);
  load_query<Arithmetic, dtype>(p, batch, head, row_begin, rows, block);
  return {block, stride};
}

inline int64_t tile_count(const Problem& p) { return (p.places + tile_keys - 1) / tile_keys; }

inline const Source& source_of(const Problem& p, int64_t tile) {
  const Source* source = p.sources + p.source_count - 1;
  while (source->keys == 0 || source->place > tile * tile_keys) --source;
  return *source;
}

// Up to four tiles of keys that are not empty, one behind the other in the block of scores.
struct TileGroup {
  int count;
  int64_t columns;                    // of all
  const Source* source[group_tiles];  // whose keys they are
  int64_t key[group_tiles];           // the first, in its source
  int64_t column[group_tiles];        // where its scores begin
  int64_t width[group_tiles];         // of its scores: whole vectors, up to the last that some query sees
  bool masked[group_tiles];
  uint64_t words[block_rows][group_tiles];  // what is visible, where masked
};

// Collects the next tiles at or after `tile` that some of the queries see; returns the tile to go on with.
inline int64_t next_group(const Problem& p, int64_t batch, int64_t head, int64_t row_begin, int64_t rows, int64_t tile,
                          int64_t tile_end, TileGroup& group) {
  group.count = 0, group.columns = 0;
  for (; tile < tile_end && group.count < group_tiles; ++tile) {
    const Source& source = source_of(p, tile);
    const int64_t key = tile * tile_keys - source.place, key_end = lesser(key + tile_keys, source.keys);
    const Reach sight = reach(source.mask, batch, {row_begin, row_begin + rows, key, key_end});
    if (sight == Reach::none) continue;
    const int i = group.count;
    const uint64_t everything = interval(0, key_end - key);
    uint64_t any = everything, all = everything;
    if (sight == Reach::partial) {
      any = 0;
      for (int64_t r = 0; r < rows; ++r) {
        const uint64_t word = visible_word(source.mask, batch, head, row_begin + r, key, source.keys);
        group.words[r][i] = word;
        any |= word, all &= word;
      }
      if (any == 0) continue;
    }
    const int64_t width = round_up(tile_keys - __builtin_clzll(any), lanes);
    group.masked[i] = ~all & interval(0, width);  // by the mask, or behind the last key
    if (group.masked[i] && sight == Reach::all)
      for (int64_t r = 0; r < rows; ++r) group.words[r][i] = everything;
    group.source[i] = &source, group.key[i] = key;
    group.column[i] = group.columns, group.width[i] = width;
    group.columns += width;
    ++group.count;
  }
  return tile;
}

// Calls f(source, first key, number of keys, column) for each run of neighbouring keys.
template <class F>
inline void for_runs(const TileGroup& group, F&& f) {
  for (int i = 0; i < group.count;) {
    const Source& source = *group.source[i];
    const int64_t first = group.key[i];
    int64_t last = first + group.width[i];
    int end = i + 1;
    for (; end < group.count && group.source[end] == &source && group.key[end] == last; ++end) last += group.width[end];
    f(source, first, lesser(last, source.keys) - first, group.column[i]);
    i = end;
  }
}

// Calls f(source, first key, number of keys) for as many neighbouring keys as a panel is wide, and again.
template <class F>
inline void for_panels(const Problem& p, F&& f) {
  for (int64_t i = 0; i < p.source_count; ++i) {
    const Source& source = p.sources[i];
    for (int64_t key = 0; key < source.keys; key += panel_width) f(source, key, lesser(panel_width, source.keys - key));
  }
}

// Rows of keys or values: where they lie, if whole vectors of units can be read there, or else in a block.
template <class Arithmetic, Dtype dtype>
inline Rows<typename Arithmetic::Unit> rows_or_block(const Operand& x, int64_t batch, int64_t key_head, int64_t key,
                                                     int64_t rows, int64_t columns, typename Arithmetic::Unit* block) {
  if (columns % (lanes * Arithmetic::numbers) == 0 && in_units<Arithmetic, dtype>(x, columns))
    return rows_in_place<Arithmetic, dtype>(x, batch, key_head, key);
  load_block<dtype>(row_of(x, dtype, batch, key_head, key), x.row, rows, columns, block);
  return {block, stride};
}

// The same with zeros for those that no query sees: zero times what happens to lie there, NaN perhaps, must be zero.
// Finite numbers do no harm, so that a look at the rows nearly always settles it.
template <class Arithmetic, Dtype dtype>
inline Rows<typename Arithmetic::Unit> seen_rows(const Problem& p, const Source& source, const Operand& x,
                                                 int64_t batch, int64_t key_head, int64_t key, int64_t rows,
                                                 int64_t columns, typename Arithmetic::Unit* block) {
  const auto from = rows_or_block<Arithmetic, dtype>(x, batch, key_head, key, rows, columns, block);
  if (source.mask.length == 0) return from;
  Floats squares{};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < units<Arithmetic>(columns); c += lanes) {
      const auto numbers = load(from.data + r * from.apart + c);
      squares = Arithmetic::multiply_add(squares, numbers, numbers);
    }
  if (sum(squares) < infinity) return from;
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

// The bias of one query: a reader of neighbouring keys.
struct BiasRow {
  const float* data;
  int64_t key;
  const int32_t* buckets;

  BiasRow(const Bias& bias, int64_t keys, int64_t batch, int64_t head, int64_t query)
      : data(bias.data + batch * bias.batch + head * bias.head),
        key(bias.key),
        buckets(bias.buckets ? bias.buckets + query * keys : nullptr) {
    if (!buckets) data += query * bias.query;
  }

  // Whether neighbouring keys' are neighbours.
  bool dense() const { return !buckets && key == 1; }

  // `count` of the lanes are read.
  Floats load_at(int64_t at, int64_t count) const {
    if (!buckets && key == 0) return splat(data[0]);
    Floats x{};
    for (int i = 0; i < lanes && i < count; ++i) x[i] = data[(buckets ? buckets[at + i] : at + i) * key];
    return x;
  }
};

// What products of queries and keys are multiplied by to be scores. Never 0: what is hidden is -inf, and must stay so.
inline float score_scale(const Problem& p) {
  const float scale = __builtin_fabsf(p.scale);
  return scale < __FLT_MIN__ ? __FLT_MIN__ : scale;
}
// The same, where add_bias has not already done it.
inline float pending_scale(const Problem& p) { return p.biased ? 1.0f : score_scale(p); }

// Brings products of one row to scores, with the biases.
inline void add_bias(const Problem& p, const TileGroup& group, int64_t batch, int64_t head, int64_t query,
                     float* scores) {
  const float scale = score_scale(p);
  for (int i = 0; i < group.count; ++i) {
    const Source& source = *group.source[i];
    float* at = scores + group.column[i];
    if (!source.bias.data) {
      for (int64_t c = 0; c < group.width[i]; c += lanes) store(at + c, load(at + c) * scale);
      continue;
    }
    const BiasRow bias(source.bias, source.keys, batch, head, query);
    const int64_t key = group.key[i], keys = source.keys - key;
    int64_t c = 0;
    for (; bias.dense() && c + lanes <= lesser(keys, group.width[i]); c += lanes)
      store(at + c, load(at + c) * scale + load(bias.data + key + c));
    for (; c < group.width[i]; c += lanes) store(at + c, load(at + c) * scale + bias.load_at(key + c, keys - c));
  }
}

// Hides what is masked.
inline void hide(const TileGroup& group, int64_t row, float* scores) {
  for (int i = 0; i < group.count; ++i) {
    if (!group.masked[i]) continue;
    const uint64_t word = group.words[row][i];
    float* at = scores + group.column[i];
    for (int64_t c = 0; c < group.width[i]; c += lanes) {
      const auto bits = static_cast<uint32_t>(word >> c);
      if (~bits & ((1u << lanes) - 1)) store(at + c, select(bits, load(at + c), splat(-infinity)));
    }
  }
}

// What dropout keeps of a tile of the group.
inline uint64_t kept_word(const Problem& p, const TileGroup& group, int i, int64_t batch, int64_t head, int64_t query) {
  const int64_t tile = (group.source[i]->place + group.key[i]) / tile_keys;
  return kept_word(p.dropout.seed, p.dropout.threshold, static_cast<uint64_t>(batch * p.heads + head),
                   static_cast<uint32_t>(query), static_cast<uint32_t>(tile));
}

// Zeroes what dropout takes from a row of probabilities.
inline void drop(const Problem& p, const TileGroup& group, int64_t batch, int64_t head, int64_t query, float* row) {
  for (int i = 0; i < group.count; ++i) {
    const uint64_t word = kept_word(p, group, i, batch, head, query);
    float* at = row + group.column[i];
    for (int64_t c = 0; c < group.width[i]; c += lanes)
      store(at + c, select(static_cast<uint32_t>(word >> c), load(at + c), Floats{}));
  }
}

}  // namespace xmkern::XMKERN_CAPABILITY
