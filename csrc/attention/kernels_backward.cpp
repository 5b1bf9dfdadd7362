// The backward pass: probabilities are computed again from the saved log-sum-exp, a block of queries against a group of
// key tiles at a time. With P the probabilities, P' those that dropout kept, scaled, and O, dO the output and its
// gradient,
//   dV = P'^T dO,  dP = keep * dO V^T,  dS = P * (dP - rowsum(dO * O) + dlse),  dQ = scale * dS K,  dK = scale * dS^T
//   Q,
// and dS is the gradient of the bias. Compiled once per instruction set (see core/capability.h): no standard-library
// code in here.
#include <cstddef>

#include "attention/scores.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using attention::BiasForm;
using attention::BiasGradient;
using attention::share_length;
using attention::Shares;
using attention::SourceGradients;

// Rows that gradients are summed in.
struct Sums {
  float* data;
  int64_t apart;

  float* row(int64_t i) const { return data + i * apart; }
};

void clear(const Sums& sums, int64_t begin, int64_t end, int64_t columns) {
  for (int64_t i = begin; i < end; ++i)
    __builtin_memset(sums.row(i), 0, static_cast<std::size_t>(columns) * sizeof(float));
}

template <class Arithmetic>
struct Workspace {
  using Unit = typename Arithmetic::Unit;

  Unit *query, *grad_out;              // blocks
  float *scores, *grad_scores, *sums;  // blocks
  Unit* grad_rows;                     // block: gradients of scores again, units along the keys
  float* plain;                        // two rows of a block: the same, for the gradients of biases
  Panels<Unit> keys_transposed, values_transposed, queries, grad_outs;
  AlongKeys<Arithmetic> keys;
  Sums grad_key, grad_value;  // over the queries
  Sums grad_query;            // over the groups of keys

  bool summed_in_place = false;  // where the gradients belong, scaled term by term

  static constexpr int64_t block = block_rows * stride;

  Workspace(const Problem& p, int64_t rows_a_block, void* memory) {
    float* at = static_cast<float*>(memory);
    const auto take = [&](int64_t count) {
      float* begin = at;
      at += round_up(count, 16);
      return begin;
    };
    const auto take_units = [&](int64_t count) { return reinterpret_cast<Unit*>(take(count)); };
    const auto panels = [&](int64_t steps, int64_t columns) {
      steps = units<Arithmetic>(steps);
      return Panels<Unit>{take_units(Panels<Unit>::size(steps, columns)), steps, round_up(columns, lanes)};
    };
    query = take_units(block), grad_out = take_units(block);
    scores = take(block), grad_scores = take(block), sums = take(block);
    grad_rows = reinterpret_cast<Unit*>(grad_scores);
    plain = grad_scores;
    if constexpr (Arithmetic::numbers > 1) grad_rows = take_units(block), plain = take(2 * stride);
    queries = panels(rows_a_block, p.depth), grad_outs = panels(rows_a_block, p.value_depth);
    keys_transposed = panels(p.depth, p.places), values_transposed = panels(p.value_depth, p.places);
    keys = {&Source::key, panels(p.places, p.depth)};
    const int64_t depth = queries.columns, value_depth = grad_outs.columns;
    grad_key = {take(p.places * depth), depth}, grad_value = {take(p.places * value_depth), value_depth};
    grad_query = {at, depth};
  }

  // The gradients of the scores of one of the rows that were differentiated last.
  const float* plain_row(int64_t row) const { return plain + (Arithmetic::numbers > 1 ? row % 2 : row) * stride; }
};

// Enough for any arithmetic.
int64_t workspace(const Problem& p) {
  const int64_t depth = round_up(p.depth, lanes), value_depth = round_up(p.value_depth, lanes);
  const int64_t keys = round_up(p.places, lanes), queries = p.places > max_columns ? p.queries : 0;
  return 4 * ((6 * block_rows + 2) * stride + (block_rows + queries) * (depth + value_depth) +
              keys * (p.depth + p.value_depth) + p.places * (2 * depth + value_depth) + 16 * 16);
}

