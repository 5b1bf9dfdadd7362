// What the bindings of Hamming search share.
#pragma once

#include <pybind11/numpy.h>

#include <utility>
#include <vector>

#include "hamming/hamming.h"
#include "module.h"

inline xmkern::hamming::Codes codes_at(Address data, int64_t count, int64_t bytes) {
  return {reinterpret_cast<const uint8_t*>(data), count, bytes};
}

// Hands the vector's memory to numpy, without a copy.
template <class T>
pybind11::array_t<T> as_array(std::vector<T>&& values) {
  auto* owned = new std::vector<T>(std::move(values));
  pybind11::capsule owner(owned, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return pybind11::array_t<T>(static_cast<pybind11::ssize_t>(owned->size()), owned->data(), owner);
}
