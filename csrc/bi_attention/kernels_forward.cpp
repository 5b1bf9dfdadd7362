// Both outputs of one matrix of affinities, strip by strip of its rows. A strip has whole rows, so their softmax is
// that of the strip; the softmax of the columns is online: sums so far are scaled down when a larger affinity comes.
// Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "bi_attention/tiles.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

// Of the columns, from the rows so far: the largest affinity, the sum of the powers below it, and that of values.
struct Part {
  float *most, *total;
  Blocks<float> sums;

  Part(const Problem& p, Pieces& memory)
      : most(memory.take<float>(whole_vectors(p.columns.count))),
        total(memory.take<float>(whole_vectors(p.columns.count))),
        sums(memory.blocks<float>(p.columns.count, Cut(p.rows.value_depth))) {}
};

template <class Arithmetic>
struct ForwardWorkspace {
  using Unit = typename Arithmetic::Unit;

  Along<Arithmetic> column_x;
  Right<Arithmetic> column_values, row_values;
  Blocks<float> affinities, weights;
  float *scratch, *scales;
  uint32_t* flags;

  // columns: as many as there are of this matrix, which cuts the blocks; memory is taken for all.
  ForwardWorkspace(const Problem& p, int64_t columns, Pieces& memory)
      : column_x(p.columns.count, p.depth, memory),
        column_values(p.columns.count, p.columns.value_depth, memory),
        row_values(strip_rows, p.rows.value_depth, memory),
        affinities(memory.blocks<float>(strip_rows, Cut(p.columns.count))),
        weights(memory.blocks<float>(strip_rows, Cut(p.columns.count))),
        scratch(memory.take<float>(strip_rows * stride)),
        scales(memory.take<float>(whole_vectors(p.columns.count))),
        flags(memory.take<uint32_t>(p.columns.count / lanes + 1)) {
    affinities.cut = weights.cut = Cut(columns);
  }
};

void begin_part(const Problem& p, const Part& part) {
  const int64_t columns = whole_vectors(p.columns.count);
  for (int64_t c = 0; c < columns; c += lanes) {
    store(part.most + c, splat(-infinity));
    store(part.total + c, Floats{});
  }
}

// A largest affinity so far as what is subtracted: where there is none yet, anything finite.
inline Floats shift_of(Floats most) { return most == -infinity ? Floats{} : most; }

// The products of one row to affinities, zeros where a column is hidden; raises the columns' largest, and gives the
// row's.
template <bool softmax>
inline float row_affinities(const Problem& p, const Blocks<float>& affinities, int64_t row, const uint32_t* flags,
                            float* column_most) {
  const Floats lowest = splat(-infinity);
  Floats most = lowest;
  int64_t vector = 0;
  affinities.for_vectors([&](int64_t block, int64_t column, uint32_t) {
    float* at = affinities.at(block, row) + column;
    Floats x = load(at) * p.scale;
    if (p.tanh) x = tanh(x);
    x = select(flags[vector], x, Floats{});
    store(at, x);
    if constexpr (softmax) {
      most = larger(select(flags[vector], x, lowest), most);
      store(column_most + vector * lanes, larger(x, load(column_most + vector * lanes)));
    }
    ++vector;
  });
  return softmax ? largest(most) : 0.0f;
}

// Powers of the affinities of one row below `shift` to weights -> their sum.
inline float row_powers(const Blocks<float>& affinities, const Blocks<float>& weights, int64_t row,
                        const uint32_t* flags, float shift) {
  Floats total{};
  int64_t vector = 0;
  affinities.for_vectors([&](int64_t block, int64_t column, uint32_t) {
    const Floats power = exp2((load(affinities.at(block, row) + column) - shift) * log2_e);
    const Floats weight = select(flags[vector++], power, Floats{});
    total += weight;
    store(weights.at(block, row) + column, weight);
  });
  return sum(total);
}

// What was summed up below the largest affinities before to the largest now.
inline void rescale(const Part& part, const float* before, float* scales, int64_t columns) {
  for (int64_t c = 0; c < columns; c += lanes) {
    const Floats scale = exp2((load(before + c) - shift_of(load(part.most + c))) * log2_e);
    store(scales + c, scale);
    store(part.total + c, load(part.total + c) * scale);
  }
  for (int64_t c = 0; c < columns; ++c) {
    if (scales[c] == 1.0f) continue;
    part.sums.for_vectors([&](int64_t block, int64_t column, uint32_t) {
      float* at = part.sums.at(block, c) + column;
      store(at, load(at) * scales[c]);
    });
  }
}

