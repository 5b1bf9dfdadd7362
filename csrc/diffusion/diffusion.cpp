#include "diffusion/diffusion.h"

#include <algorithm>

#include "core/capability.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "diffusion/kernels.h"

namespace xmkern {

XMKERN_KERNELS(kernels, diffusion::Kernels, diffusion_kernels, avx512_bf16)
XMKERN_KERNELS(statistics, diffusion::StatisticsKernel, diffusion_statistics, avx512_bf16)

namespace diffusion {
namespace {

// Elements of a task: fewer, with noise to draw or without, take less time than a thread takes to wake up and to fetch
// them. Up to the largest number each thread has one task, and so from step to step the same elements, which it then
// finds in its own cache.
constexpr int64_t least_drawn = 32768, least_given = 131072, largest_piece = 2 * least_given;

template <class Body>
void each_piece(int64_t elements, bool drawn, int threads, Body&& body) {
  const int64_t pieces = std::clamp<int64_t>(elements / (drawn ? least_drawn : least_given), 1, std::max(threads, 1));
  const int64_t share = (elements / pieces + normal_tile) / normal_tile * normal_tile;
  const int64_t piece = std::min(share, largest_piece);
  parallel_for((elements + piece - 1) / piece, threads, [&](int64_t task) {
    const int64_t begin = task * piece, end = begin + piece;
    body(begin, end < elements ? end : elements);
  });
}

}  // namespace

void step(const Step& s, int threads) {
  if (s.samples * s.elements == 0) return;
  Statistics* of_samples = nullptr;
  if (s.rescale != 0 || s.ratio >= 0) {
    const auto count = static_cast<size_t>(s.samples);
    of_samples = static_cast<Statistics*>(Scratch::get<Scratch::of_call>(count * sizeof(Statistics)));
    const size_t keys = s.ratio >= 0 ? static_cast<size_t>(s.elements) * sizeof(uint32_t) : 0;
    const StatisticsKernel& kernel = statistics.pick();
    parallel_for(s.samples, threads,
                 [&](int64_t b) { of_samples[b] = kernel.run(s, b, static_cast<uint32_t*>(Scratch::get(keys))); });
  }
  const Kernels& kernel = kernels.pick();
  each_piece(s.samples * s.elements, s.noise.drawn, threads,
             [&](int64_t begin, int64_t end) { kernel.step(s, of_samples, begin, end); });
}

void q_sample(const Noising& q, int threads) {
  const Kernels& kernel = kernels.pick();
  each_piece(q.samples * q.elements, q.noise.drawn, threads,
             [&](int64_t begin, int64_t end) { kernel.q_sample(q, begin, end); });
}

void normals(void* out, Dtype dtype, int64_t count, uint64_t seed, uint64_t offset, int threads) {
  const Kernels& kernel = kernels.pick();
  each_piece(count, true, threads,
             [&](int64_t begin, int64_t end) { kernel.normals(out, dtype, seed, offset, begin, end); });
}

}  // namespace diffusion
}  // namespace xmkern
