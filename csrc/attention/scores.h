// Scores of a block of queries against groups of key tiles, shared by the forward and the backward kernel.
#pragma once

#include "attention/kernels.h"
#include "attention/mask.h"
#include "core/philox.h"
#include "core/product.h"

namespace xmkern::XMKERN_CAPABILITY {

using attention::Bias;
using attention::Operand;
using attention::Part;
using attention::Problem;

inline constexpr int group_tiles = max_columns / tile_keys;
inline constexpr int block_rows = 64;

inline const void* row_of(const Operand& x, Dtype dtype, int64_t batch, int64_t head, int64_t row) {
  return static_cast<const char*>(x.data) + (batch * x.batch + head * x.head + row * x.row) * size_of(dtype);
}
inline void* mutable_row_of(const Operand& x, Dtype dtype, int64_t batch, int64_t head, int64_t row) {
  return const_cast<void*>(row_of(x, dtype, batch, head, row));
}

// Rows a block: few enough that a block of scores stays near the core, as equal as can be.
inline int64_t rows_per_block(const Problem& p, int64_t rows) {
  const int64_t most = p.keys <= 128 ? block_rows : 48;
  const int64_t blocks = (rows + most - 1) / most;
  return blocks == 0 ? 1 : (rows + blocks - 1) / blocks;
}

// Queries with the sign of the scale, which is then taken to be positive: a masked score is -inf, and the largest score
// must be the largest exponent.
template <Dtype dtype>
inline void load_query(const Problem& p, int64_t batch, int64_t head, int64_t row_begin, int64_t rows, float* out) {
  load_block<dtype>(row_of(p.query, dtype, batch, head, row_begin), p.query.row, rows, p.depth, out);
  if (p.scale >= 0) return;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < p.depth; c += lanes) store(out + r * stride + c, -load(out + r * stride + c));
}

template <Dtype dtype>
inline void store_row(void* out, const float* row, int64_t columns, float scale) {
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) store_floats<dtype>(out, c, load(row + c) * scale);
  for (; c < columns; ++c) store_float<dtype>(out, c, row[c] * scale);
}

// Up to four tiles of keys that are not empty, one behind the other in the block of scores.
struct TileGroup {
  int count;
  int64_t columns;              // of all, each tile rounded up to whole vectors
  int64_t tile[group_tiles];    // number of the tile: its first key / 64
  int64_t column[group_tiles];  // where its scores begin
  bool masked[group_tiles];
  uint64_t words[block_rows][group_tiles];  // what is visible, where masked
};

inline int64_t tile_columns(const Problem& p, int64_t tile) {
  return round_up(lesser(tile_keys, p.keys - tile * tile_keys), lanes);
}

// Collects the next tiles at or after `tile` that some of the queries see; returns the tile to go on with.
inline int64_t next_group(const Problem& p, int64_t batch, int64_t head, int64_t row_begin, int64_t rows, int64_t tile,
                          int64_t tile_end, TileGroup& group) {
  group.count = 0, group.columns = 0;
  for (; tile < tile_end && group.count < group_tiles; ++tile) {
    const int64_t key = tile * tile_keys, key_end = lesser(key + tile_keys, p.keys);
    const Reach sight = reach(p.mask, batch, {row_begin, row_begin + rows, key, key_end});
    if (sight == Reach::none) continue;
    const int i = group.count;
    const int64_t columns = tile_columns(p, tile);
    bool masked = columns != key_end - key;  // zeros behind the last key
    if (sight == Reach::partial) {
      const uint64_t everything = interval(0, key_end - key);
      uint64_t any = 0, all = everything;
      for (int64_t r = 0; r < rows; ++r) {
        const uint64_t word = visible_word(p.mask, batch, head, row_begin + r, key, p.keys);
        group.words[r][i] = word;
        any |= word, all &= word;
      }
      if (any == 0) continue;
      masked |= all != everything;
    } else if (masked) {
      for (int64_t r = 0; r < rows; ++r) group.words[r][i] = interval(0, key_end - key);
    }
    group.tile[i] = tile, group.column[i] = group.columns, group.masked[i] = masked;
    group.columns += columns;
    ++group.count;
  }
  return tile;
}

// Calls f(first tile, keys, column) for each run of neighbouring tiles.
template <class F>
inline void for_runs(const Problem& p, const TileGroup& group, F&& f) {
  for (int i = 0; i < group.count;) {
    int end = i + 1;
    while (end < group.count && group.tile[end] == group.tile[end - 1] + 1) ++end;
    const int64_t first = group.tile[i] * tile_keys;
    f(first, lesser((group.tile[end - 1] + 1) * tile_keys, p.keys) - first, group.column[i]);
    i = end;
  }
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

  // `count` of the lanes are read.
  Floats load_at(int64_t at, int64_t count) const {
    if (!buckets && key == 0) return splat(data[0]);
    if (!buckets && key == 1 && count >= lanes) return load(data + at);
    Floats x{};
    for (int i = 0; i < lanes && i < count; ++i) x[i] = data[(buckets ? buckets[at + i] : at + i) * key];
    return x;
  }
};

// Brings scores of one row to base-2 exponents, adds the bias and hides what is masked. Without a bias, the scores stay
// as they are, to be multiplied by the returned scale.
inline void add_bias(const Problem& p, const TileGroup& group, int64_t batch, int64_t head, int64_t query,
                     float* scores, float scale) {
  const BiasRow bias(p.bias, p.keys, batch, head, query);
  for (int i = 0; i < group.count; ++i) {
    const int64_t key = group.tile[i] * tile_keys;
    float* at = scores + group.column[i];
    for (int64_t c = 0; c < tile_columns(p, group.tile[i]); c += lanes)
      store(at + c, load(at + c) * scale + bias.load_at(key + c, p.keys - key - c) * log2_e);
  }
}

inline void hide(const Problem& p, const TileGroup& group, int64_t row, float* scores) {
  for (int i = 0; i < group.count; ++i) {
    if (!group.masked[i]) continue;
    const uint64_t word = group.words[row][i];
    float* at = scores + group.column[i];
    for (int64_t c = 0; c < tile_columns(p, group.tile[i]); c += lanes)
      store(at + c, select(static_cast<uint32_t>(word >> c), load(at + c), splat(-infinity)));
  }
}

inline uint64_t kept_word(const Problem& p, int64_t batch, int64_t head, int64_t query, int64_t tile) {
  return kept_word(p.dropout.seed, p.dropout.threshold, static_cast<uint64_t>(batch * p.heads + head),
                   static_cast<uint32_t>(query), static_cast<uint32_t>(tile));
}

// Zeroes what dropout takes from a row of probabilities.
inline void drop(const Problem& p, const TileGroup& group, int64_t batch, int64_t head, int64_t query, float* row) {
  for (int i = 0; i < group.count; ++i) {
    const uint64_t word = kept_word(p, batch, head, query, group.tile[i]);
    float* at = row + group.column[i];
    for (int64_t c = 0; c < tile_columns(p, group.tile[i]); c += lanes)
      store(at + c, select(static_cast<uint32_t>(word >> c), load(at + c), Floats{}));
  }
}

}  // namespace xmkern::XMKERN_CAPABILITY
