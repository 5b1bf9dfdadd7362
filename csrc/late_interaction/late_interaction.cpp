#include "late_interaction/late_interaction.h"

#include <algorithm>
#include <vector>

#include "core/capability.h"
#include "core/integer.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "late_interaction/kernels.h"

namespace xmkern {

XMKERN_KERNELS(forward_kernels, late_interaction::ForwardKernel, late_interaction_forward, avx512_bf16)
XMKERN_KERNELS(backward_kernels, late_interaction::BackwardKernel, late_interaction_backward, avx512_bf16)

namespace late_interaction {
namespace {

// The tokens that are not hidden.
struct List {
  std::vector<int64_t> begin, offset;
  std::vector<uint32_t> place;
  Tokens tokens;

  explicit List(const Side& side) {
    begin.reserve(static_cast<size_t>(side.samples + 1)), begin.push_back(0);
    place.reserve(static_cast<size_t>(side.samples * side.tokens)), offset.reserve(place.capacity());
    for (int64_t sample = 0; sample < side.samples; ++sample) {
      for (int64_t token = 0; token < side.tokens; ++token) {
        if (side.mask && !side.mask[sample * side.tokens + token]) continue;
        place.push_back(static_cast<uint32_t>(token));
        offset.push_back(sample * side.sample_stride + token * side.token_stride);
      }
      begin.push_back(static_cast<int64_t>(place.size()));
    }
    tokens = {side.data,         side.samples, side.tokens,  side.sample_stride,
              side.token_stride, begin.data(), place.data(), offset.data()};
  }
};

// Samples in groups of at most `most` tokens that are not hidden, but of at least one sample, as equal as can be.
std::vector<int64_t> groups_of(const Tokens& tokens, int64_t most) {
  std::vector<int64_t> bounds = {0};
  const int64_t total = tokens.begin[tokens.samples], groups = std::max<int64_t>(ceil_div(total, most), 1);
  for (int64_t sample = 0; sample < tokens.samples; ++sample) {
    const int64_t tokens_so_far = tokens.begin[sample + 1] - tokens.begin[bounds.back()];
    const bool last = sample + 1 == tokens.samples;
    if (last || tokens_so_far + tokens.count(sample + 1) > std::min(most, ceil_div(total, groups) + tokens.tokens / 2))
      bounds.push_back(sample + 1);
  }
  return bounds;
}

}  // namespace

void forward(const Problem& p, const Scores& x, const Scores& y, int threads) {
  const List rows(p.y), columns(p.x);
  const Call call{p.dtype, p.depth, p.mean, columns.tokens, rows.tokens, x, y};
  if (p.x.samples * p.y.samples == 0) return;
  const ForwardKernel& kernel = forward_kernels.pick();
  // The columns' panels stay in the second-level cache; each task makes them anew, so it meets many rows.
  const int64_t bytes_a_column = std::max<int64_t>(p.depth * size_of(p.dtype), 1);
  const auto bounds = groups_of(call.x, std::clamp<int64_t>((int64_t{3} << 18) / bytes_a_column, 64, 1024));
  const auto groups = static_cast<int64_t>(bounds.size()) - 1;
  const int64_t possible = std::clamp<int64_t>(call.y.begin[p.y.samples] / 1024, 1, p.y.samples);
  const int64_t parts = std::min(ceil_div(64, groups), possible);
  parallel_for(groups * parts, threads, [&](int64_t task) {
    const int64_t begin = bounds[static_cast<size_t>(task / parts)],
                  end = bounds[static_cast<size_t>(task / parts) + 1];
    const int64_t part = task % parts;
    const int64_t bytes = kernel.workspace(call, end - begin, call.x.begin[end] - call.x.begin[begin]);
    kernel.run(call, begin, end, part * p.y.samples / parts, (part + 1) * p.y.samples / parts,
               Scratch::get(static_cast<size_t>(bytes)));
  });
}

void backward(const Problem& p, const Scores& x, const Scores& y, void* grad_x, void* grad_y, int threads) {
  const List own(p.x), other(p.y);
  const BackwardKernel& kernel = backward_kernels.pick();
  const Gradient gradients[] = {
      {p.dtype, p.depth, p.mean, own.tokens, other.tokens, x, y, p.y.samples, 1, grad_x},
      {p.dtype, p.depth, p.mean, other.tokens, own.tokens, y, x, 1, p.y.samples, grad_y},
  };
  const int64_t slices = ceil_div(p.depth, slice);
  for (const Gradient& g : gradients) {
    if (g.out == nullptr) continue;
    const int64_t most = std::max<int64_t>(256 / std::max<int64_t>(g.own.tokens, 1), 1);
    const int64_t parts = ceil_div(g.own.samples, most);
    parallel_for(parts * slices, threads, [&](int64_t task) {
      const int64_t part = task / slices, begin = part * g.own.samples / parts,
                    end = (part + 1) * g.own.samples / parts;
      kernel.run(g, begin, end, task % slices * slice,
                 Scratch::get(static_cast<size_t>(kernel.workspace(g, end - begin))));
    });
  }
}

}  // namespace late_interaction
}  // namespace xmkern