template <class Arithmetic, Dtype dtype>
void pack_head(const Problem& p, int64_t batch, int64_t head, Workspace<Arithmetic>& w) {
  auto *block = reinterpret_cast<typename Arithmetic::Unit*>(w.scores), *spare = block + panel_width * stride;
  w.keys.template begin<dtype>(p, batch, head, p.depth);
  for_panels(p, [&](const Source& s, int64_t key, int64_t rows) {
    const auto values = seen_rows<Arithmetic, dtype>(p, s, s.value, batch, head, key, rows, p.value_depth, block);
    pack_transposed(values, rows, spare, w.values_transposed, s.place + key);
    const auto keys = w.keys.template seen<dtype>(p, s, batch, head, key, rows, p.depth, block);
    pack_transposed(keys, rows, spare, w.keys_transposed, s.place + key);
    if (!w.keys.in_place) w.keys.pack_rows(keys, rows, s.place + key);
  });
}

// Of one query: what makes its powers probabilities, and what is taken from its gradients.
struct Row {
  float shift, delta;
};

template <class Arithmetic, Dtype dtype>
void find_rows(const Problem& p, const Gradients& g, int64_t batch, int64_t head, int64_t row_begin, int64_t rows,
               float scale, Row* out) {
  const int64_t at = (batch * p.heads + head) * p.queries + row_begin;
  for (int64_t r = 0; r < rows; r += 4) {
    Floats of_lanes[4] = {};
    float deltas[4];
    for (int64_t i = 0; i < 4 && r + i < rows; ++i)
      of_lanes[i] =
          inner_product<Arithmetic, dtype>(row_of(p.out, dtype, batch, head, row_begin + r + i),
                                           row_of(g.out, dtype, batch, head, row_begin + r + i), p.value_depth);
    sum4(of_lanes, deltas);
    for (int64_t i = 0; i < 4 && r + i < rows; ++i) {
      const float lse = p.lse[at + r + i], delta = deltas[i] - (g.lse ? g.lse[at + r + i] : 0.0f);
      // Where nothing is visible all powers are 0.
      out[r + i] = lse == -infinity ? Row{infinity, 0.0f} : Row{lse, delta * scale};
    }
  }
}

// Of one vector of one row: probabilities, those that dropout kept, and gradients of the scores.
struct Slopes {
  Floats kept, grads;
};

// What scores, gradients of probabilities and the probabilities that dropout kept are multiplied by.
struct Scales {
  float scores, grads, kept;
};

template <bool Dropped>
Slopes differentiate(const float* scores, const float* grads, const Scales& scales, Row row, uint64_t kept) {
  // lse is taken off before the change of base: nearly all of a large score is gone when it is rounded again.
  const Floats probability = exp2((load(scores) * scales.scores - row.shift) * log2_e),
               grad = load(grads) * scales.grads;
  if constexpr (!Dropped) return {probability, probability * (grad - row.delta)};
  const auto bits = static_cast<uint32_t>(kept);
  return {select(bits, probability * scales.kept, Floats{}), probability * (select(bits, grad, Floats{}) - row.delta)};
}

// The same of `columns` columns of two neighbouring rows (or one), from scores and gradients of probabilities to units
// along the queries, in place; gradients of scores also to units along the keys, and as they are where `plain` wants
// them.
template <bool Dropped>
void differentiate_rows(const Workspace<Single>& w, int64_t first, int64_t rows, int64_t column, int64_t columns,
                        const Scales& scales, const Row* row, const uint64_t* kept, bool) {
  for (int64_t r = 0; r < rows; ++r) {
    float *scores = w.scores + (first + r) * stride + column, *grads = w.grad_scores + (first + r) * stride + column;
    for (int64_t c = 0; c < columns; c += lanes) {
      const Slopes x = differentiate<Dropped>(scores + c, grads + c, scales, row[r], Dropped ? kept[r] >> c : 0);
      store(scores + c, x.kept), store(grads + c, x.grads);
    }
  }
}

