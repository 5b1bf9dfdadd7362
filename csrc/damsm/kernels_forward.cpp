// Words packed once for all images; then, image by image, the cosine of each word and its context. Compiled once per
// instruction set (see core/capability.h): no standard-library code in here.
#include "damsm/tiles.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

template <class Arithmetic>
struct ForwardWorkspace {
  Regions<Arithmetic> regions;
  Blocks<float> scores, contexts;
  float* totals;

  ForwardWorkspace(const Problem& p, int64_t most_rows, Pieces& memory)
      : regions(p, memory),
        scores(memory.blocks<float>(most_rows, regions.cut)),
        contexts(memory.blocks<float>(most_rows, regions.depth)),
        totals(memory.take<float>(most_rows)) {}
};

// Enough for any arithmetic.
int64_t word_bytes(const Problem& p, int64_t most_rows) {
  Pieces memory(nullptr);
  Words<ArithmeticOf<Dtype::bfloat16>::type>(p, most_rows, memory);
  return memory.taken();
}

int64_t workspace(const Problem& p, int64_t most_rows) {
  Pieces memory(nullptr);
  ForwardWorkspace<Single>(p, most_rows, memory);
  return memory.taken();
}

template <class Arithmetic, Dtype dtype>
void pack_words_of(const Problem& p, const Captions& captions, int64_t number) {
  const Group& group = captions.groups[number];
  const auto words = words_of<Arithmetic>(p, captions, number);
  const Cut& cut = words.rows.cut;
  for_captions(p, group, [&](int64_t caption, int64_t row, int64_t length) {
    const auto* from = static_cast<const char*>(p.word.data) + caption * p.word.item * size_of(dtype);
    for (int64_t block = 0; block < cut.blocks; ++block)
      load_block<dtype>(from + cut.begin(block) * size_of(dtype), p.word.row, length, cut.size(block),
                        words.rows.at(block, row));
  });
  if constexpr (Arithmetic::numbers > 1)
    for (int64_t block = 0; block < cut.blocks; ++block)
      pack(words.rows.at(block), group.rows, words.pairs.panels(block, words.pairs.rows), 0);
  for (int64_t row = 0; row < group.rows; ++row) {
    Floats total{};
    words.rows.for_vectors([&](int64_t block, int64_t column, uint32_t) {
      const Floats x = load_numbers(words.rows.at(block, row), column);
      total += x * x;
    });
    words.norms[row] = __builtin_sqrtf(sum(total));
  }
}

template <class Arithmetic, Dtype dtype>
void forward_of(const Problem& p, const Captions& captions, int64_t image, int64_t group_begin, int64_t group_end,
                void* memory) {
  using Unit = typename Arithmetic::Unit;
  Pieces pieces(memory);
  const ForwardWorkspace<Arithmetic> w(p, captions.most_rows, pieces);
  w.regions.template pack_image<dtype>(p, image);
  for (int64_t number = group_begin; number < group_end; ++number) {
    const Group& group = captions.groups[number];
    const auto words = words_of<Arithmetic>(p, captions, number);
    w.regions.score(words.rows, group.rows, w.scores);
    const auto weights = as_units<Unit>(w.scores);
    for_captions(p, group, [&](int64_t, int64_t row, int64_t length) {
      share_regions(w.scores, row, length, w.scores);
      for (int64_t t = 0; t < length; ++t) {
        w.totals[row + t] = weigh_regions(w.scores, row + t, p.gamma1, w.scores);
        narrow_row(w.scores, row + t, weights);
      }
    });
    for (int64_t block = 0; block < w.contexts.cut.blocks; ++block)
      w.regions.times(weights, group.rows, w.regions.along(block), w.contexts.at(block), stride, false);

    for_captions(p, group, [&](int64_t caption, int64_t row, int64_t length) {
      float* cosines = p.cosine + (caption * p.images + image) * p.words;
      float* norms = p.norm + (caption * p.images + image) * p.words;
      for (int64_t t = 0; t < p.words; ++t) {
        if (t >= length) {
          cosines[t] = norms[t] = 0.0f;
          continue;
        }
        Floats dot{}, square{};
        w.contexts.for_vectors([&](int64_t block, int64_t column, uint32_t) {
          const Floats context = load(w.contexts.at(block, row + t) + column);
          dot += context * load_numbers(words.rows.at(block, row + t), column);
          square += context * context;
        });
        // Weights of no regions sum to zero, and so does the context.
        const float scale = p.regions ? 1.0f / w.totals[row + t] : 0.0f;
        norms[t] = __builtin_sqrtf(sum(square)) * scale;
        const float product = words.norms[row + t] * norms[t];
        cosines[t] = sum(dot) * scale / (product < damsm::least_norm ? damsm::least_norm : product);
      }
    });
  }
}

void pack_words(const Problem& p, const Captions& captions, int64_t group) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    pack_words_of<typename ArithmeticOf<dtype>::type, dtype>(p, captions, group);
  });
}

void forward(const Problem& p, const Captions& captions, int64_t image, int64_t group_begin, int64_t group_end,
             void* memory) {
  with_dtype(p.dtype, [&](auto type) {
    constexpr Dtype dtype = decltype(type)::value;
    forward_of<typename ArithmeticOf<dtype>::type, dtype>(p, captions, image, group_begin, group_end, memory);
  });
}

}  // namespace

extern const damsm::WordKernel damsm_words;
const damsm::WordKernel damsm_words = {word_bytes, pack_words};
extern const damsm::ForwardKernel damsm_forward;
const damsm::ForwardKernel damsm_forward = {workspace, forward};

}  // namespace xmkern::XMKERN_CAPABILITY
