#include "damsm/damsm.h"

#include <algorithm>
#include <vector>

#include "core/capability.h"
#include "core/integer.h"
#include "core/large_array.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "damsm/kernels.h"

namespace xmkern {

XMKERN_KERNELS(word_kernels, damsm::WordKernel, damsm_words, avx512_bf16)
XMKERN_KERNELS(forward_kernels, damsm::ForwardKernel, damsm_forward, avx512_bf16)
XMKERN_KERNELS(backward_kernels, damsm::BackwardKernel, damsm_backward, avx512_bf16)

namespace damsm {
namespace {

// Enough rows that sums over them are seldom loaded and stored, few enough that what belongs to them stays in a cache.
constexpr int64_t rows_a_group = 96;
// Shares of the gradient of words: enough tasks for many threads, but each has the size of the words.
constexpr int64_t most_shares = 16;

// The captions in groups, and their words packed. Groups and all that follows from them depend on the lengths alone.
class Packed {
 public:
  Packed(const Problem& p, int threads) {
    Group group{};
    for (int64_t caption = 0; caption < p.captions; ++caption) {
      const int64_t words = p.lengths[caption];
      if (group.rows > 0 && group.rows + words > rows_a_group) {
        groups_.push_back(group);
        group = {caption, caption, group.row_begin + group.rows, 0};
      }
      group.caption_end = caption + 1;
      group.rows += words;
    }
    groups_.push_back(group);
    int64_t most_rows = 0;
    for (const Group& each : groups_) most_rows = std::max(most_rows, each.rows);

    const WordKernel& kernel = word_kernels.pick();
    const auto count = static_cast<int64_t>(groups_.size());
    const int64_t bytes = kernel.bytes(p, most_rows);
    memory_ = LargeArray<char>(static_cast<size_t>(count * bytes));
    captions_ = {groups_.data(), count, most_rows, memory_.get(), bytes};
    parallel_for(count, threads, [&](int64_t task) { kernel.pack(p, captions_, task); });
  }

  const Captions& captions() const { return captions_; }
  int64_t rows() const { return groups_.back().row_begin + groups_.back().rows; }

 private:
  std::vector<Group> groups_;
  LargeArray<char> memory_;
  Captions captions_;
};

int64_t share_size(int64_t rows, int64_t depth) { return ceil_div(rows * (ceil_div(depth, 16) * 16 + 1), 16) * 16; }

}  // namespace

void forward(const Problem& p, int threads) {
  if (p.captions * p.images == 0) return;
  const Packed packed(p, threads);
  const Captions& captions = packed.captions();
  const ForwardKernel& kernel = forward_kernels.pick();
  const auto bytes = static_cast<size_t>(kernel.workspace(p, captions.most_rows));
  // Each part of the captions packs the image again.
  const int64_t parts = std::clamp<int64_t>(ceil_div(64, p.images), 1, captions.count);
  parallel_for(p.images * parts, threads, [&](int64_t task) {
    const int64_t image = task / parts, part = task % parts;
    kernel.run(p, captions, image, part * captions.count / parts, (part + 1) * captions.count / parts,
               Scratch::get(bytes));
  });
}

void backward(const Problem& p, const Gradients& g, int threads) {
  if (p.captions + p.images == 0) return;
  const Packed packed(p, threads);
  const Captions& captions = packed.captions();
  const BackwardKernel& kernel = backward_kernels.pick();
  const auto bytes = static_cast<size_t>(kernel.workspace(p, captions.most_rows));
  const int64_t count = std::min(p.images, most_shares), share = share_size(packed.rows(), p.depth);
  const LargeArray<float> shares(static_cast<size_t>(count * share));
  parallel_for(count, threads, [&](int64_t task) {
    const int64_t begin = task * p.images / count, end = (task + 1) * p.images / count;
    for (int64_t image = begin; image < end; ++image)
      kernel.run(p, g, captions, image, shares.get() + task * share, image == begin, Scratch::get(bytes));
  });
  parallel_for(captions.count, threads,
               [&](int64_t group) { kernel.add_shares(p, g, captions, group, shares.get(), count, share); });
}

}  // namespace damsm
}  // namespace xmkern
