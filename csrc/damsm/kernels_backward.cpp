// The gradients of the cosines of words and their contexts, with the scores computed again. Per image, with S = W V^T
// the scores of all words W and regions V, P the shares of regions among words, A the weights of regions, G = V V^T,
// a and b the pull of each context towards its word and back to itself (README.md derives them):
//   U = A G,  dA = a S - b U,  dP = gamma1 A (dA - rowsum(A dA)),  dS = P (dP - columnsum(P dP)),  E = dS + a A,
//   dW = E V - k W,  dV = E^T W - M V with M = A^T b A,
// so that contexts are needed no more. Compiled once per instruction set (see core/capability.h): no standard-library
// code in here.
#include <cstddef>

#include "damsm/tiles.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using damsm::Gradients;

template <class Arithmetic>
struct BackwardWorkspace {
  using Unit = typename Arithmetic::Unit;

  Regions<Arithmetic> regions;
  Unit* products_data;                            // G, a right side
  Blocks<float> scores, shares, weights, pulled;  // S, P, A, U
  Blocks<Unit> left;                              // of the last products: A, then E, in units along the regions
  Blocks<float> outer, grad_regions;              // -M, dV
  float *to_word, *to_context, *sums;             // a, b and rowsum(A dA) of each row

  BackwardWorkspace(const Problem& p, int64_t most_rows, Pieces& memory)
      : regions(p, memory),
        products_data(memory.take<Unit>(regions.cut.blocks * regions.cut.width * units<Arithmetic>(p.regions))),
        scores(memory.blocks<float>(most_rows > panel_width ? most_rows : panel_width, regions.cut)),
        shares(memory.blocks<float>(most_rows, regions.cut)),
        weights(memory.blocks<float>(most_rows, regions.cut)),
        pulled(memory.blocks<float>(most_rows, regions.cut)),
        left(as_units<Unit>(weights)),
        outer(memory.blocks<float>(p.regions, regions.cut)),
        grad_regions(memory.blocks<float>(p.regions, regions.depth)),
        to_word(memory.take<float>(most_rows)),
        to_context(memory.take<float>(most_rows)),
        sums(memory.take<float>(most_rows)) {
    if constexpr (Arithmetic::numbers > 1) left = memory.blocks<Unit>(most_rows, regions.cut);
  }

  Panels<Unit> products(int64_t block) const {
    const int64_t steps = units<Arithmetic>(regions.cut.columns);
    return {products_data + block * regions.cut.width * steps, steps, whole_vectors(regions.cut.size(block))};
  }
};

template <class Arithmetic>
int64_t workspace_of(const Problem& p, int64_t most_rows) {
  Pieces memory(nullptr);
  BackwardWorkspace<Arithmetic>(p, most_rows, memory);
  return memory.taken();
}

// Enough for any arithmetic.
int64_t workspace(const Problem& p, int64_t most_rows) {
  const int64_t single = workspace_of<Single>(p, most_rows);
  const int64_t other = workspace_of<ArithmeticOf<Dtype::bfloat16>::type>(p, most_rows);
  return single > other ? single : other;
}

// G, the products of all pairs of regions. Chunk by chunk they pass through the rows of the scores.
template <class Arithmetic, Dtype dtype>
void multiply_regions(const Problem& p, int64_t image, const BackwardWorkspace<Arithmetic>& w) {
  w.regions.template for_chunks<dtype>(p, image, [&](int64_t region, int64_t count) {
    w.regions.score(w.regions.chunk, count, w.scores);
    for (int64_t block = 0; block < w.scores.cut.blocks; ++block)
      pack_numbers(w.scores.at(block), count, w.products(block), region / Arithmetic::numbers);
  });
}

// a and b of one caption's words, from the gradients of their cosines; adds up k. Where the norms' product was clamped,
// the cosine does not change with the norms.
void pull(const float* grads, const float* cosines, const float* norms, int64_t words, const float* word_norms,
          float* to_word, float* to_context, float* from_word) {
  for (int64_t t = 0; t < words; ++t) {
    const float product = word_norms[t] * norms[t];
    const bool clamped = product < damsm::least_norm;
    to_word[t] = grads[t] / (clamped ? damsm::least_norm : product);
    to_context[t] = clamped ? 0.0f : grads[t] * cosines[t] / norms[t] / norms[t];
    if (!clamped) from_word[t] += grads[t] * cosines[t] / word_norms[t] / word_norms[t];
  }
}

