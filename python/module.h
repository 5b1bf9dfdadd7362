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

// Each adds its functions to the module; those of a family are in its namespace.
namespace xmkern {

void bind_tensor(pybind11::module_& module);

namespace attention {
void bind(pybind11::module_& module);
void bind_at_once(pybind11::module_& attention);
}  // namespace attention
namespace bi_attention {
void bind(pybind11::module_& module);
}
namespace contrastive {
void bind(pybind11::module_& module);
}
namespace damsm {
void bind(pybind11::module_& module);
}
namespace diffusion {
void bind(pybind11::module_& module);
}
namespace epilogue {
void bind(pybind11::module_& module);
}
namespace hamming {
void bind(pybind11::module_& module);
void bind_mih(pybind11::module_& module);
}  // namespace hamming
namespace late_interaction {
void bind(pybind11::module_& module);
}
namespace linear {
void bind(pybind11::module_& module);
}
namespace transport {
void bind(pybind11::module_& module);
}

}  // namespace xmkern
