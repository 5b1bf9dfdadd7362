// What each kind of reduction makes of a tile, row by row, forward. For kernel sources (see core/capability.h).
#pragma once

#include "contrastive/elements.h"

namespace xmkern::XMKERN_CAPABILITY {

using contrastive::Kind;
using contrastive::Totals;

// The totals of a strip's columns while it is worked on, padded to whole vectors.
struct StripTotals {
  float value[max_columns], positive[max_columns], sum[max_columns], positive_sum[max_columns];
  int64_t count[max_columns];

  StripTotals(const Problem& p, const Strip& strip, const Totals& from) {
    if (!p.columns) return;
    strip.copy(from.value, value);
    strip.copy(from.positive, positive);
    strip.copy(from.count, count);
    if (!from.sum) return;
    strip.copy(from.sum, sum);
    strip.copy(from.positive_sum, positive_sum);
  }

  void store(const Problem& p, const Strip& strip, const Totals& to) const {
    for (int64_t c = 0; c < strip.count && p.columns; ++c) {
      const int64_t column = strip.begin + c;
      to.value[column] = value[c], to.positive[column] = positive[c], to.count[column] = count[c];
      if (to.sum) to.sum[column] = sum[c], to.positive_sum[column] = positive_sum[c];
    }
  }
};

// Adds exp(z) to a sum of powers below a reference.
inline void add_power(float z, float& reference, float& sum) {
  if (z <= reference) {
    sum += exponential(splat(z - reference))[0];
  } else {
    sum = sum * exponential(splat(reference - z))[0] + 1.0f;
    reference = z;
  }
}

// What is wanted of positive pairs, one by one: they are few.
template <Kind kind>
inline void add_positives(const Problem& p, uint32_t bits, Floats z, int64_t row, int64_t column, const Totals& rows,
                          StripTotals& columns) {
  for_bits(bits, [&](int lane) {
    const float each = z[lane];
    const int64_t c = column + lane;
    if constexpr (kind == Kind::mil) {
      add_power(each, rows.positive[row], rows.positive_sum[row]);
      if (p.columns) add_power(each, columns.positive[c], columns.positive_sum[c]);
    } else if constexpr (kind != Kind::softplus && kind != Kind::margin) {
      rows.positive[row] += each;
      if (p.columns) columns.positive[c] += each;
    }
    if constexpr (kind != Kind::hinge && kind != Kind::maximum) {
      ++rows.count[row];
      if (p.columns) ++columns.count[c];
    }
  });
}

// Log-sum-exps, online (Milakov & Gimelshein 2018) in both directions: the peaks first, then the powers below them, one
// power a pair for its row and its column where the peaks are near.
template <Kind kind>
inline void reduce_exponential(const Problem& p, const Strip& strip, int64_t row_begin, int64_t rows, float* tile,
                               const Totals& totals, StripTotals& columns) {
  float row_peaks[block_rows], column_peaks[max_columns], shifts[max_columns], factors[max_columns];
  for (int64_t c = 0; c < strip.width && p.columns; c += lanes) store(column_peaks + c, load(columns.value + c));
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = row_begin + r;
    const float scale = p.x.scale[row];
    float* line = tile + r * stride;
    Floats peak = splat(totals.value[row]);
    for (int64_t c = 0; c < strip.width; c += lanes) {
      Floats z = logits(p, strip, scale, c, load(line + c));
      const Sorts sorts = sorts_of(p, strip, row, c);
      if (sorts.positive) add_positives<kind>(p, sorts.positive, z, row, c, totals, columns);
      z = select(sorts.visible, z, splat(-infinity));
      store(line + c, z);
      peak = larger(z, peak);
      if (p.columns) store(column_peaks + c, larger(z, load(column_peaks + c)));
    }
    row_peaks[r] = largest(peak);
  }
  Range range;
  for (int64_t r = 0; r < rows; ++r) range.add(row_peaks[r]);
  for (int64_t c = 0; c < strip.count && p.columns; ++c) range.add(column_peaks[c]);
  // Where few pairs are seen, a sum may be of one power, which is 1 and has to be: the loss is 0.
  const bool many = rows >= lanes && strip.count >= lanes && !p.x.groups;
  const bool shared = p.columns && many && range.narrow();
  const Floats tile_shift = splat(range.high);
  for (int64_t c = 0; c < strip.width && p.columns; c += lanes) {
    // Where nothing is visible yet, any finite reference gives powers of zero.
    const Floats peak = load(column_peaks + c), shift = peak == -infinity ? Floats{} : peak;
    store(columns.sum + c, load(columns.sum + c) * exponential(load(columns.value + c) - shift));
    store(columns.value + c, peak);
    store(shifts + c, shift);
    if (shared) store(factors + c, peak == -infinity ? Floats{} : exponential(tile_shift - shift));
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = row_begin + r;
    const float* line = tile + r * stride;
    const float peak = row_peaks[r], shift = peak == -infinity ? 0.0f : peak;
    Floats total{};
    if (shared) {
      for (int64_t c = 0; c < strip.width; c += lanes) {
        const Floats power = exponential(load(line + c) - tile_shift);
        total += power;
        store(columns.sum + c, load(columns.sum + c) + power * load(factors + c));
      }
      total *= exponential(tile_shift - shift);
    } else {
      for (int64_t c = 0; c < strip.width; c += lanes) {
        const Floats z = load(line + c);
        total += exponential(z - shift);
        if (p.columns) store(columns.sum + c, load(columns.sum + c) + exponential(z - load(shifts + c)));
      }
    }
    totals.sum[row] = totals.sum[row] * exponential(splat(totals.value[row] - shift))[0] + sum(total);
    totals.value[row] = peak;
  }
}

