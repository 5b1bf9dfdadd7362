// Few queries against many keys, as in decoding with a cache: bound by reading keys and values, which are used where
// they lie, or packed a group of tiles at a time if enough queries share them. The keys are cut into parts, by
// their number alone, whose results are merged in order. Compiled once per instruction set (see core/capability.h): no
// standard-library code in here.
#include "attention/softmax.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using attention::decode_rows;

// What a part of the keys leaves of a row: its softmax, then its sums, unscaled.
int64_t partial_size(const Problem& p) { return lanes + round_up(p.value_depth, lanes); }

template <Dtype dtype>
Floats load_some(const void* data, int64_t i, int64_t count) {
  if (count >= lanes) return load_floats<dtype>(data, i);
  Floats x{};
  for (int64_t lane = 0; lane < count; ++lane) x[lane] = load_float<dtype>(data, i + lane);
  return x;
}

// The products of a query with `Keys` neighbouring keys.
template <Dtype dtype, int Keys>
void dot(const float* query, const Operand& x, const void* keys, int64_t depth, float* out) {
  Floats total[4];
  for (int i = 0; i < Keys; ++i) {  // key by key: memory is read in order
    total[i] = Floats{};
    int64_t c = 0;
    for (; c + lanes <= depth; c += lanes) total[i] += load(query + c) * load_floats<dtype>(keys, i * x.row + c);
    if (c < depth) total[i] += load(query + c) * load_some<dtype>(keys, i * x.row + c, depth - c);
  }
  if constexpr (Keys == 4)
    sum4(total, out);
  else
    out[0] = sum(total[0]);
}

// sums[0..Vectors) += weights times the rows of values, from column `column` on. A weight of zero takes nothing from
// its row, where NaN may lie if no query sees it.
template <Dtype dtype, int Vectors>
void accumulate(const float* weights, const Operand& x, const void* values, int64_t count, int64_t column,
                int64_t columns, float* sums) {
  Floats total[Vectors];
  for (int v = 0; v < Vectors; ++v) total[v] = load(sums + column + v * lanes);
  for (int64_t key = 0; key < count; ++key) {
    if (weights[key] == 0.0f) continue;
    for (int v = 0; v < Vectors; ++v) {
      const int64_t c = column + v * lanes;
      total[v] += weights[key] * load_some<dtype>(values, key * x.row + c, Vectors > 1 ? lanes : columns - c);
    }
  }
  for (int v = 0; v < Vectors; ++v) store(sums + column + v * lanes, total[v]);
}

template <Dtype dtype>
void attend(const Problem& p, int64_t batch, int64_t head, int64_t tile_begin, int64_t tile_end, const float* queries,
            float* scores, float* partials) {
  const int64_t key_head = head / (p.heads / p.key_heads), size = partial_size(p);
  TileGroup group;
  next_group(p, batch, head, 0, p.queries, tile_begin, tile_end, group);
  if (group.count == 0) return;
  for_runs(group, [&](const Source& source, int64_t first, int64_t keys, int64_t column) {
    for (int64_t key = 0; key < keys;) {
      const void* rows = row_of(source.key, dtype, batch, key_head, first + key);
      const int count = key + 4 <= keys ? 4 : 1;
      for (int64_t r = 0; r < p.queries; ++r) {
        float* out = scores + r * stride + column + key;
        if (count == 4)
          dot<dtype, 4>(queries + r * stride, source.key, rows, p.depth, out);
        else
          dot<dtype, 1>(queries + r * stride, source.key, rows, p.depth, out);
      }
      key += count;
    }
  });
  for (int64_t r = 0; r < p.queries; ++r) {
    float *row = scores + r * stride, *partial = partials + r * size, *sums = partial + lanes;
    Softmax state = {partial[0], partial[1]};
    const float kept = softmax_of_row<float>(p, group, batch, head, 0, r, row, state);
    partial[0] = state.most, partial[1] = state.total;
    if (kept != 1.0f)
      for (int64_t c = 0; c < p.value_depth; c += lanes) store(sums + c, load(sums + c) * kept);
    for_runs(group, [&](const Source& source, int64_t first, int64_t keys, int64_t column) {
      const void* values = row_of(source.value, dtype, batch, key_head, first);
      int64_t c = 0;
      for (; c + 8 * lanes <= p.value_depth; c += 8 * lanes)
        accumulate<dtype, 8>(row + column, source.value, values, keys, c, p.value_depth, sums);
      for (; c + 4 * lanes <= p.value_depth; c += 4 * lanes)
        accumulate<dtype, 4>(row + column, source.value, values, keys, c, p.value_depth, sums);
      for (; c < p.value_depth; c += lanes)
        accumulate<dtype, 1>(row + column, source.value, values, keys, c, p.value_depth, sums);
    });
  }
}

