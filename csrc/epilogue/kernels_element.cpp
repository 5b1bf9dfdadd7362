// Gates and activations, a piece of a row at a time. Compiled once per instruction set (see core/capability.h): no
// standard-library code in here.
#include "epilogue/functions.h"
#include "epilogue/rows.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using epilogue::BiasActivation;
using epilogue::BiasActivationGradients;
using epilogue::GatedResidual;
using epilogue::GatedResidualGradients;

// Columns at a time, so that what is between two passes over them is in the first-level cache.
constexpr int64_t piece = 1024;

template <class F>
inline void for_pieces(int64_t begin, int64_t end, int64_t columns, F&& f) {
  for (int64_t row = begin; row < end; ++row)
    for (int64_t c = 0; c < columns; c += piece) f(row, c, columns - c < piece ? columns - c : piece);
}

// What the gates of columns let through, and their slopes, in their place.
void open_gates(const GatedResidual& p, float* gates, float* slopes) {
  for (int64_t c = 0; c < p.columns; c += lanes) {
    const Curve opened = open(p.activation, load(gates + c));
    store(gates + c, opened.value), store(slopes + c, opened.slope);
  }
}

struct Gates {
  const float* bias;
  float *gates, *slopes, *pieces;

  Gates(const GatedResidual& p, float* memory) {
    const int64_t size = padded(p.columns);
    bias = widen(p.bias, p.columns, 0.0f, memory);
    gates = memory + size, slopes = gates + size, pieces = slopes + size;
    widen(p.gate, p.columns, 1.0f, gates);
    if (p.gate.data != nullptr) open_gates(p, gates, slopes);
  }
};

void gated_residual(const GatedResidual& p, int64_t begin, int64_t end, float* memory) {
  const Gates m(p, memory);
  const Pieces pieces(p.x, p.residual, p.out, p.gates);
  with_dtype(pieces.dtype, [&](auto dtype_of) {
    constexpr Dtype dtype = decltype(dtype_of)::value;
    for_pieces(begin, end, p.columns, [&](int64_t row, int64_t column, int64_t count) {
      const float *bias = m.bias + column, *gate = m.gates + column;
      float* copy = m.pieces;
      const void* x = pieces.fetch(p.x, row, column, count, copy);
      const void* residual = pieces.fetch(p.residual, row, column, count, copy + piece);
      const void* gates = pieces.fetch(p.gates, row, column, count, copy + 2 * piece);
      void* out = pieces.place(p.out, row, column, copy);
      const auto branch = [&](int64_t c, auto extent) { return load_numbers<dtype>(x, c, extent) + load(bias + c); };
      if (gates == nullptr)
        for_columns(count, [&](int64_t c, auto extent) {
          const Floats sum = load_numbers<dtype>(residual, c, extent) + branch(c, extent) * load(gate + c);
          store_numbers<dtype>(out, c, sum, extent, p.out.stream);
        });
      else
        for_columns(count, [&](int64_t c, auto extent) {
          const Floats opened = open(p.activation, load_numbers<dtype>(gates, c, extent)).value;
          const Floats sum = load_numbers<dtype>(residual, c, extent) + branch(c, extent) * opened;
          store_numbers<dtype>(out, c, sum, extent, p.out.stream);
        });
      pieces.put(p.out, row, column, count, copy);
    });
  });
}

void gated_residual_backward(const GatedResidual& p, const GatedResidualGradients& g, int64_t begin, int64_t end,
                             float* sums, float* memory) {
  const Gates m(p, memory);
  const Pieces pieces(p.x, p.gates, g.out, g.x, g.gates);
  float* of_gate = p.gate.data == nullptr ? nullptr : sums;
  float* of_bias = p.bias.data == nullptr ? nullptr : sums + (of_gate == nullptr ? 0 : padded(p.columns));
  with_dtype(pieces.dtype, [&](auto dtype_of) {
    constexpr Dtype dtype = decltype(dtype_of)::value;
    for_pieces(begin, end, p.columns, [&](int64_t row, int64_t column, int64_t count) {
      const float *bias = m.bias + column, *gate = m.gates + column;
      float* copy = m.pieces;
      const void* x = pieces.fetch(p.x, row, column, count, copy);
      const void* grad = pieces.fetch(g.out, row, column, count, copy + piece);
      const void* gates = pieces.fetch(p.gates, row, column, count, copy + 2 * piece);
      void* to_x = pieces.place(g.x, row, column, copy);
      const auto finish = [&](int64_t c, auto extent, Floats slope) {
        if (of_bias != nullptr) store(of_bias + column + c, load(of_bias + column + c) + slope);
        store_numbers<dtype>(to_x, c, slope, extent, g.x.stream);
      };
      if (gates == nullptr) {
        for_columns(count, [&](int64_t c, auto extent) {
          const Floats slope = load_numbers<dtype>(grad, c, extent);
          if (of_gate != nullptr) {
            const Floats branch = load_numbers<dtype>(x, c, extent) + load(bias + c);
            store(of_gate + column + c, load(of_gate + column + c) + branch * slope);
          }
          finish(c, extent, slope * load(gate + c));
        });
      } else {
        void* to_gates = pieces.place(g.gates, row, column, copy + piece);
        for_columns(count, [&](int64_t c, auto extent) {
          const Floats slope = load_numbers<dtype>(grad, c, extent);
          const Floats branch = load_numbers<dtype>(x, c, extent) + load(bias + c);
          const Curve opened = open(p.activation, load_numbers<dtype>(gates, c, extent));
          store_numbers<dtype>(to_gates, c, slope * branch * opened.slope, extent, g.gates.stream);
          finish(c, extent, slope * opened.value);
        });
        pieces.put(g.gates, row, column, count, copy + piece);
      }
      pieces.put(g.x, row, column, count, copy);
    });
  });
  if (of_gate != nullptr)
    for (int64_t c = 0; c < p.columns; c += lanes) store(of_gate + c, load(of_gate + c) * load(m.slopes + c));
}

