// The extension module: one submodule a family. Functions take addresses and sizes, drop the GIL and decide nothing.
#include "module.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "core/capability.h"
#include "core/pages.h"

namespace py = pybind11;

namespace {

std::vector<std::string> capabilities() {
  std::vector<std::string> names;
  for (int level = 0; level <= static_cast<int>(xmkern::detected_capability()); ++level)
    names.emplace_back(xmkern::capability_name(static_cast<xmkern::Capability>(level)));
  return names;
}

void set_capability(const std::string& name) {
  for (int level = 0; level < xmkern::capability_count; ++level) {
    const auto capability = static_cast<xmkern::Capability>(level);
    if (name != xmkern::capability_name(capability)) continue;
    if (xmkern::set_current_capability(capability)) return;
    throw std::invalid_argument("this processor lacks the capability '" + name + "'");
  }
  throw std::invalid_argument("no CPU capability is named '" + name + "'");
}

}  // namespace

PYBIND11_MODULE(_native, module, py::mod_gil_not_used()) {
  module.doc() = "Native kernels of xmkern. Private: use xmkern.functional.";
  module.def("capabilities", &capabilities, "The CPU capabilities that this processor has, lowest first.");
  module.def("capability", [] { return xmkern::capability_name(xmkern::current_capability()); });
  module.def("set_capability", &set_capability);
  module.def("made_by_intel", &xmkern::made_by_intel);
  module.def("ask_for_huge_pages", &xmkern::ask_for_huge_pages);
  xmkern::attention::bind(module);
  xmkern::bi_attention::bind(module);
  xmkern::contrastive::bind(module);
  xmkern::damsm::bind(module);
  xmkern::diffusion::bind(module);
  xmkern::epilogue::bind(module);
  xmkern::hamming::bind(module);
  xmkern::hamming::bind_mih(module);
  xmkern::late_interaction::bind(module);
  xmkern::linear::bind(module);
  xmkern::transport::bind(module);
  xmkern::bind_tensor(module);
}