// From how many queries on the keys of a group of tiles are packed once for all of them.
template <class Arithmetic>
constexpr int64_t packed_rows = 6 / Arithmetic::numbers;

// Asks for rows that are read a group of tiles from now, while this group keeps the core busy.
template <Dtype dtype>
void fetch_next_group(const Operand& x, const void* rows, int64_t count, int64_t columns) {
  const auto* next = static_cast<const char*>(rows) + max_columns * x.row * size_of(dtype);
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < columns * size_of(dtype); c += 64)
      __builtin_prefetch(next + r * x.row * size_of(dtype) + c, 0, 2);
}

template <class Arithmetic>
struct Workspace {
  using Unit = typename Arithmetic::Unit;

  Unit* queries;          // block
  float *scores, *group;  // blocks: all of a group's keys; those of its tiles that a row's head sees
  Unit* block;            // of keys or values, on their way into panels
  Unit* spare;            // block of as many rows as there are lanes
  Panels<Unit> keys, values;

  Workspace(const Problem& p, void* memory) {
    float* at = static_cast<float*>(memory);
    const auto take = [&](int64_t count) {
      float* begin = at;
      at += count;
      return begin;
    };
    const auto units_at = [](float* data) { return reinterpret_cast<Unit*>(data); };
    queries = units_at(take(decode_rows * stride));
    scores = take(decode_rows * stride), group = take(decode_rows * stride),
    block = units_at(take(panel_width * stride)), spare = units_at(take(lanes * stride));
    keys = {units_at(take(Panels<Unit>::size(p.depth, max_columns))), units<Arithmetic>(p.depth), 0};
    values = {units_at(take(Panels<Unit>::size(max_columns, p.value_depth))), 0, round_up(p.value_depth, lanes)};
  }

  template <Dtype dtype>
  void pack_group(const Problem& p, const Source& source, int64_t batch, int64_t key_head, int64_t first,
                  int64_t count) {
    keys.columns = round_up(count, lanes), values.steps = units<Arithmetic>(count);
    for (int64_t key = 0; key < count; key += panel_width) {
      const int64_t rows = lesser(panel_width, count - key);
      const void *key_rows = row_of(source.key, dtype, batch, key_head, first + key),
                 *value_rows = row_of(source.value, dtype, batch, key_head, first + key);
      fetch_next_group<dtype>(source.key, key_rows, rows, p.depth);
      fetch_next_group<dtype>(source.value, value_rows, rows, p.value_depth);
      const auto key_units =
          rows_or_block<Arithmetic, dtype>(source.key, batch, key_head, first + key, rows, p.depth, block);
      pack_transposed(key_units, rows, spare, keys, key);
      pack(seen_rows<Arithmetic, dtype>(p, source, source.value, batch, key_head, first + key, rows, p.value_depth,
                                        block),
           rows, values, key / Arithmetic::numbers);
    }
  }
};

int64_t workspace(const Problem& p) {
  return 4 * ((3 * decode_rows + panel_width + lanes) * stride + Panels<float>::size(p.depth, max_columns) +
              Panels<float>::size(max_columns, p.value_depth));
}

// One group of tiles of one source for all queries of the heads that share a key head.
template <class Arithmetic, Dtype dtype>
void attend_together(const Problem& p, int64_t batch, int64_t key_head, int64_t tile_begin, int64_t tile_end,
                     Workspace<Arithmetic>& w, float* partials) {
  using Unit = typename Arithmetic::Unit;
  const int64_t heads = p.heads / p.key_heads, rows = heads * p.queries, size = partial_size(p);
  const Source& source = source_of(p, tile_begin);
  const int64_t first = tile_begin * tile_keys - source.place;
  const int64_t count = lesser(tile_end * tile_keys - source.place, source.keys) - first;
  w.template pack_group<dtype>(p, source, batch, key_head, first, count);
  multiply<Arithmetic, false>(w.queries, rows, w.keys, 0, w.keys.steps, 0, w.keys.columns, w.scores, stride, false);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = key_head * heads + row / p.queries, query = row % p.queries;
    float *all = w.scores + row * stride, *own = w.group + row * stride, *partial = partials + row * size;
    TileGroup group;
    next_group(p, batch, head, query, 1, tile_begin, tile_end, group);
    const auto move = [&](float* to, const float* from, bool gather) {
      for (int i = 0; i < group.count; ++i) {
        const int64_t place = group.key[i] - first;
        for (int64_t c = 0; c < group.width[i]; c += lanes)
          store(to + (gather ? group.column[i] : place) + c, load(from + (gather ? place : group.column[i]) + c));
      }
    };
    move(own, all, true);
    for (int64_t c = 0; c < w.keys.columns; c += lanes) store(all + c, Floats{});
    if (group.count > 0) {
      Softmax state = {partial[0], partial[1]};
      const float kept = softmax_of_row<float>(p, group, batch, head, query, 0, own, state);
      partial[0] = state.most, partial[1] = state.total;
      if (kept != 1.0f)
        for (int64_t c = lanes; c < size; c += lanes) store(partial + c, load(partial + c) * kept);
      move(all, own, false);
    }
    narrow(all, w.keys.columns, reinterpret_cast<Unit*>(all));
  }
  multiply<Arithmetic, false>(reinterpret_cast<const Unit*>(w.scores), rows, w.values, 0, w.values.steps, 0,
                              w.values.columns, partials + lanes, size, true);
}

