#include "hamming/hamming.h"

#include "codes.h"

namespace py = pybind11;
namespace xmkern::hamming {

void bind(py::module_& module) {
  py::module_ hamming = module.def_submodule("hamming");

  hamming.def(
      "distances", [](Address a, int64_t a_count, Address b, int64_t b_count, int64_t bytes, Address out, int threads) {
        py::gil_scoped_release release;
        distances(codes_at(a, a_count, bytes), codes_at(b, b_count, bytes), reinterpret_cast<int32_t*>(out), threads);
      });

  hamming.def("topk", [](Address queries, int64_t query_count, Address codes, int64_t code_count, int64_t bytes,
                         int64_t k, Address distances, Address indices, int threads) {
    py::gil_scoped_release release;
    topk(codes_at(queries, query_count, bytes), codes_at(codes, code_count, bytes), k,
         reinterpret_cast<int32_t*>(distances), reinterpret_cast<int64_t*>(indices), threads);
  });

  // Returns lims [Q + 1], distances and indices as numpy arrays: only the search knows how many there are.
  hamming.def("range", [](Address queries, int64_t query_count, Address codes, int64_t code_count, int64_t bytes,
                          int32_t radius, int threads) {
    std::vector<int64_t> lims;
    Neighbours found;
    {
      py::gil_scoped_release release;
      lims = range(codes_at(queries, query_count, bytes), codes_at(codes, code_count, bytes), radius, found, threads);
    }
    return py::make_tuple(as_array(std::move(lims)), as_array(std::move(found.distances)),
                          as_array(std::move(found.indices)));
  });

  hamming.def("pack", [](Address flags, int64_t rows, int64_t bits, Address out, int threads) {
    py::gil_scoped_release release;
    pack(reinterpret_cast<const uint8_t*>(flags), rows, bits, reinterpret_cast<uint8_t*>(out), threads);
  });
}

}  // namespace xmkern::hamming
