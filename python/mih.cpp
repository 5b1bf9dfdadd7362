#include "hamming/mih.h"

#include "codes.h"

namespace py = pybind11;
namespace xmkern::hamming {

void bind_mih(py::module_& module) {
  py::module_ hamming = module.attr("hamming");
  py::class_<Mih>(hamming, "Mih")
      .def(py::init([](Address codes, int64_t count, int64_t bytes, int bits, int threads) {
        py::gil_scoped_release release;
        return std::make_unique<Mih>(codes_at(codes, count, bytes), bits, threads);
      }))
      .def("__len__", &Mih::count)
      .def("memory", &Mih::memory)
      .def("topk",
           [](const Mih& mih, Address queries, int64_t query_count, Address codes, int64_t code_count, int64_t bytes,
              int64_t k, Address distances, Address indices, double patience, int threads) {
             py::gil_scoped_release release;
             mih.topk(codes_at(queries, query_count, bytes), codes_at(codes, code_count, bytes), k,
                      reinterpret_cast<int32_t*>(distances), reinterpret_cast<int64_t*>(indices), patience, threads);
           })
      // Returns lims [Q + 1], distances and indices as numpy arrays.
      .def("range", [](const Mih& mih, Address queries, int64_t query_count, Address codes, int64_t code_count,
                       int64_t bytes, int32_t radius, double patience, int threads) {
        std::vector<int64_t> lims;
        Neighbours found;
        {
          py::gil_scoped_release release;
          lims = mih.range(codes_at(queries, query_count, bytes), codes_at(codes, code_count, bytes), radius, found,
                           patience, threads);
        }
        return py::make_tuple(as_array(std::move(lims)), as_array(std::move(found.distances)),
                              as_array(std::move(found.indices)));
      });
}

}  // namespace xmkern::hamming