// Affinities of one row to its powers in the softmax of the columns; adds them up.
inline void column_weights(const Blocks<float>& affinities, int64_t row, const uint32_t* flags, const Part& part) {
  int64_t vector = 0;
  affinities.for_vectors([&](int64_t block, int64_t column, uint32_t) {
    float *at = affinities.at(block, row) + column, *total = part.total + vector * lanes;
    const Floats power = exp2((load(at) - shift_of(load(part.most + vector * lanes))) * log2_e);
    const Floats weight = select(flags[vector++], power, Floats{});
    store(total, load(total) + weight);
    store(at, weight);
  });
}

inline void clear_row(const Blocks<float>& x, int64_t row) {
  x.for_vectors([&](int64_t block, int64_t column, uint32_t) { store(x.at(block, row) + column, Floats{}); });
}

template <class Arithmetic, Dtype dtype, bool softmax>
void forward_of(const Problem& p, const Share& share, void* part_memory, void* memory) {
  using Unit = typename Arithmetic::Unit;
  const auto [batch, head, row_begin, row_end, goes_on] = share;
  const Side &rows = p.rows, &columns = p.columns;
  const int64_t there = columns_in(p, batch), padded = whole_vectors(there);
  Pieces pieces(memory), part_pieces(part_memory);
  ForwardWorkspace<Arithmetic> w(p, there, pieces);
  const Part part(p, part_pieces);
  begin_part(p, part);
  flags_of(mask_of(columns, batch), there, w.flags);
  w.column_x.template load<dtype>(row_of(columns.x, dtype, batch, head, 0), columns.x.row, there, p.depth);
  w.column_values.template load<dtype>(row_of(columns.value, dtype, batch, head, 0), columns.value.row, there,
                                       mask_of(columns, batch));
  const uint8_t* mask = mask_of(rows, batch);

  bool begun = false;  // the sums of the columns
  for (int64_t begin = row_begin; begin < row_end; begin += strip_rows) {
    const int64_t end = lesser(begin + strip_rows, row_end), count = end - begin;
    float* lse = rows.lse + (batch * p.heads + head) * rows.count + begin;
    if (!any_row(mask, begin, end)) {
      clear_rows<dtype>(rows.out, batch, head, begin, end, columns.value_depth);
      for (int64_t r = 0; softmax && r < count; ++r) lse[r] = -infinity;
      continue;
    }
    Prefetcher ahead;
    if (w.column_x.packed) fetch(rows.out, p, batch, head, begin, end, columns.value_depth, ahead);
    fetch(rows.value, p, batch, head, begin, end, rows.value_depth, ahead);
    for_next(p, share, end, [&](int64_t b, int64_t h, int64_t first, int64_t last, bool with_columns) {
      fetch(rows.x, p, b, h, first, last, p.depth, ahead);
      if (!with_columns) return;
      fetch(columns.x, p, b, h, 0, columns.count, p.depth, ahead);
      fetch(columns.value, p, b, h, 0, columns.count, columns.value_depth, ahead);
    });
    spread<Arithmetic>(p, count, ahead);
    multiply_rows<Arithmetic, dtype>(row_of(rows.x, dtype, batch, head, begin), rows.x.row, count,
                                     row_of(columns.x, dtype, batch, head, 0), columns.x.row, p.depth, w.column_x,
                                     w.affinities, ahead);
    for (int64_t c = 0; c < padded; c += lanes) store(w.scales + c, load(part.most + c));
    // Step by step for all rows: those of one row would wait for each other.
    const auto is_there = [&](int64_t r) { return !mask || mask[begin + r]; };
    float peaks[strip_rows], totals[strip_rows];
    for (int64_t r = 0; r < count; ++r) {
      if (is_there(r))
        peaks[r] = row_affinities<softmax>(p, w.affinities, r, w.flags, part.most);
      else
        clear_row(w.affinities, r);
    }
    for (int64_t r = 0; softmax && r < count; ++r) {
      const float shift = !is_there(r) || peaks[r] == -infinity ? 0.0f : peaks[r];
      totals[r] = is_there(r) ? row_powers(w.affinities, w.weights, r, w.flags, shift) : 0.0f;
      peaks[r] = shift;
    }
    const auto weights = as_units<Unit>(w.weights), turned = as_units<Unit>(w.affinities);
    for (int64_t r = 0; r < count; ++r) {
      if (!is_there(r)) {
        clear_row(w.weights, r);
        if (softmax) lse[r] = -infinity;
      } else if (!softmax) {
        scale_row(w.affinities, r, 1.0f, weights);
      } else {
        scale_row(w.weights, r, totals[r] == 0.0f ? 0.0f : 1.0f / totals[r], weights);
        lse[r] = totals[r] == 0.0f ? -infinity : peaks[r] + __builtin_logf(totals[r]);
      }
    }
    if (softmax) {
      if (begun) rescale(part, w.scales, w.scales, padded);
      for (int64_t r = 0; r < count; ++r)
        if (!mask || mask[begin + r]) column_weights(w.affinities, r, w.flags, part);
    }
    if constexpr (Arithmetic::numbers > 1) pair_rows(w.affinities, count);
    write_products<Arithmetic, dtype>(weights, count, w.column_values, w.scratch,
                                      row_of(rows.out, dtype, batch, head, begin), rows.out.row, ahead);
    clear_hidden<dtype>(mask, rows.out, batch, head, begin, end, columns.value_depth);
    w.row_values.template load<dtype>(row_of(rows.value, dtype, batch, head, begin), rows.value.row, count,
                                      mask ? mask + begin : nullptr);
    add_products<Arithmetic>(turned, count, w.row_values, part.sums, begun, ahead);
    begun = true;
  }
  if (!begun) clear(part.sums);
}