// Calls f with the dtype and the activation as compile-time constants.
template <class F>
inline void specialised(const BiasActivation& p, F&& f) {
  with_dtype(p.x.dtype,
             [&](auto dtype) { with_activation(p.activation, [&](auto activation) { f(dtype, activation); }); });
}

void bias_activation(const BiasActivation& p, int64_t begin, int64_t end, float* memory) {
  const float* bias = widen(p.bias, p.columns * (p.gated ? 2 : 1), 0.0f, memory);
  specialised(p, [&](auto dtype_of, auto activation_of) {
    constexpr Dtype dtype = decltype(dtype_of)::value;
    constexpr Activation activation = decltype(activation_of)::value;
    for (int64_t row = begin; row < end; ++row) {
      const char *x = at(p.x, row), *gate = at(p.x, row, p.columns);
      char* out = at(p.out, row);
      if (p.gated)
        for_columns(p.columns, [&](int64_t c, auto extent) {
          const Floats opened = load_numbers<dtype>(gate, c, extent) + load(bias + p.columns + c);
          const Floats value = load_numbers<dtype>(x, c, extent) + load(bias + c);
          store_numbers<dtype>(out, c, value * curve<activation, false, dtype != Dtype::float32>(opened).value, extent,
                               p.out.stream);
        });
      else
        for_columns(p.columns, [&](int64_t c, auto extent) {
          const Floats value = load_numbers<dtype>(x, c, extent) + load(bias + c);
          store_numbers<dtype>(out, c, curve<activation, false, dtype != Dtype::float32>(value).value, extent,
                               p.out.stream);
        });
    }
  });
}

void bias_activation_backward(const BiasActivation& p, const BiasActivationGradients& g, int64_t begin, int64_t end,
                              float* sums, float* memory) {
  const float* bias = widen(p.bias, p.columns * (p.gated ? 2 : 1), 0.0f, memory);
  const bool summed = p.bias.data != nullptr;
  const auto add = [&](int64_t c, Floats x) {
    if (summed) store(sums + c, load(sums + c) + x);
  };
  specialised(p, [&](auto dtype_of, auto activation_of) {
    constexpr Dtype dtype = decltype(dtype_of)::value;
    constexpr Activation activation = decltype(activation_of)::value;
    for (int64_t row = begin; row < end; ++row) {
      const char *x = at(p.x, row), *gate = at(p.x, row, p.columns), *grad = at(g.out, row);
      char *of_x = at(g.x, row), *of_gate = at(g.x, row, p.columns);
      if (p.gated)
        for_columns(p.columns, [&](int64_t c, auto extent) {
          const Floats slope = load_numbers<dtype>(grad, c, extent);
          const Curve opened =
              curve<activation, true>(load_numbers<dtype>(gate, c, extent) + load(bias + p.columns + c));
          const Floats value = load_numbers<dtype>(x, c, extent) + load(bias + c);
          const Floats to_value = slope * opened.value, to_gate = slope * value * opened.slope;
          add(c, to_value), add(padded(p.columns) + c, to_gate);
          store_numbers<dtype>(of_x, c, to_value, extent, g.x.stream);
          store_numbers<dtype>(of_gate, c, to_gate, extent, g.x.stream);
        });
      else
        for_columns(p.columns, [&](int64_t c, auto extent) {
          const Floats value = load_numbers<dtype>(x, c, extent) + load(bias + c);
          const Floats to_value = load_numbers<dtype>(grad, c, extent) * curve<activation, true>(value).slope;
          add(c, to_value);
          store_numbers<dtype>(of_x, c, to_value, extent, g.x.stream);
        });
    }
  });
}

void add(const float* arrays, int64_t count, int64_t stride, int64_t size, float* out) {
  write({out, 0, Dtype::float32}, 0, 0, size, [&](int64_t c) {
    Floats total{};
    for (int64_t i = 0; i < count; ++i) total += load(arrays + i * stride + c);
    return total;
  });
}

}  // namespace

extern const epilogue::ElementKernel epilogue_element;
const epilogue::ElementKernel epilogue_element = {gated_residual, gated_residual_backward, bias_activation,
                                                  bias_activation_backward, add};

}  // namespace xmkern::XMKERN_CAPABILITY
