// Tensors of torch, read without its headers: by the table of C functions that DLPack defines and torch has from 2.10
// on. To ask a tensor for its address, shape, strides, dtype and device by Python takes longer than a small kernel.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>

#include "core/dtype.h"

namespace xmkern {

// The first three are those of Dtype.
enum class Element : int { float32, bfloat16, float16, float64, int32, int64, boolean };

struct Strided {
  void* data;
  int axes;
  const std::int64_t *shape, *strides;  // in elements
  std::int64_t elements;
  Element element;

  bool computes() const { return element <= Element::float16; }  // of a dtype that kernels take
  Dtype dtype() const { return static_cast<Dtype>(element); }
  std::int64_t bytes() const { return elements * size_of(dtype()); }
};

// A tensor whose elements lie one after the other.
struct Dense : Strided {};

bool is_dense(const Strided& x);

// Whether x is an ordinary tensor: of torch.Tensor itself or a Parameter, on the CPU, not empty, of one of these
// elements. If not, the caller leaves the call to Python, which can do with it or say what is wrong.
bool read(pybind11::handle x, Strided& out);
bool read(pybind11::handle x, Dense& out);

// The same, and of a dtype that kernels take.
bool read_operand(pybind11::handle x, Dense& out);

// The same, and of the dtype and shape of another.
bool read_like(pybind11::handle x, const Dense& like, Dense& out);

// Whether one of these, each a tensor or None, requires a gradient.
bool ask_gradients(std::initializer_list<pybind11::handle> tensors);
bool ask_gradients(const pybind11::tuple& tensors);

bool same_shape(const Dense& a, const Dense& b);

// An integer of at least so much.
bool read_integer(pybind11::handle x, std::int64_t least, std::int64_t& out);

// Memory for a tensor like x, which is an ordinary one, or of its dtype and another shape.
pybind11::object empty_like(pybind11::handle x);
pybind11::object empty(pybind11::handle x, std::initializer_list<std::int64_t> shape);
pybind11::object empty(pybind11::handle x, const std::int64_t* shape, int axes);

// Memory for float32 on the CPU; of one number at least, it has an address.
pybind11::object empty_floats(std::initializer_list<std::int64_t> shape, float*& data);

}  // namespace xmkern
