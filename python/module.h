#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>

using Address = std::uintptr_t;

// What lies at an address among other numbers.
template <class T>
inline T* at(std::int64_t address) {
  return reinterpret_cast<T*>(static_cast<Address>(address));
}

void bind_attention(pybind11::module_& module);
void bind_attention_at_once(pybind11::module_& attention);
void bind_bi_attention(pybind11::module_& module);
void bind_contrastive(pybind11::module_& module);
void bind_damsm(pybind11::module_& module);
void bind_diffusion(pybind11::module_& module);
void bind_epilogue(pybind11::module_& module);
void bind_hamming(pybind11::module_& module);
void bind_late_interaction(pybind11::module_& module);
void bind_linear(pybind11::module_& module);
void bind_mih(pybind11::module_& module);
void bind_tensor(pybind11::module_& module);
void bind_transport(pybind11::module_& module);
