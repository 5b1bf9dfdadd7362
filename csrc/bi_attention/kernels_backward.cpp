// The gradients of both sides, with the affinities C computed again, strip by strip of their rows. With P and Q the
// shares of columns in rows and of rows in columns (both are C without softmax), X and Y what C multiplied, V and W the
// values of rows and columns, G and H the gradients of the outputs of rows and columns:
//   dP = G W^T,  dQ = V H^T,  dC = P (dP - rowsum(P dP)) + Q (dQ - columnsum(Q dQ)),  and with tanh dC (1 - C^2);
//   dX = scale dC Y,  dY = scale dC^T X,  dV = Q H,  dW = P^T G.
// The sums of columns need all rows: they are <H, out of columns>. Compiled once per instruction set (see
// core/capability.h): no standard-library code in here.
#include "bi_attention/tiles.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using bi_attention::Gradients;

// Of the columns, from the rows so far: dY and dW.
struct Part {
  Blocks<float> x, value;

  Part(const Problem& p, Pieces& memory)
      : x(memory.blocks<float>(p.columns.count, Cut(p.depth))),
        value(memory.blocks<float>(p.columns.count, Cut(p.columns.value_depth))) {}
};

template <class Arithmetic>
struct BackwardWorkspace {
  using Unit = typename Arithmetic::Unit;

  Along<Arithmetic> along_x, along_value, along_out;       // Y, W, H
  Right<Arithmetic> column_x, column_out, row_x, row_out;  // Y, H, X, G
  Blocks<float> affinities, shares, row_slopes, column_slopes;
  Blocks<Unit> left;  // of a product along the columns, if units hold two of them
  float *scratch, *deltas, *lses;
  uint32_t* flags;

  // columns: as many as there are of this matrix, which cuts the blocks; memory is taken for all.
  BackwardWorkspace(const Problem& p, int64_t columns, Pieces& memory)
      : along_x(p.columns.count, p.depth, memory),
        along_value(p.columns.count, p.columns.value_depth, memory),
        along_out(p.columns.count, p.rows.value_depth, memory),
        column_x(p.columns.count, p.depth, memory),
        column_out(p.columns.count, p.rows.value_depth, memory),
        row_x(strip_rows, p.depth, memory),
        row_out(strip_rows, p.columns.value_depth, memory),
        affinities(memory.blocks<float>(strip_rows, Cut(p.columns.count))),
        shares(memory.blocks<float>(strip_rows, Cut(p.columns.count))),
        row_slopes(memory.blocks<float>(strip_rows, Cut(p.columns.count))),
        column_slopes(memory.blocks<float>(strip_rows, Cut(p.columns.count))),
        left(as_units<Unit>(affinities)),
        scratch(memory.take<float>(strip_rows * stride)),
        deltas(memory.take<float>(whole_vectors(p.columns.count))),
        lses(memory.take<float>(whole_vectors(p.columns.count))),
        flags(memory.take<uint32_t>(p.columns.count / lanes + 1)) {
    affinities.cut = shares.cut = row_slopes.cut = column_slopes.cut = left.cut = Cut(columns);
  }
};

// Of each column, columnsum(Q dQ) and the log-sum-exp.
template <class Arithmetic, Dtype dtype>
void column_sums(const Problem& p, const Gradients& g, int64_t batch, int64_t head, int64_t there,
                 const BackwardWorkspace<Arithmetic>& w) {
  const float* lse = p.columns.lse + (batch * p.heads + head) * p.columns.count;
  for (int64_t c = 0; c < whole_vectors(there); ++c) {
    w.deltas[c] = w.lses[c] = 0.0f;
    if (c >= there) continue;
    if (lse[c] != -infinity) w.lses[c] = lse[c];
    inner_tile<Single, dtype, 1, 1>(row_of(g.columns.out, dtype, batch, head, c), 0,
                                    row_of(p.columns.out, dtype, batch, head, c), 0, p.rows.value_depth, w.deltas + c,
                                    0, NextRow{row_of(g.columns.out, dtype, batch, head, c)});
  }
}

// Products of one row to its affinities, and to P (shares) -> rowsum(P dP). Where a column is hidden, zeros.
template <class Arithmetic, bool softmax>
inline float row_shares(const Problem& p, int64_t row, float lse, const BackwardWorkspace<Arithmetic>& w) {
  const float shift = lse == -infinity ? 0.0f : lse;
  Floats total{};
  int64_t vector = 0;
  w.affinities.for_vectors([&](int64_t block, int64_t column, uint32_t) {
    const uint32_t flags = w.flags[vector++];
    Floats x = load(w.affinities.at(block, row) + column) * p.scale;
    if (p.tanh) x = tanh(x);
    x = select(flags, x, Floats{});
    store(w.affinities.at(block, row) + column, x);
    const Floats share = softmax ? select(flags, exp2((x - shift) * log2_e), Floats{}) : x;
    store(w.shares.at(block, row) + column, share);
    if (softmax) total += select(flags, share * load(w.row_slopes.at(block, row) + column), Floats{});
  });
  return softmax ? sum(total) : 0.0f;
}