// S to E, and U to -b A, for one caption.
template <class Arithmetic>
void differentiate(const Problem& p, int64_t row, int64_t words, const BackwardWorkspace<Arithmetic>& w) {
  const float *a = w.to_word + row, *b = w.to_context + row;
  float* sums = w.sums + row;
  for (int64_t t = 0; t < words; ++t) {
    Floats total{};
    w.scores.for_vectors([&](int64_t block, int64_t column, uint32_t) {
      const Floats grad =
          load(w.scores.at(block, row + t) + column) * a[t] - load(w.pulled.at(block, row + t) + column) * b[t];
      total += load(w.weights.at(block, row + t) + column) * grad;
    });
    sums[t] = sum(total);
  }
  const Floats gamma1 = splat(p.gamma1);
  w.scores.for_vectors([&](int64_t block, int64_t column, uint32_t) {
    float *score = w.scores.at(block, row) + column, *pulled = w.pulled.at(block, row) + column;
    const float *share = w.shares.at(block, row) + column, *weight = w.weights.at(block, row) + column;
    Floats total{};
    for (int64_t t = 0; t < words; ++t) {
      const int64_t at = t * stride;
      const Floats grad = load(weight + at) * gamma1 * (load(score + at) * a[t] - load(pulled + at) * b[t] - sums[t]);
      total += load(share + at) * grad;
      store(pulled + at, grad);
    }
    for (int64_t t = 0; t < words; ++t) {
      const int64_t at = t * stride;
      store(score + at, load(share + at) * (load(pulled + at) - total) + load(weight + at) * a[t]);
      store(pulled + at, load(weight + at) * -b[t]);
    }
  });
}

// -M += A^T (-b A): of a symmetric matrix, the columns of each panel down to its diagonal.
template <class Arithmetic>
void add_outer(const Blocks<typename Arithmetic::Unit>& weights, const Blocks<typename Arithmetic::Unit>& pulled,
               int64_t steps, const Blocks<float>& out) {
  const Cut& cut = out.cut;
  for (int64_t to = 0; to < cut.blocks; ++to) {
    const auto right = pulled.panels(to, steps);
    for (int64_t column = 0; column < right.columns; column += panel_width) {
      const int64_t end = lesser(column + panel_width, right.columns);
      for (int64_t from = 0; from <= to; ++from) {
        const int64_t rows = from < to ? cut.size(from) : lesser(end, cut.size(to));
        multiply<Arithmetic, true>(weights.at(from), rows, right, 0, steps, column, end,
                                   out.at(to, cut.begin(from)) + column, stride, true);
      }
    }
  }
}

// Fills the lower half, and turns rows to units.
template <class Unit>
void complete(const Blocks<float>& x, const Blocks<Unit>& out) {
  const Cut& cut = x.cut;
  const auto at = [&](int64_t row, int64_t column) { return x.at(column / cut.width, row) + column % cut.width; };
  for (int64_t row = 0; row < cut.columns; ++row)
    for (int64_t column = 0; column < row; ++column) *at(row, column) = *at(column, row);
  for (int64_t row = 0; row < cut.columns; ++row) narrow_row(x, row, out);
}