#if defined(__AVX512BF16__)
template <bool Dropped>
void differentiate_rows(const Workspace<Pair>& w, int64_t first, int64_t rows, int64_t column, int64_t columns,
                        const Scales& scales, const Row* row, const uint64_t* kept, bool plain) {
  static constexpr float zeros[max_columns] = {};
  const float *scores = w.scores + first * stride + column, *grads = w.grad_scores + first * stride + column;
  const float *next_scores = rows > 1 ? scores + stride : zeros, *next_grads = rows > 1 ? grads + stride : zeros;
  const Row next = rows > 1 ? row[1] : Row{infinity, 0.0f};
  auto *probabilities = reinterpret_cast<uint32_t*>(w.scores) + first / 2 * stride + column,
       *grad_scores = reinterpret_cast<uint32_t*>(w.grad_scores) + first / 2 * stride + column,
       *along_keys = w.grad_rows + first * stride + column / 2;
  for (int64_t c = 0; c < columns; c += lanes) {
    const Slopes a = differentiate<Dropped>(scores + c, grads + c, scales, row[0], Dropped ? kept[0] >> c : 0),
                 b = differentiate<Dropped>(next_scores + c, next_grads + c, scales, next, Dropped ? kept[1] >> c : 0);
    if (plain) store(w.plain + column + c, a.grads), store(w.plain + stride + column + c, b.grads);
    const Words grads_of_both = halves_of(a.grads, b.grads);
    store(probabilities + c, interleaved(halves_of(a.kept, b.kept)));
    store(grad_scores + c, interleaved(grads_of_both));
    store_half<0>(along_keys + c / 2, grads_of_both), store_half<1>(along_keys + stride + c / 2, grads_of_both);
  }
}
#endif

bool biases_learn(const Problem& p, const Gradients& g) {
  for (int64_t i = 0; i < p.source_count; ++i)
    if (g.sources[i].bias.form != BiasForm::none) return true;
  return false;
}

// Adds the gradients of one query's scores to those of the biases.
void add_bias_gradients(const Problem& p, const Gradients& g, const TileGroup& group, int64_t batch, int64_t head,
                        int64_t query, const float* grads, float* shares) {
  for (int i = 0; i < group.count; ++i) {
    const Source& source = *group.source[i];
    const int64_t number = &source - p.sources;
    const BiasGradient& bias = g.sources[number].bias;
    if (bias.form == BiasForm::none) continue;
    float *row = bias.data + batch * bias.batch + head * bias.head + query * bias.query, *share = shares;
    for (int64_t before = 0; before < number; ++before) share += share_length(g.sources[before].bias);
    const int64_t key = group.key[i], keys = lesser(group.width[i], source.keys - key);
    const float* from = grads + group.column[i];
    if (bias.form == BiasForm::buckets) {
      const int32_t* numbers = source.bias.buckets + query * source.keys + key;
      for (int64_t c = 0; c < keys; ++c) share[numbers[c]] += from[c];
    } else if (bias.key == 0) {
      Floats total{};  // behind the last key are zeros
      for (int64_t c = 0; c < keys; c += lanes) total += load(from + c);
      (bias.form == BiasForm::rows ? row : share)[0] += sum(total);
    } else {
      float* to = bias.form == BiasForm::rows   ? row + key
                  : bias.form == BiasForm::keys ? share + key
                                                : share + key - query + p.queries - 1;
      int64_t c = 0;
      for (; c + lanes <= keys; c += lanes) store(to + c, load(to + c) + load(from + c));
      for (; c < keys; ++c) to[c] += from[c];
    }
  }
}

