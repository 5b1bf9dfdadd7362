// Gradients: a token gets those that it won, and those that won it, each times the gradient of the pair's score. So the
// gradient of a sample's tokens is a sparse matrix times the other side's tokens: it is listed row by row for some
// samples of the other side at a time, and rows are summed up in registers. Compiled once per instruction set (see
// core/capability.h): no standard-library code in here.
#include "core/product.h"
#include "late_interaction/kernels.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using late_interaction::Gradient;
using late_interaction::slice;
using late_interaction::Tokens;
using late_interaction::with_winners;

#if defined(__AVX512F__)
inline constexpr int max_vectors = 16;
#else
inline constexpr int max_vectors = 8;
#endif

// An element of the sparse matrix.
struct Entry {
  int64_t offset;  // of the other token's numbers
  float weight;
};

struct Workspace {
  float* sums;  // [own tokens, slice]
  Entry* entries;
  int32_t* ends;  // [tokens + 1]: ends[i + 1] is where the entries of token i end

  Workspace(const Gradient& g, int64_t samples, void* memory) {
    entries = static_cast<Entry*>(memory);
    sums = reinterpret_cast<float*>(entries + round_up(entry_count(g), 4));
    ends = reinterpret_cast<int32_t*>(sums + samples * g.own.tokens * slice);
  }

  // Samples of the other side that are listed at a time: what stays in the second-level cache.
  static int64_t samples_a_list(const Gradient& g) {
    const int64_t fit = (g.dtype == Dtype::float32 ? 256 : 512) / (g.other.tokens < 1 ? 1 : g.other.tokens);
    return fit < 1 ? 1 : fit;
  }
  static int64_t entry_count(const Gradient& g) { return samples_a_list(g) * (g.own.tokens + g.other.tokens); }
};

int64_t workspace(const Gradient& g, int64_t samples) {
  const auto entries = round_up(Workspace::entry_count(g), 4) * static_cast<int64_t>(sizeof(Entry));
  return entries + 4 * (samples * g.own.tokens * slice + g.own.tokens + 1);
}

// The gradient of a pair's score as the weight of each of the tokens that it is the mean, or sum, of.
inline float weight_of(const Gradient& g, const float* scores, int64_t pair, int64_t own_count, int64_t other_count,
                       int64_t count) {
  if (scores == nullptr || own_count == 0 || other_count == 0) return 0;
  return g.mean ? scores[pair] / static_cast<float>(count) : scores[pair];
}

// Calls f(own token, other sample, other token, weight) for all elements of the rows of sample `own` in the columns of
// other samples.
template <class F>
inline void for_entries(const Gradient& g, int64_t own, int64_t other_begin, int64_t other_end, F&& f) {
  const int64_t own_count = g.own.count(own);
  with_winners(g.own_scores.winners, g.other.tokens, [&](const auto* own_winners) {
    with_winners(g.other_scores.winners, g.own.tokens, [&](const auto* other_winners) {
      for (int64_t other = other_begin; other < other_end; ++other) {
        const int64_t pair = own * g.own_stride + other * g.other_stride, count = g.other.count(other);
        if (const float weight = weight_of(g, g.own_scores.scores, pair, own_count, count, own_count); weight != 0) {
          const auto* won = own_winners + pair * g.own.tokens;
          for (int64_t i = 0; i < own_count; ++i) {
            const int64_t token = g.own.place[g.own.begin[own] + i];
            f(token, other, static_cast<int64_t>(won[token]), weight);
          }
        }
        if (const float weight = weight_of(g, g.other_scores.scores, pair, own_count, count, count); weight != 0) {
          const auto* won = other_winners + pair * g.other.tokens;
          for (int64_t i = 0; i < count; ++i) {
            const int64_t token = g.other.place[g.other.begin[other] + i];
            f(static_cast<int64_t>(won[token]), other, token, weight);
          }
        }
      }
    });
  });
}

// Lists the entries, sorted by own token.
void list(const Gradient& g, int64_t own, int64_t other_begin, int64_t other_end, const Workspace& w) {
  for (int64_t i = 0; i <= g.own.tokens; ++i) w.ends[i] = 0;
  for_entries(g, own, other_begin, other_end, [&](int64_t token, int64_t, int64_t, float) { ++w.ends[token + 1]; });
  int32_t begin = 0;  // of each token, in the place of its end
  for (int64_t i = 0; i < g.own.tokens; ++i) {
    const int32_t count = w.ends[i + 1];
    w.ends[i + 1] = begin, begin += count;
  }
  for_entries(g, own, other_begin, other_end, [&](int64_t token, int64_t sample, int64_t other, float weight) {
    w.entries[w.ends[token + 1]++] = {sample * g.other.sample_stride + other * g.other.token_stride, weight};
  });
}