template <class Arithmetic, Dtype dtype>
void backward_of(const Problem& p, const Gradients& g, const Captions& captions, int64_t image, float* share,
                 bool begin, void* memory) {
  using Unit = typename Arithmetic::Unit;
  Pieces pieces(memory);
  const BackwardWorkspace<Arithmetic> w(p, captions.most_rows, pieces);
  const Regions<Arithmetic>& regions = w.regions;
  regions.template pack_image<dtype>(p, image);
  multiply_regions<Arithmetic, dtype>(p, image, w);
  clear(w.outer);
  clear(w.grad_regions);
  const Group& last = captions.groups[captions.count - 1];
  const int64_t share_columns = round_up(p.depth, 16), share_rows = last.row_begin + last.rows;

  for (int64_t number = 0; number < captions.count; ++number) {
    const Group& group = captions.groups[number];
    const auto words = words_of<Arithmetic>(p, captions, number);
    regions.score(words.rows, group.rows, w.scores);
    float* from_words = share + share_rows * share_columns + group.row_begin;
    if (begin) __builtin_memset(from_words, 0, static_cast<std::size_t>(group.rows) * sizeof(float));
    for_captions(p, group, [&](int64_t caption, int64_t row, int64_t length) {
      share_regions(w.scores, row, length, w.shares);
      for (int64_t t = 0; t < length; ++t) {
        const float scale = 1.0f / weigh_regions(w.shares, row + t, p.gamma1, w.weights);
        w.weights.for_vectors([&](int64_t block, int64_t column, uint32_t) {
          float* at = w.weights.at(block, row + t) + column;
          store(at, load(at) * scale);
        });
        if constexpr (Arithmetic::numbers > 1) narrow_row(w.weights, row + t, w.left);
      }
      const int64_t at = (caption * p.images + image) * p.words;
      pull(g.cosine + at, p.cosine + at, p.norm + at, length, words.norms + row, w.to_word + row, w.to_context + row,
           from_words + row);
    });
    for (int64_t to = 0; to < regions.cut.blocks; ++to)
      regions.times(w.left, group.rows, w.products(to), w.pulled.at(to), stride, false);
    for_captions(p, group, [&](int64_t, int64_t row, int64_t length) { differentiate<Arithmetic>(p, row, length, w); });

    auto left = as_units<Unit>(w.scores);
    if constexpr (Arithmetic::numbers > 1) {
      left = w.left;
      for (int64_t row = 0; row < group.rows; ++row) narrow_row(w.scores, row, left);
      pair_rows(w.scores, group.rows);
      pair_rows(w.weights, group.rows);
      pair_rows(w.pulled, group.rows);
    }
    const int64_t steps = units<Arithmetic>(group.rows);
    add_outer<Arithmetic>(as_units<Unit>(w.weights), as_units<Unit>(w.pulled), steps, w.outer);
    const auto slopes = as_units<Unit>(w.scores);
    for (int64_t block = 0; block < regions.depth.blocks; ++block) {
      const auto right = words.pairs.panels(block, steps);
      for (int64_t from = 0; from < regions.cut.blocks; ++from)
        multiply<Arithmetic, true>(slopes.at(from), regions.cut.size(from), right, 0, steps, 0, right.columns,
                                   w.grad_regions.at(block, regions.cut.begin(from)), stride, true);
      regions.times(left, group.rows, regions.along(block),
                    share + group.row_begin * share_columns + regions.depth.begin(block), share_columns, !begin);
    }
  }

  const auto outer = as_units<Unit>(w.outer);
  complete(w.outer, outer);
  for (int64_t block = 0; block < regions.depth.blocks; ++block) {
    regions.times(outer, p.regions, regions.along(block), w.grad_regions.at(block), stride, true);
    for (int64_t region = 0; region < p.regions; ++region) {
      const int64_t at = image * g.region.item + region * g.region.row + regions.depth.begin(block);
      const float* row = w.grad_regions.at(block, region);
      const int64_t size = regions.depth.size(block);
      int64_t c = 0;
      for (; c + lanes <= size; c += lanes) store_floats<dtype>(g.region.data, at + c, load(row + c));
      for (; c < size; ++c) store_float<dtype>(g.region.data, at + c, row[c]);
    }
  }
}

void backward(const Problem& p, const Gradients& g, const Captions& captions, int64_t image, float* share, bool begin,
              void* memory) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    backward_of<typename ArithmeticOf<dtype>::type, dtype>(p, g, captions, image, share, begin, memory);
  });
}

template <Dtype dtype>
void add_shares_of(const Problem& p, const Gradients& g, const Captions& captions, int64_t number, const float* shares,
                   int64_t count, int64_t share_stride) {
  const Group &group = captions.groups[number], &last = captions.groups[captions.count - 1];
  const int64_t columns = round_up(p.depth, 16), rows = last.row_begin + last.rows;
  const auto total = [&](int64_t at) {
    float x = 0;
    for (int64_t i = 0; i < count; ++i) x += shares[i * share_stride + at];
    return x;
  };
  for_captions(p, group, [&](int64_t caption, int64_t first, int64_t length) {
    for (int64_t t = 0; t < p.words; ++t) {
      const int64_t row = group.row_begin + first + t, out = caption * g.word.item + t * g.word.row;
      const int64_t in = caption * p.word.item + t * p.word.row;
      const bool padding = t >= length;
      const float itself = padding ? 0.0f : total(rows * columns + row);
      int64_t c = 0;
      for (; c + lanes <= p.depth; c += lanes) {
        Floats x{};
        for (int64_t i = 0; i < count && !padding; ++i) x += load(shares + i * share_stride + row * columns + c);
        if (!padding) x -= itself * load_floats<dtype>(p.word.data, in + c);
        store_floats<dtype>(g.word.data, out + c, x);
      }
      for (; c < p.depth; ++c)
        store_float<dtype>(g.word.data, out + c,
                           padding ? 0.0f : total(row * columns + c) - itself * load_float<dtype>(p.word.data, in + c));
    }
  });
}

void add_shares(const Problem& p, const Gradients& g, const Captions& captions, int64_t group, const float* shares,
                int64_t count, int64_t share_stride) {
  with_dtype(p.dtype, [&](auto type) {
    add_shares_of<decltype(type)::value>(p, g, captions, group, shares, count, share_stride);
  });
}

}  // namespace

extern const damsm::BackwardKernel damsm_backward;
const damsm::BackwardKernel damsm_backward = {workspace, backward, add_shares};

}  // namespace xmkern::XMKERN_CAPABILITY