// dP and dQ of one row to scale dC (row_slopes) and Q (column_slopes).
template <class Arithmetic, bool softmax>
inline void differentiate(const Problem& p, int64_t row, float delta, const BackwardWorkspace<Arithmetic>& w) {
  int64_t vector = 0;
  w.affinities.for_vectors([&](int64_t block, int64_t column, uint32_t) {
    float *row_slope = w.row_slopes.at(block, row) + column, *column_slope = w.column_slopes.at(block, row) + column;
    const Floats x = load(w.affinities.at(block, row) + column);
    Floats share = x, slope = load(row_slope) + load(column_slope);
    if constexpr (softmax) {
      const int64_t at = vector * lanes;
      share = exp2((x - load(w.lses + at)) * log2_e);
      slope = load(w.shares.at(block, row) + column) * (load(row_slope) - delta) +
              share * (load(column_slope) - load(w.deltas + at));
    }
    if (p.tanh) slope *= 1.0f - x * x;
    store(row_slope, select(w.flags[vector], slope * p.scale, Floats{}));
    store(column_slope, select(w.flags[vector], share, Floats{}));
    ++vector;
  });
}

template <class Arithmetic>
inline void clear_row(const BackwardWorkspace<Arithmetic>& w, int64_t row) {
  w.shares.for_vectors([&](int64_t block, int64_t column, uint32_t) {
    store(w.shares.at(block, row) + column, Floats{});
    store(w.row_slopes.at(block, row) + column, Floats{});
    store(w.column_slopes.at(block, row) + column, Floats{});
  });
}

template <class Arithmetic, Dtype dtype, bool softmax>
void backward_of(const Problem& p, const Gradients& g, const Share& share, void* part_memory, void* memory) {
  using Unit = typename Arithmetic::Unit;
  const auto [batch, head, row_begin, row_end, goes_on] = share;
  const Side &rows = p.rows, &columns = p.columns;
  const int64_t there = columns_in(p, batch);
  Pieces pieces(memory), part_pieces(part_memory);
  BackwardWorkspace<Arithmetic> w(p, there, pieces);
  const Part part(p, part_pieces);
  const uint8_t *mask = mask_of(rows, batch), *column_mask = mask_of(columns, batch);
  flags_of(column_mask, there, w.flags);
  if (softmax) column_sums<Arithmetic, dtype>(p, g, batch, head, there, w);
  const auto first = [&](const Operand& x) { return row_of(x, dtype, batch, head, 0); };
  w.along_x.template load<dtype>(first(columns.x), columns.x.row, there, p.depth);
  w.along_value.template load<dtype>(first(columns.value), columns.value.row, there, columns.value_depth);
  w.along_out.template load<dtype>(first(g.columns.out), g.columns.out.row, there, rows.value_depth);
  w.column_x.template load<dtype>(first(columns.x), columns.x.row, there, column_mask);
  w.column_out.template load<dtype>(first(g.columns.out), g.columns.out.row, there, column_mask);

  bool begun = false;  // the sums of the columns
  for (int64_t begin = row_begin; begin < row_end; begin += strip_rows) {
    const int64_t end = lesser(begin + strip_rows, row_end), count = end - begin;
    if (!any_row(mask, begin, end)) {
      clear_rows<dtype>(g.rows.x, batch, head, begin, end, p.depth);
      clear_rows<dtype>(g.rows.value, batch, head, begin, end, rows.value_depth);
      continue;
    }
    const auto at = [&](const Operand& x) { return row_of(x, dtype, batch, head, begin); };
    Prefetcher ahead;
    // Longer rows would push out of the second-level cache what the products read.
    if (w.along_x.packed) {
      fetch(g.rows.x, p, batch, head, begin, end, p.depth, ahead);
      fetch(g.rows.value, p, batch, head, begin, end, rows.value_depth, ahead);
      for_next(p, share, end, [&](int64_t b, int64_t h, int64_t first, int64_t last, bool with_columns) {
        fetch(rows.x, p, b, h, first, last, p.depth, ahead);
        fetch(g.rows.out, p, b, h, first, last, columns.value_depth, ahead);
        fetch(rows.value, p, b, h, first, last, rows.value_depth, ahead);
        if (!with_columns) return;
        fetch(columns.x, p, b, h, 0, columns.count, p.depth, ahead);
        fetch(columns.value, p, b, h, 0, columns.count, columns.value_depth, ahead);
        fetch(g.columns.out, p, b, h, 0, columns.count, rows.value_depth, ahead);
        fetch(columns.out, p, b, h, 0, columns.count, rows.value_depth, ahead);
      });
      spread<Arithmetic>(p, count, ahead);
    }
    multiply_rows<Arithmetic, dtype>(at(rows.x), rows.x.row, count, first(columns.x), columns.x.row, p.depth, w.along_x,
                                     w.affinities, ahead);
    multiply_rows<Arithmetic, dtype>(at(g.rows.out), g.rows.out.row, count, first(columns.value), columns.value.row,
                                     columns.value_depth, w.along_value, w.row_slopes, ahead);
    multiply_rows<Arithmetic, dtype>(at(rows.value), rows.value.row, count, first(g.columns.out), g.columns.out.row,
                                     rows.value_depth, w.along_out, w.column_slopes, ahead);
    const float* lse = rows.lse + (batch * p.heads + head) * rows.count + begin;
    // Step by step for all rows: those of one row would wait for each other.
    const auto is_there = [&](int64_t r) { return !mask || mask[begin + r]; };
    float deltas[strip_rows];
    for (int64_t r = 0; r < count; ++r)
      if (is_there(r)) deltas[r] = row_shares<Arithmetic, softmax>(p, r, softmax ? lse[r] : 0.0f, w);
    for (int64_t r = 0; r < count; ++r) {
      if (is_there(r))
        differentiate<Arithmetic, softmax>(p, r, deltas[r], w);
      else
        clear_row(w, r);
    }

    const uint8_t* strip_mask = mask ? mask + begin : nullptr;
    w.row_x.template load<dtype>(at(rows.x), rows.x.row, count, strip_mask);
    w.row_out.template load<dtype>(at(g.rows.out), g.rows.out.row, count, strip_mask);
    // With pairs, what is left of a product along the columns is made before rows are paired for one down the rows.
    const auto write = [&](const Blocks<float>& weights, const Right<Arithmetic>& right, const Operand& out,
                           int64_t depth) {
      auto left = as_units<Unit>(weights);
      if constexpr (Arithmetic::numbers > 1) {
        left = w.left;
        narrow_rows(weights, count, left);
      }
      if constexpr (dtype == Dtype::float32) {
        write_products<Arithmetic, dtype>(left, count, right, w.scratch, at(out), out.row, no_prefetcher);
      } else {
        // What is converted is written group by group: the next one is fetched meanwhile.
        Prefetcher rows_ahead;
        fetch(out, p, batch, head, begin + max_rows, end, depth, rows_ahead);
        write_products<Arithmetic, dtype>(left, count, right, w.scratch, at(out), out.row, rows_ahead, true);
      }
      clear_hidden<dtype>(mask, out, batch, head, begin, end, depth);
    };
    write(w.row_slopes, w.column_x, g.rows.x, p.depth);
    write(w.column_slopes, w.column_out, g.rows.value, rows.value_depth);
    if constexpr (Arithmetic::numbers > 1) pair_rows(w.row_slopes, count), pair_rows(w.shares, count);
    add_products<Arithmetic>(as_units<Unit>(w.row_slopes), count, w.row_x, part.x, begun, no_prefetcher);
    add_products<Arithmetic>(as_units<Unit>(w.shares), count, w.row_out, part.value, begun, no_prefetcher);
    begun = true;
  }
  if (!begun) clear(part.x), clear(part.value);
}

