// The forward pass (Dao et al. 2022): online softmax over groups of key tiles, nothing of size [queries, keys].
// Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "attention/softmax.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

// Queries at a time. Keys and values come anew from the second-level cache for each; of few, masks that hide what is
// far from the diagonal leave less to do.
constexpr int forward_rows = 24;
// A block of scores, or of keys to be packed and what that needs to spare.
constexpr int scores_rows = forward_rows > panel_width + lanes ? forward_rows : panel_width + lanes;

template <class Arithmetic>
struct Workspace {
  using Unit = typename Arithmetic::Unit;

  Unit* query;           // block
  float *scores, *sums;  // blocks
  Panels<Unit> keys;
  AlongKeys<Arithmetic> values;

  Workspace(const Problem& p, void* memory) {
    float* at = static_cast<float*>(memory);
    const auto take = [&](int64_t count) {
      float* begin = at;
      at += count;
      return begin;
    };
    const auto panels = [&](int64_t steps, int64_t columns) {
      auto* data = reinterpret_cast<Unit*>(take(Panels<Unit>::size(steps, columns)));
      return Panels<Unit>{data, steps, round_up(columns, lanes)};
    };
    query = reinterpret_cast<Unit*>(take(forward_rows * stride));
    scores = take(scores_rows * stride), sums = take(forward_rows * stride);
    keys = panels(units<Arithmetic>(p.depth), p.places);
    values = {&Source::value, panels(units<Arithmetic>(p.places), p.value_depth)};
  }
};

// Enough for any arithmetic.
int64_t workspace(const Problem& p) {
  return 4 * ((2 * forward_rows + scores_rows) * stride + Panels<float>::size(p.depth, p.places) +
              Panels<float>::size(p.places, p.value_depth));
}

template <class Arithmetic, Dtype dtype>
void pack_head(const Problem& p, int64_t batch, int64_t head, Workspace<Arithmetic>& w) {
  auto *block = reinterpret_cast<typename Arithmetic::Unit*>(w.scores), *spare = block + panel_width * stride;
  w.values.template begin<dtype>(p, batch, head, p.value_depth);
  for_panels(p, [&](const Source& s, int64_t key, int64_t rows) {
    const auto keys = rows_or_block<Arithmetic, dtype>(s.key, batch, head, key, rows, p.depth, block);
    pack_transposed(keys, rows, spare, w.keys, s.place + key);
    if (w.values.in_place) return;
    const auto values = w.values.template seen<dtype>(p, s, batch, head, key, rows, p.value_depth, block);
    w.values.pack_rows(values, rows, s.place + key);
  });
}

template <class Arithmetic, Dtype dtype>
void attend(const Problem& p, int64_t batch, int64_t head, int64_t row_begin, int64_t rows,
            const Workspace<Arithmetic>& w, Prefetcher& ahead) {
  using Unit = typename Arithmetic::Unit;
  const Rows<Unit> query = query_rows<Arithmetic, dtype>(p, batch, head, row_begin, rows, false, w.query);

  Softmax state[forward_rows];
  for (auto& row : state) row = {-infinity, 0.0f};
  TileGroup group;
  bool first = true;
  const int64_t tiles = tile_count(p);
  for (int64_t tile = 0; tile < tiles;) {
    tile = next_group(p, batch, head, row_begin, rows, tile, tiles, group);
    if (group.count == 0) break;
    for_runs(group, [&](const Source& source, int64_t key, int64_t keys, int64_t column) {
      const int64_t place = source.place + key;
      multiply<Arithmetic, false, true>(query, rows, w.keys, 0, w.keys.steps, place, place + keys, w.scores + column,
                                        stride, false, ahead);
    });
    // Peaks and totals of four rows are brought together from the lanes.
    constexpr int fours = round_up(forward_rows, 4);
    Floats of_lanes[fours] = {};
    float peaks[fours], totals[fours];
    for (int64_t r = 0; r < rows; ++r)
      of_lanes[r] = row_peak(p, group, batch, head, row_begin, r, w.scores + r * stride, state[r].most);
    for (int64_t r = 0; r < rows; r += 4) largest4(of_lanes + r, peaks + r);
    for (int64_t r = 0; r < rows; ++r)
      of_lanes[r] = softmax_row<Unit>(p, group, batch, head, row_begin + r, w.scores + r * stride, peaks[r]);
    for (int64_t r = 0; r < rows; r += 4) sum4(of_lanes + r, totals + r);
    for (int64_t r = 0; r < rows; ++r) {
      const float kept = take_up(p, peaks[r], totals[r], state[r]);
      if (first || kept == 1.0f) continue;
      for (int64_t c = 0; c < w.values.packed.columns; c += lanes) {
        float* sums = w.sums + r * stride + c;
        store(sums, load(sums) * kept);
      }
    }
    const auto* powers = reinterpret_cast<const Unit*>(w.scores);
    for_runs(group, [&](const Source& source, int64_t key, int64_t keys, int64_t column) {
      const auto values = w.values.template from<dtype>(source, batch, head / (p.heads / p.key_heads), key, keys);
      multiply<Arithmetic, false, true>(powers + column / Arithmetic::numbers, rows, values.panels, values.step,
                                        units<Arithmetic>(keys), 0, p.value_depth, w.sums, stride, !first, ahead);
      first = false;
    });
  }

  finish_rows<dtype>(p, batch, head, row_begin, rows, state, w.sums);
}

void forward(const Problem& p, const Part& part) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    using Arithmetic = typename ArithmeticOf<dtype>::type;
    Workspace<Arithmetic> w(p, part.workspace);
    pack_head<Arithmetic, dtype>(p, part.batch, part.key_head, w);
    const int64_t group = p.heads / p.key_heads, block = rows_per_block(part.row_end - part.row_begin, forward_rows);
    for (int64_t head = part.key_head * group; head < (part.key_head + 1) * group; ++head) {
      Prefetcher ahead = next_head<Arithmetic>(p, nullptr, part.batch, head);
      for (int64_t row = part.row_begin; row < part.row_end; row += block)
        attend<Arithmetic, dtype>(p, part.batch, head, row, lesser(block, part.row_end - row), w, ahead);
    }
  });
}

}  // namespace

extern const attention::ForwardKernel attention_forward;
const attention::ForwardKernel attention_forward = {workspace, forward};

}  // namespace xmkern::XMKERN_CAPABILITY