// Adds rows times weights to `Vectors` vectors of a sum, at the end: a long sum then has a rounding at its full size
// once a list, not once an entry. `data` begins at the column.
template <Dtype dtype, int Vectors>
inline void add_rows(const void* data, const Entry* begin, const Entry* end, float* to) {
  Floats sums[Vectors];
#pragma GCC unroll 16
  for (int v = 0; v < Vectors; ++v) sums[v] = Floats{};
  for (const Entry* entry = begin; entry < end; ++entry) {
    const Floats weight = splat(entry->weight);
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) sums[v] += weight * load_floats<dtype>(data, entry->offset + v * lanes);
  }
#pragma GCC unroll 16
  for (int v = 0; v < Vectors; ++v) store(to + v * lanes, load(to + v * lanes) + sums[v]);
}

// The same for `width` numbers, at most `slice`: as many vectors at a time as the registers hold, then fewer.
template <Dtype dtype, int Vectors = max_vectors>
inline void add_slice(const char* data, const Entry* begin, const Entry* end, int64_t width, float* to) {
  for (; width >= Vectors * lanes; width -= Vectors * lanes) {
    add_rows<dtype, Vectors>(data, begin, end, to);
    data += Vectors * lanes * size_of(dtype), to += Vectors * lanes;
  }
  if constexpr (Vectors > 1) {
    add_slice<dtype, Vectors / 2>(data, begin, end, width, to);
  } else {
    for (int64_t c = 0; c < width; ++c) {
      float sum = 0;
      for (const Entry* entry = begin; entry < end; ++entry)
        sum += entry->weight * load_float<dtype>(data, entry->offset + c);
      to[c] += sum;
    }
  }
}

template <Dtype dtype>
void run(const Gradient& g, int64_t own_begin, int64_t own_end, int64_t column, const Workspace& w) {
  const int64_t width = g.depth - column < slice ? g.depth - column : slice, step = Workspace::samples_a_list(g);
  const auto* data = static_cast<const char*>(g.other.data) + column * size_of(dtype);
  for (int64_t i = 0; i < (own_end - own_begin) * g.own.tokens * slice; i += lanes) store(w.sums + i, Floats{});
  for (int64_t other = 0; other < g.other.samples; other += step) {
    const int64_t other_end = other + step < g.other.samples ? other + step : g.other.samples;
    for (int64_t own = own_begin; own < own_end; ++own) {
      list(g, own, other, other_end, w);
      float* sums = w.sums + (own - own_begin) * g.own.tokens * slice;
      for (int64_t i = 0, begin = 0; i < g.own.tokens; ++i) {
        const int64_t end = w.ends[i + 1];
        if (end > begin) add_slice<dtype>(data, w.entries + begin, w.entries + end, width, sums + i * slice);
        begin = end;
      }
    }
  }
  for (int64_t own = own_begin; own < own_end; ++own)
    for (int64_t i = g.own.begin[own]; i < g.own.begin[own + 1]; ++i) {
      const int64_t token = own * g.own.tokens + g.own.place[i];
      const float* from = w.sums + (token - own_begin * g.own.tokens) * slice;
      const int64_t to = token * g.depth + column;
      int64_t c = 0;
      for (; c + lanes <= width; c += lanes) store_floats<dtype>(g.out, to + c, load(from + c));
      for (; c < width; ++c) store_float<dtype>(g.out, to + c, from[c]);
    }
}

void backward(const Gradient& g, int64_t own_begin, int64_t own_end, int64_t column, void* memory) {
  const Workspace w(g, own_end - own_begin, memory);
  with_dtype(g.dtype, [&](auto type) { run<decltype(type)::value>(g, own_begin, own_end, column, w); });
}

}  // namespace

extern const late_interaction::BackwardKernel late_interaction_backward;
const late_interaction::BackwardKernel late_interaction_backward = {workspace, backward};

}  // namespace xmkern::XMKERN_CAPABILITY