void backward(const Problem& p, const Gradients& g, const Share& share, void* part, void* memory) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    using Arithmetic = typename ArithmeticOf<dtype>::type;
    if (p.softmax)
      backward_of<Arithmetic, dtype, true>(p, g, share, part, memory);
    else
      backward_of<Arithmetic, dtype, false>(p, g, share, part, memory);
  });
}

template <Dtype dtype>
void finish_of(const Problem& p, const Gradients& g, int64_t batch, int64_t head, char* parts, int64_t count) {
  const int64_t bytes = bytes_of<Part>(p), columns = p.columns.count;
  const uint8_t* mask = mask_of(p.columns, batch);
  Pieces memory(parts);
  const Part first(p, memory);
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t i = 1; i < count; ++i) {
      Pieces others(parts + i * bytes);
      const Part other(p, others);
      const auto add = [c](const Blocks<float>& to, const Blocks<float>& from) {
        to.for_vectors([&](int64_t block, int64_t column, uint32_t) {
          float* at = to.at(block, c) + column;
          store(at, load(at) + load(from.at(block, c) + column));
        });
      };
      add(first.x, other.x), add(first.value, other.value);
    }
    store_blocks<dtype>(first.x, c, 1.0f, row_of(g.columns.x, dtype, batch, head, c));
    store_blocks<dtype>(first.value, c, 1.0f, row_of(g.columns.value, dtype, batch, head, c));
  }
  clear_hidden<dtype>(mask, g.columns.x, batch, head, 0, columns, p.depth);
  clear_hidden<dtype>(mask, g.columns.value, batch, head, 0, columns, p.columns.value_depth);
}

void finish(const Problem& p, const Gradients& g, int64_t batch, int64_t head, void* parts, int64_t count) {
  with_dtype(p.dtype,
             [&](auto type) { finish_of<decltype(type)::value>(p, g, batch, head, static_cast<char*>(parts), count); });
}

}  // namespace

extern const bi_attention::BackwardKernel bi_attention_backward;
const bi_attention::BackwardKernel bi_attention_backward = {bytes_of<Part>, workspace_bytes<BackwardWorkspace>,
                                                            backward, finish};

}  // namespace xmkern::XMKERN_CAPABILITY