// One block of queries of one head against all keys of group `tile_begin`..`tile_end`.
template <class Arithmetic, Dtype dtype>
void descend(const Problem& p, const Gradients& g, int64_t batch, int64_t head, int64_t row_begin, int64_t rows,
             int64_t tile_begin, int64_t tile_end, const Workspace<Arithmetic>& w, float* share, const Sums& sums,
             bool first, bool fresh, Prefetcher& ahead) {
  using Unit = typename Arithmetic::Unit;
  const int64_t depth = w.queries.columns, value_depth = w.grad_outs.columns;
  // The first block begins the sums over the queries; those of keys that it does not see are zeros.
  int64_t begun = tile_begin * tile_keys;
  const auto begin_sums = [&](int64_t place) {
    if (!fresh) return;
    clear(w.grad_key, begun, place, depth);
    clear(w.grad_value, begun, place, value_depth);
  };
  TileGroup group;
  next_group(p, batch, head, row_begin, rows, tile_begin, tile_end, group);
  if (group.count == 0) {
    begin_sums(lesser(tile_end * tile_keys, p.places));
    if (first) clear(sums, 0, rows, depth);
    return;
  }

  const auto query = query_rows<Arithmetic, dtype>(p, batch, head, row_begin, rows, true, w.query);
  const auto grad_out =
      rows_or_block<Arithmetic, dtype>(g.out, batch, head, row_begin, rows, p.value_depth, w.grad_out);
  Panels<Unit> queries = as_panels(query, rows, depth), grad_outs = as_panels(grad_out, rows, value_depth);
  if constexpr (Arithmetic::numbers > 1) {
    queries = w.queries, grad_outs = w.grad_outs;
    pack(query, rows, queries, 0), pack(grad_out, rows, grad_outs, 0);
  }
  for_runs(group, [&](const Source& source, int64_t key, int64_t keys, int64_t column) {
    const int64_t place = source.place + key;
    multiply<Arithmetic, false, true>(query, rows, w.keys_transposed, 0, w.keys_transposed.steps, place, place + keys,
                                      w.scores + column, stride, false, ahead);
    multiply<Arithmetic, false, true>(grad_out, rows, w.values_transposed, 0, w.values_transposed.steps, place,
                                      place + keys, w.grad_scores + column, stride, false, ahead);
  });

  const float scale = w.summed_in_place ? p.scale : 1.0f;
  const Scales scales{pending_scale(p), scale * p.dropout.kept_scale, w.summed_in_place ? p.dropout.kept_scale : 1.0f};
  Row row[block_rows];
  find_rows<Arithmetic, dtype>(p, g, batch, head, row_begin, rows, scale, row);
  const bool plain = biases_learn(p, g);
  for (int64_t r = 0; r < rows; r += 2) {
    const int64_t count = lesser(2, rows - r), query = row_begin + r;
    for (int64_t i = 0; i < count; ++i) {
      if (p.biased) add_bias(p, group, batch, head, query + i, w.scores + (r + i) * stride);
      hide(group, r + i, w.scores + (r + i) * stride);
    }
    uint64_t kept[2] = {};
    if (p.dropout.threshold != 0) {
      for (int i = 0; i < group.count; ++i) {
        for (int64_t j = 0; j < count; ++j) kept[j] = kept_word(p, group, i, batch, head, query + j);
        differentiate_rows<true>(w, r, count, group.column[i], group.width[i], scales, row + r, kept, plain);
      }
    } else {
      differentiate_rows<false>(w, r, count, 0, group.columns, scales, row + r, kept, plain);
    }
    for (int64_t i = 0; i < count && plain; ++i)
      add_bias_gradients(p, g, group, batch, head, query + i, w.plain_row(r + i), share);
  }

  const auto *probabilities = reinterpret_cast<const Unit*>(w.scores),
             *grad_scores = reinterpret_cast<const Unit*>(w.grad_scores);
  const int64_t row_units = units<Arithmetic>(rows);
  for_runs(group, [&](const Source& source, int64_t key, int64_t keys, int64_t column) {
    const int64_t place = source.place + key;
    begin_sums(place);
    begun = place + keys;
    multiply<Arithmetic, true, true>(probabilities + column, keys, grad_outs, 0, row_units, 0, p.value_depth,
                                     w.grad_value.row(place), w.grad_value.apart, !fresh, ahead);
    multiply<Arithmetic, true, true>(grad_scores + column, keys, queries, 0, row_units, 0, p.depth,
                                     w.grad_key.row(place), w.grad_key.apart, !fresh, ahead);
    const auto right = w.keys.template from<dtype>(source, batch, head / (p.heads / p.key_heads), key, keys);
    multiply<Arithmetic, false, true>(w.grad_rows + column / Arithmetic::numbers, rows, right.panels, right.step,
                                      units<Arithmetic>(keys), 0, p.depth, sums.data, sums.apart, !first, ahead);
    first = false;
  });
  begin_sums(lesser(tile_end * tile_keys, p.places));
}

// Sums over the queries of one key head to the gradients of its keys and values.
template <Dtype dtype>
void store_gradients(const Problem& p, const Gradients& g, int64_t batch, int64_t key_head, const float* grad_key,
                     const float* grad_value) {
  const int64_t depth = round_up(p.depth, lanes), value_depth = round_up(p.value_depth, lanes);
  for (int64_t i = 0; i < p.source_count; ++i) {
    const Source& source = p.sources[i];
    for (int64_t key = 0, place = source.place; key < source.keys; ++key, ++place) {
      store_row<dtype>(mutable_row_of(g.sources[i].key, dtype, batch, key_head, key), grad_key + place * depth, p.depth,
                       __builtin_fabsf(p.scale));
      store_row<dtype>(mutable_row_of(g.sources[i].value, dtype, batch, key_head, key),
                       grad_value + place * value_depth, p.value_depth, p.dropout.kept_scale);
    }
  }
}

