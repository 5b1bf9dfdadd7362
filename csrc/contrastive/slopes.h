// How the reductions change with each logit of a tile, backward. For kernel sources (see core/capability.h).
#pragma once

#include "contrastive/elements.h"

namespace xmkern::XMKERN_CAPABILITY {

using contrastive::Gradients;
using contrastive::Kind;
using contrastive::Slopes;

// The slopes of a strip's columns while it is worked on, padded to whole vectors.
struct StripSlopes {
  float value[max_columns], positive[max_columns], grad_value[max_columns], grad_positive[max_columns];
  float offset[max_columns], grad_scale[max_columns];
  float weight[max_columns];  // of a tile whose powers share one shift

  StripSlopes(const Problem& p, const Strip& strip, const Slopes& from) {
    for (int64_t c = 0; c < strip.width; c += lanes) xmkern::XMKERN_CAPABILITY::store(grad_scale + c, Floats{});
    if (!p.columns) return;
    strip.copy(from.value, value);
    strip.copy(from.positive, positive);
    strip.copy(from.grad_value, grad_value);
    strip.copy(from.grad_positive, grad_positive);
    strip.copy(p.y.offset, offset);
  }

  void store(const Strip& strip, const Slopes& to) const {
    for (int64_t c = 0; c < strip.count; ++c) to.grad_scale[strip.begin + c] += grad_scale[c];
  }
};

// The same of a row.
struct RowSlopes {
  float value, positive, grad_value, grad_positive, offset;

  RowSlopes(const Problem& p, const Slopes& from, int64_t row)
      : value(from.value[row]),
        positive(from.positive[row]),
        grad_value(from.grad_value[row]),
        grad_positive(from.grad_positive[row]),
        offset(p.x.offset ? p.x.offset[row] : 0.0f) {}
};

inline constexpr bool exponential_kind(Kind kind) { return kind == Kind::logsumexp || kind == Kind::mil; }

// One shift for all powers of a tile, with the weights of its columns to match: exp(z - value) of row and column, times
// their gradients, are then one power times the sum of two weights.
struct SharedShift {
  bool possible = false;
  float shift = 0.0f;

  template <Kind kind>
  static SharedShift of(const Problem& p, const Slopes& from, const Strip& strip, int64_t row_begin, int64_t rows,
                        StripSlopes& columns) {
    if (!exponential_kind(kind) || !p.columns) return {};
    Range range;
    for (int64_t r = row_begin; r < row_begin + rows; ++r) range.add(from.value[r]);
    for (int64_t c = 0; c < strip.count; ++c) range.add(columns.value[c]);
    if (!range.narrow()) return {};
    const SharedShift shared{true, range.low + (range.high - range.low) * 0.5f};
    for (int64_t c = 0; c < strip.width; c += lanes)
      store(columns.weight + c, shared.weight(load(columns.value + c), load(columns.grad_value + c)));
    return shared;
  }

