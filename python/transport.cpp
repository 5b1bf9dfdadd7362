#include "transport/transport.h"

#include <array>

#include "module.h"

namespace py = pybind11;
namespace xmkern::transport {

void bind(py::module_& module) {
  py::module_ transport = module.def_submodule("transport");

  transport.def("plan", [](const std::array<int64_t, 3>& shape, Address cost, const std::array<int64_t, 2>& strides,
                           Address row_mask, Address column_mask, Address out, float beta, int64_t iterations,
                           int64_t inner, int threads) {
    const Problem problem = {shape[0],
                             shape[1],
                             shape[2],
                             reinterpret_cast<const float*>(cost),
                             strides[0],
                             strides[1],
                             reinterpret_cast<const uint8_t*>(row_mask),
                             reinterpret_cast<const uint8_t*>(column_mask),
                             reinterpret_cast<float*>(out),
                             beta,
                             iterations,
                             inner};
    py::gil_scoped_release release;
    plan(problem, threads);
  });
}

}  // namespace xmkern::transport