inline void reduce_softplus(const Problem& p, const Strip& strip, int64_t row_begin, int64_t rows, float* tile,
                            const Totals& totals, StripTotals& columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = row_begin + r;
    const float* line = tile + r * stride;
    Floats total{};
    for (int64_t c = 0; c < strip.width; c += lanes) {
      const Floats z = logits(p, strip, p.x.scale[row], c, load(line + c));
      const Sorts sorts = sorts_of(p, strip, row, c);
      if (sorts.positive) add_positives<Kind::softplus>(p, sorts.positive, z, row, c, totals, columns);
      const Floats term = select(sorts.visible, softplus(select(sorts.positive, -z, z)), Floats{});
      total += term;
      if (p.columns) store(columns.value + c, load(columns.value + c) + term);
    }
    totals.value[row] += sum(total);
  }
}

inline void reduce_hinge(const Problem& p, const Strip& strip, int64_t row_begin, int64_t rows, float* tile,
                         const Totals& totals, StripTotals& columns) {
  float offsets[max_columns];
  if (p.columns) strip.copy(p.y.offset, offsets);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = row_begin + r;
    const float* line = tile + r * stride;
    const float offset = p.x.offset[row];
    Floats total{};
    for (int64_t c = 0; c < strip.width; c += lanes) {
      const Floats z = logits(p, strip, p.x.scale[row], c, load(line + c));
      const Sorts sorts = sorts_of(p, strip, row, c);
      if (sorts.positive) add_positives<Kind::hinge>(p, sorts.positive, z, row, c, totals, columns);
      const uint32_t negative = sorts.visible & ~sorts.positive;
      const Floats over = z + offset;
      // The other way round, a NaN would be lost.
      total += select(negative, larger(Floats{}, over), Floats{});
      totals.count[row] += __builtin_popcount(negative & greater(over, Floats{}));
      if (!p.columns) continue;
      const Floats down = z + load(offsets + c);
      store(columns.value + c, load(columns.value + c) + select(negative, larger(Floats{}, down), Floats{}));
      for_bits(negative & greater(down, Floats{}), [&](int lane) { ++columns.count[c + lane]; });
    }
    totals.value[row] += sum(total);
  }
}

inline void reduce_margin(const Problem& p, const Strip& strip, int64_t row_begin, int64_t rows, float* tile,
                          const Totals& totals, StripTotals& columns) {
  float offsets[max_columns];
  if (p.columns) strip.copy(p.y.offset, offsets);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = row_begin + r;
    const float* line = tile + r * stride;
    Floats total{};
    for (int64_t c = 0; c < strip.width; c += lanes) {
      const Floats z = logits(p, strip, p.x.scale[row], c, load(line + c));
      const Sorts sorts = sorts_of(p, strip, row, c);
      if (sorts.positive) add_positives<Kind::margin>(p, sorts.positive, z, row, c, totals, columns);
      const Floats toward = select(sorts.positive, -z, z);
      total += select(sorts.visible, larger(Floats{}, toward + p.x.offset[row]), Floats{});
      if (!p.columns) continue;
      const Floats down = larger(Floats{}, toward + load(offsets + c));
      store(columns.value + c, load(columns.value + c) + select(sorts.visible, down, Floats{}));
    }
    totals.value[row] += sum(total);
  }
}

// Keeps the larger of two candidates, of equal ones the first; a NaN is the largest.
inline void keep_larger(float z, int64_t place, float& most, int64_t& most_place) {
  const bool first = place < most_place || most_place < 0;
  const bool wins = z > most || (z == most && first) || (z != z && (most == most || first));
  if (wins) most = z, most_place = place;
}

inline void reduce_maximum(const Problem& p, const Strip& strip, int64_t row_begin, int64_t rows, float* tile,
                           const Totals& totals, StripTotals& columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = row_begin + r;
    const float* line = tile + r * stride;
    for (int64_t c = 0; c < strip.width; c += lanes) {
      const Floats z = logits(p, strip, p.x.scale[row], c, load(line + c));
      const Sorts sorts = sorts_of(p, strip, row, c);
      if (sorts.positive) add_positives<Kind::maximum>(p, sorts.positive, z, row, c, totals, columns);
      const uint32_t negative = sorts.visible & ~sorts.positive;
      // Few get past these comparisons, which are "not less than", so that NaNs do.
      for_bits(negative & ~greater(splat(totals.value[row]), z),
               [&](int lane) { keep_larger(z[lane], strip.begin + c + lane, totals.value[row], totals.count[row]); });
      if (!p.columns) continue;
      for_bits(negative & ~greater(load(columns.value + c), z),
               [&](int lane) { keep_larger(z[lane], row, columns.value[c + lane], columns.count[c + lane]); });
    }
  }
}

inline void reduce(const Problem& p, const Strip& strip, int64_t row_begin, int64_t rows, float* tile,
                   const Totals& totals, StripTotals& columns) {
  switch (p.kind) {
    case Kind::logsumexp:
      return reduce_exponential<Kind::logsumexp>(p, strip, row_begin, rows, tile, totals, columns);
    case Kind::mil:
      return reduce_exponential<Kind::mil>(p, strip, row_begin, rows, tile, totals, columns);
    case Kind::softplus:
      return reduce_softplus(p, strip, row_begin, rows, tile, totals, columns);
    case Kind::hinge:
      return reduce_hinge(p, strip, row_begin, rows, tile, totals, columns);
    case Kind::maximum:
      return reduce_maximum(p, strip, row_begin, rows, tile, totals, columns);
    case Kind::margin:
      return reduce_margin(p, strip, row_begin, rows, tile, totals, columns);
  }
}

}  // namespace xmkern::XMKERN_CAPABILITY