  Floats weight(Floats value, Floats grad) const {
    return value == -infinity ? Floats{} : grad * exponential(shift - value);
  }
};

// Of `lanes` pairs: the slopes of the row's reduction and, with `columns`, of the columns', each times its gradient.
template <Kind kind>
inline Floats slopes_of(const RowSlopes& row, const StripSlopes& strip, int64_t c, bool columns, Sorts sorts,
                        const SharedShift& shared, Floats row_weight, Floats z) {
  const Floats push = splat(row.grad_value);
  if constexpr (kind == Kind::softplus) {
    const Floats both = columns ? push + load(strip.grad_value + c) : push;
    const Floats weight = both * sigmoid(select(sorts.positive, -z, z));
    return select(sorts.positive, -weight, weight);
  } else if constexpr (kind == Kind::margin) {
    const Floats toward = select(sorts.positive, -z, z);
    Floats slopes = select(greater(toward + row.offset, Floats{}), push, Floats{});
    if (columns)
      slopes += select(greater(toward + load(strip.offset + c), Floats{}), load(strip.grad_value + c), Floats{});
    return select(sorts.positive, -slopes, slopes);
  } else if constexpr (kind == Kind::hinge) {
    Floats slopes = select(greater(z + row.offset, Floats{}), push, Floats{});
    Floats pull = splat(row.grad_positive);
    if (columns) {
      slopes += select(greater(z + load(strip.offset + c), Floats{}), load(strip.grad_value + c), Floats{});
      pull += load(strip.grad_positive + c);
    }
    return select(sorts.positive, pull, slopes);
  } else {
    Floats slopes;
    if (shared.possible) {
      slopes = exponential(z - shared.shift) * (row_weight + load(strip.weight + c));
    } else {
      slopes = push * exponential(z - row.value);
      if (columns) slopes += load(strip.grad_value + c) * exponential(z - load(strip.value + c));
    }
    if (!sorts.positive) return slopes;
    Floats pull = splat(row.grad_positive);
    if constexpr (kind == Kind::mil) pull *= exponential(z - row.positive);
    if (columns) {
      Floats column_pull = load(strip.grad_positive + c);
      if constexpr (kind == Kind::mil) column_pull *= exponential(z - load(strip.positive + c));
      pull += column_pull;
    }
    return slopes + select(sorts.positive, pull, Floats{});
  }
}

// A tile of products to gradients of products; adds to the gradients of scales and bias.
template <Kind kind>
inline void differentiate(const Problem& p, const Gradients& g, const Strip& strip, int64_t row_begin, int64_t rows,
                          float* tile, StripSlopes& columns) {
  ColumnSums grad_scales(strip);
  const auto shared = SharedShift::of<kind>(p, g.rows, strip, row_begin, rows, columns);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = row_begin + r;
    const RowSlopes own(p, g.rows, row);
    const float scale = p.x.scale[row];
    float* line = tile + r * stride;
    const Floats row_weight = shared.weight(splat(own.value), splat(own.grad_value));
    Floats grad_scale{}, grad_bias{};
    for (int64_t c = 0; c < strip.width; c += lanes) {
      const Floats products = load(line + c), column_scale = load(strip.scale + c);
      const Sorts sorts = sorts_of(p, strip, row, c);
      const Floats z = logits(p, strip, scale, c, products);
      const Floats grad =
          select(sorts.visible, slopes_of<kind>(own, columns, c, p.columns, sorts, shared, row_weight, z), Floats{});
      grad_bias += grad;
      const Floats down = grad * column_scale;
      grad_scale += down * products;
      grad_scales.add(c, grad * scale * products);
      store(line + c, down * scale);
    }
    g.rows.grad_scale[row] += sum(grad_scale);
    g.bias[row] += sum(grad_bias);
  }
  grad_scales.add_to(columns.grad_scale, strip);
}

inline void differentiate(const Problem& p, const Gradients& g, const Strip& strip, int64_t row_begin, int64_t rows,
                          float* tile, StripSlopes& columns) {
  switch (p.kind) {
    case Kind::logsumexp:
      return differentiate<Kind::logsumexp>(p, g, strip, row_begin, rows, tile, columns);
    case Kind::mil:
      return differentiate<Kind::mil>(p, g, strip, row_begin, rows, tile, columns);
    case Kind::softplus:
      return differentiate<Kind::softplus>(p, g, strip, row_begin, rows, tile, columns);
    case Kind::hinge:
      return differentiate<Kind::hinge>(p, g, strip, row_begin, rows, tile, columns);
    case Kind::margin:
      return differentiate<Kind::margin>(p, g, strip, row_begin, rows, tile, columns);
    case Kind::maximum:  // has none
      return;
  }
}

// Gradients as left operands of both products: units along the rows, and, in their place, rows of units. In float32 a
// tile is both.
inline const float* transposed_units(const float* tile, int64_t, int64_t, float*) { return tile; }

#if defined(__AVX512BF16__)
inline const uint32_t* transposed_units(const float* tile, int64_t rows, int64_t columns, uint32_t* out) {
  alignas(64) static constexpr float nothing[max_columns] = {};
  for (int64_t r = 0; r < rows; r += 2) {
    const float* line = tile + r * stride;
    interleave(line, r + 1 < rows ? line + stride : nothing, columns, out + r / 2 * stride);
  }
  return out;
}
#endif

template <class Unit>
inline const Unit* units_in_place(float* tile, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) narrow(tile + r * stride, columns, reinterpret_cast<Unit*>(tile + r * stride));
  return reinterpret_cast<const Unit*>(tile);
}

}  // namespace xmkern::XMKERN_CAPABILITY
