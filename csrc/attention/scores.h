// Scores of a block of queries against groups of key tiles, shared by the forward and the backward kernel.
#pragma once

#include "attention/operands.h"
#include "core/philox.h"

namespace xmkern::XMKERN_CAPABILITY {

using attention::Bias;

inline constexpr int group_tiles = max_columns / tile_keys;
inline constexpr int block_rows = 64;

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
  int64_t hidden[group_tiles];  // its first vector of which something is hidden, by the mask or behind the last key
  uint64_t words[block_rows][group_tiles];  // what is visible, where something is hidden
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
    const uint64_t hidden = ~all & interval(0, width);
    group.hidden[i] = hidden ? __builtin_ctzll(hidden) / lanes * lanes : width;
    if (hidden && sight == Reach::all)
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
    float* at = scores + group.column[i];
    for (int64_t c = group.hidden[i]; c < group.width[i]; c += lanes) {
      const auto bits = static_cast<uint32_t>(group.words[row][i] >> c);
      store(at + c, select(bits, load(at + c), splat(-infinity)));
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