void forward(const Problem& p, const Share& share, void* part, void* memory) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    using Arithmetic = typename ArithmeticOf<dtype>::type;
    if (p.softmax)
      forward_of<Arithmetic, dtype, true>(p, share, part, memory);
    else
      forward_of<Arithmetic, dtype, false>(p, share, part, memory);
  });
}

// One column of all parts into the first: each by its largest affinity's distance from the largest of all.
inline void merge(const Problem& p, char* parts, int64_t count, int64_t column, const Part& first) {
  const int64_t bytes = bytes_of<Part>(p);
  float most = first.most[column];
  for (int64_t i = 1; i < count; ++i) {
    Pieces memory(parts + i * bytes);
    const float other = Part(p, memory).most[column];
    most = other > most ? other : most;
  }
  const Floats shift = shift_of(splat(most));
  for (int64_t i = 0; i < count; ++i) {
    Pieces memory(parts + i * bytes);
    const Part part(p, memory);
    const float scale = p.softmax ? exp2((splat(part.most[column]) - shift) * log2_e)[0] : 1.0f;
    const float total = part.total[column] * scale;
    first.total[column] = i > 0 ? first.total[column] + total : total;
    first.sums.for_vectors([&](int64_t block, int64_t at, uint32_t) {
      float* sum = first.sums.at(block, column) + at;
      const Floats x = load(part.sums.at(block, column) + at) * scale;
      store(sum, i > 0 ? load(sum) + x : x);
    });
  }
  first.most[column] = most;
}

template <Dtype dtype>
void finish_of(const Problem& p, int64_t batch, int64_t head, void* parts, int64_t count) {
  Pieces memory(parts);
  const Part part(p, memory);
  const Side& columns = p.columns;
  const int64_t there = columns_in(p, batch);
  float* lse = columns.lse + (batch * p.heads + head) * columns.count;
  for (int64_t c = 0; c < there; ++c) {
    if (count > 1) merge(p, static_cast<char*>(parts), count, c, part);
    const float total = part.total[c], scale = !p.softmax ? 1.0f : total == 0.0f ? 0.0f : 1.0f / total;
    store_blocks<dtype>(part.sums, c, scale, row_of(columns.out, dtype, batch, head, c));
    if (p.softmax) lse[c] = total == 0.0f ? -infinity : part.most[c] + __builtin_logf(total);
  }
  clear_hidden<dtype>(mask_of(columns, batch), columns.out, batch, head, 0, columns.count, p.rows.value_depth);
  for (int64_t c = there; p.softmax && c < columns.count; ++c) lse[c] = -infinity;
}

void finish(const Problem& p, int64_t batch, int64_t head, void* parts, int64_t count) {
  with_dtype(p.dtype, [&](auto type) { finish_of<decltype(type)::value>(p, batch, head, parts, count); });
}

}  // namespace

extern const bi_attention::ForwardKernel bi_attention_forward;
const bi_attention::ForwardKernel bi_attention_forward = {bytes_of<Part>, workspace_bytes<ForwardWorkspace>, forward,
                                                          finish};

}  // namespace xmkern::XMKERN_CAPABILITY