// Gradients of whole vectors of float32 are summed where they belong, if there is but one block of queries. A bias
// wants those of the scores as they are, before they are scaled.
template <class Arithmetic, Dtype dtype>
void sum_in_place(const Problem& p, const Gradients& g, const Part& part, Workspace<Arithmetic>& w) {
  if (dtype != Dtype::float32 || (p.depth | p.value_depth) % lanes != 0 || p.scale < 0) return;
  if (p.source_count != 1 || p.heads != p.key_heads || p.queries > block_rows || biases_learn(p, g)) return;
  const auto sums = [&](const Operand& x) {
    return Sums{static_cast<float*>(mutable_row_of(x, dtype, part.batch, part.key_head, 0)), x.row};
  };
  w.grad_key = sums(g.sources[0].key), w.grad_value = sums(g.sources[0].value), w.grad_query = sums(g.query);
  w.summed_in_place = true;
}

template <class Arithmetic, Dtype dtype>
void backward_of(const Problem& p, const Gradients& g, const Part& part, const Shares& shares) {
  const int64_t block = rows_per_block(part.row_end - part.row_begin, p.places <= 128 ? block_rows : 48);
  Workspace<Arithmetic> w(p, block, part.workspace);
  if (shares.key)
    w.grad_key.data = shares.key, w.grad_value.data = shares.value;
  else
    sum_in_place<Arithmetic, dtype>(p, g, part, w);
  if (part.row_begin == part.row_end || p.heads == 0) {  // nobody begins the sums
    clear(w.grad_key, 0, p.places, w.queries.columns);
    clear(w.grad_value, 0, p.places, w.grad_outs.columns);
  }
  pack_head<Arithmetic, dtype>(p, part.batch, part.key_head, w);

  const int64_t tiles = tile_count(p), heads = p.heads / p.key_heads;
  // With one group of keys, the gradient of a block of queries is complete at once, and need not wait.
  const bool passing = tiles <= group_tiles && !w.summed_in_place;
  for (int64_t i = 0; i < heads; ++i) {
    const int64_t head = part.key_head * heads + i;
    Prefetcher ahead = next_head<Arithmetic>(p, &g, part.batch, head);
    float* share = shares.bias ? shares.bias + i * shares.bias_stride : nullptr;
    for (int64_t tile = 0; tile == 0 || tile < tiles; tile += group_tiles) {
      const int64_t tile_end = lesser(tile + group_tiles, tiles);
      for (int64_t row = part.row_begin; row < part.row_end; row += block) {
        const int64_t rows = lesser(block, part.row_end - row);
        const Sums sums =
            passing ? Sums{w.sums, stride} : Sums{w.grad_query.row(row - part.row_begin), w.grad_query.apart};
        descend<Arithmetic, dtype>(p, g, part.batch, head, row, rows, tile, tile_end, w, share, sums, tile == 0,
                                   i == 0 && row == part.row_begin, ahead);
        if (tile_end < tiles || w.summed_in_place) continue;
        for (int64_t r = 0; r < rows; ++r)
          store_row<dtype>(mutable_row_of(g.query, dtype, part.batch, head, row + r), sums.row(r), p.depth, p.scale);
      }
    }
  }
  if (shares.key || w.summed_in_place) return;
  store_gradients<dtype>(p, g, part.batch, part.key_head, w.grad_key.data, w.grad_value.data);
}

void backward(const Problem& p, const Gradients& g, const Part& part, const Shares& shares) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    backward_of<typename ArithmeticOf<dtype>::type, dtype>(p, g, part, shares);
  });
}

void add_shares(const Problem& p, const Gradients& g, int64_t batch, int64_t key_head, const Shares& first,
                int64_t count, int64_t share_stride) {
  const auto add = [&](float* sums, int64_t columns) {
    for (int64_t c = 0; c < p.places * round_up(columns, lanes); c += lanes) {
      Floats total{};
      for (int64_t i = 0; i < count; ++i) total += load(sums + i * share_stride + c);
      store(sums + c, total);
    }
  };
  add(first.key, p.depth), add(first.value, p.value_depth);
  with_dtype(p.dtype,
             [&](auto type) { store_gradients<decltype(type)::value>(p, g, batch, key_head, first.key, first.value); });
}

}  // namespace

extern const attention::BackwardKernel attention_backward;
const attention::BackwardKernel attention_backward = {workspace, backward, add_shares};

}  // namespace xmkern::XMKERN_CAPABILITY