// Tiles tile_begin to tile_end for all queries of the heads that share a key head; `partials` has a row for each.
void run(const Problem& p, int64_t batch, int64_t key_head, int64_t tile_begin, int64_t tile_end, void* memory,
         float* partials) {
  const int64_t heads = p.heads / p.key_heads, rows = heads * p.queries, size = partial_size(p);
  for (int64_t r = 0; r < rows; ++r) {
    float* partial = partials + r * size;
    for (int64_t c = 0; c < size; c += lanes) store(partial + c, Floats{});
    partial[0] = -infinity;
  }
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    const auto load_queries = [&](auto arithmetic, auto* out) {
      for (int64_t i = 0; i < heads; ++i)
        load_query<decltype(arithmetic), dtype>(p, batch, key_head * heads + i, 0, p.queries,
                                                out + i * p.queries * stride);
    };
    const auto for_groups = [&](auto&& f) {
      for (int64_t tile = tile_begin, end; tile < tile_end; tile = end) {
        const Source& source = source_of(p, tile);
        end = lesser(tile + group_tiles, (source.place + source.keys + tile_keys - 1) / tile_keys);
        end = lesser(end, tile_end);
        f(tile, end);
      }
    };
    using Arithmetic = typename ArithmeticOf<dtype>::type;
    if (rows >= packed_rows<Arithmetic>) {
      Workspace<Arithmetic> w(p, memory);
      load_queries(Arithmetic{}, w.queries);
      for_groups([&](int64_t begin, int64_t end) {
        attend_together<Arithmetic, dtype>(p, batch, key_head, begin, end, w, partials);
      });
    } else {
      float *queries = static_cast<float*>(memory), *scores = queries + decode_rows * stride;
      load_queries(Single{}, queries);
      // Group by group, so that a second head finds in the cache what the first has read.
      for_groups([&](int64_t begin, int64_t end) {
        for (int64_t i = 0; i < heads; ++i)
          attend<dtype>(p, batch, key_head * heads + i, begin, end, queries + i * p.queries * stride, scores,
                        partials + i * p.queries * size);
      });
    }
  });
}

// Joins what `parts` parts of the keys left of a row, `part_stride` numbers from one to the next, and stores it.
void merge(const Problem& p, int64_t batch, int64_t head, int64_t query, float* partial, int64_t parts,
           int64_t part_stride) {
  float most = -infinity, total = 0.0f, *sums = partial + lanes;
  for (int64_t i = 0; i < parts; ++i) most = partial[i * part_stride] > most ? partial[i * part_stride] : most;
  for (int64_t i = 0; i < parts; ++i) {
    const float* part = partial + i * part_stride;
    const float shift = most == -infinity ? 0.0f : most;
    const float weight = exp2(splat((part[0] - shift) * (pending_scale(p) * log2_e)))[0];
    total += part[1] * weight;
    for (int64_t c = 0; c < p.value_depth; c += lanes)
      store(sums + c, (i == 0 ? Floats{} : load(sums + c)) + load(part + lanes + c) * weight);
  }
  const Softmax state{most, total};
  with_dtype(p.dtype, [&](auto type) { finish_rows<decltype(type)::value>(p, batch, head, query, 1, &state, sums); });
}

}  // namespace

extern const attention::DecodeKernel attention_decode;
const attention::DecodeKernel attention_decode = {workspace, partial_size, run, merge};

}  // namespace xmkern::XMKERN_CAPABILITY
