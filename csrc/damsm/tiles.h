// What forward and backward share: words and regions packed for products, and the two softmaxes. For kernel sources
// (see core/capability.h).
#pragma once

#include "core/blocks.h"
#include "damsm/kernels.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using damsm::Captions;
using damsm::Group;
using damsm::Problem;

// The words of a group: rows of a left side; pairs of rows, if units hold two numbers, of a right side; and norms.
template <class Arithmetic>
struct Words {
  using Unit = typename Arithmetic::Unit;

  Blocks<Unit> rows, pairs;
  float* norms;

  Words(const Problem& p, int64_t most_rows, Pieces& memory)
      : rows(memory.blocks<Unit>(most_rows, Cut(p.depth))), pairs(rows) {
    if constexpr (Arithmetic::numbers > 1) pairs = memory.blocks<Unit>(units<Arithmetic>(most_rows), rows.cut);
    norms = memory.take<float>(most_rows);
  }
};

template <class Arithmetic>
Words<Arithmetic> words_of(const Problem& p, const Captions& captions, int64_t group) {
  Pieces memory(captions.packed + group * captions.bytes);
  return {p, captions.most_rows, memory};
}

// Numbers of a row of words, `lanes` at a time.
inline Floats load_numbers(const float* row, int64_t column) { return load(row + column); }
inline Floats load_numbers(const uint32_t* row, int64_t column) { return load_floats<Dtype::bfloat16>(row, column); }

// The regions of one image, packed both ways: columns of a right side (`across`, one set of panels per block of depth),
// and rows of one (`along`, likewise).
template <class Arithmetic>
struct Regions {
  using Unit = typename Arithmetic::Unit;

  Cut depth, cut;
  Unit *across_data, *along_data;
  Blocks<Unit> chunk;  // a few regions as they come

  Regions(const Problem& p, Pieces& memory)
      : depth(p.depth),
        cut(p.regions),
        across_data(memory.take<Unit>(depth.blocks * units<Arithmetic>(depth.width) * whole_vectors(p.regions))),
        along_data(memory.take<Unit>(depth.blocks * depth.width * units<Arithmetic>(p.regions))),
        chunk(memory.blocks<Unit>(panel_width, depth)) {}

  Panels<Unit> across(int64_t block) const {
    const int64_t columns = whole_vectors(cut.columns);
    return {across_data + block * units<Arithmetic>(depth.width) * columns, units<Arithmetic>(depth.size(block)),
            columns};
  }
  Panels<Unit> along(int64_t block) const {
    const int64_t steps = units<Arithmetic>(cut.columns);
    return {along_data + block * depth.width * steps, steps, whole_vectors(depth.size(block))};
  }

  // Calls f with the first and the number of some regions, which are then in `chunk`.
  template <Dtype dtype, class F>
  void for_chunks(const Problem& p, int64_t image, F&& f) const {
    for (int64_t region = 0; region < p.regions; region += panel_width) {
      const int64_t count = lesser(panel_width, p.regions - region);
      const auto* from =
          static_cast<const char*>(p.region.data) + (image * p.region.item + region * p.region.row) * size_of(dtype);
      for (int64_t block = 0; block < depth.blocks; ++block)
        load_block<dtype>(from + depth.begin(block) * size_of(dtype), p.region.row, count, depth.size(block),
                          chunk.at(block));
      f(region, count);
    }
  }

  template <Dtype dtype>
  void pack_image(const Problem& p, int64_t image) const {
    for_chunks<dtype>(p, image, [&](int64_t region, int64_t count) {
      for (int64_t block = 0; block < depth.blocks; ++block) {
        pack(chunk.at(block), count, along(block), region / Arithmetic::numbers);
        pack_transposed(chunk.at(block), count, across(block), region);
      }
    });
  }

  // Rows times the transposed regions: their scores.
  void score(const Blocks<Unit>& left, int64_t rows, const Blocks<float>& out) const {
    for (int64_t to = 0; to < cut.blocks; ++to) {
      const int64_t begin = cut.begin(to), end = begin + whole_vectors(cut.size(to));
      for (int64_t block = 0; block < depth.blocks; ++block)
        add_product<Arithmetic>(left.at(block), rows, across(block), 0, across(block).steps, begin, end, out.at(to),
                                stride, block > 0);
    }
  }

  // Rows of numbers, one for each region, times what has a row for each region.
  void times(const Blocks<Unit>& left, int64_t rows, const Panels<Unit>& right, float* out, int64_t out_stride,
             bool add) const {
    for (int64_t from = 0; from < cut.blocks; ++from)
      add_product<Arithmetic>(left.at(from), rows, right, cut.begin(from) / Arithmetic::numbers,
                              units<Arithmetic>(cut.size(from)), 0, right.columns, out, out_stride, add || from > 0);
  }
};

// The scores of one caption's words, `words` rows from `row` on, to each region's shares among them: softmax down the
// columns.
inline void share_regions(const Blocks<float>& scores, int64_t row, int64_t words, const Blocks<float>& shares) {
  scores.for_vectors([&](int64_t block, int64_t column, uint32_t) {
    const float* from = scores.at(block, row) + column;
    float* to = shares.at(block, row) + column;
    Floats most = splat(-infinity), total{};
    for (int64_t t = 0; t < words; ++t) most = larger(load(from + t * stride), most);
    for (int64_t t = 0; t < words; ++t) {
      const Floats power = exp2((load(from + t * stride) - most) * log2_e);
      total += power;
      store(to + t * stride, power);
    }
    const Floats scale = 1.0f / total;
    for (int64_t t = 0; t < words; ++t) store(to + t * stride, load(to + t * stride) * scale);
  });
}

// The shares of one word to exp(gamma1 * share), less the greatest, and zeros behind the last region; returns their
// sum.
inline float weigh_regions(const Blocks<float>& shares, int64_t row, float gamma1, const Blocks<float>& weights) {
  const Floats lowest = splat(-infinity);
  Floats most = lowest, total{};
  shares.for_vectors([&](int64_t block, int64_t column, uint32_t there) {
    most = larger(select(there, load(shares.at(block, row) + column) * gamma1, lowest), most);
  });
  const float shift = largest(most);
  shares.for_vectors([&](int64_t block, int64_t column, uint32_t there) {
    const Floats power = exp2((load(shares.at(block, row) + column) * gamma1 - shift) * log2_e);
    const Floats weight = select(there, power, Floats{});
    total += weight;
    store(weights.at(block, row) + column, weight);
  });
  return sum(total);
}

// Calls f with each caption of a group, the first of its rows, and their number.
template <class F>
inline void for_captions(const Problem& p, const Group& group, F&& f) {
  int64_t row = 0;
  for (int64_t caption = group.caption_begin; caption < group.caption_end; row += p.lengths[caption++])
    f(caption, row, p.lengths[caption]);
}

}  // namespace
}  // namespace xmkern::XMKERN_CAPABILITY
