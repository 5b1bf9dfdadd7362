// The CUDA extension. Functions take device addresses, sizes and a stream, queue the work and decide nothing.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

#include "hamming/hamming_cuda.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

}  // namespace

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
  module.doc() = "CUDA kernels of xmkern. Private: use xmkern.functional.";
  py::module_ hamming = module.def_submodule("hamming");
  hamming.attr("max_k") = xmkern_hamming_cuda_max_k;
  hamming.attr("max_bytes") = xmkern_hamming_cuda_max_bytes;
  hamming.def("spans", &xmkern_hamming_cuda_spans);

  hamming.def("distances",
              [](Address a, int64_t a_count, Address b, int64_t b_count, int64_t bytes, Address out, Address stream) {
                check(xmkern_hamming_cuda_distances(at<uint8_t>(a), a_count, at<uint8_t>(b), b_count, bytes,
                                                    at<int32_t>(out), at<CUstream_st>(stream)));
              });

  hamming.def("topk", [](Address queries, int64_t query_count, Address codes, int64_t code_count, int64_t bytes,
                         int64_t k, int64_t spans, Address found, Address distances, Address indices, Address stream) {
    check(xmkern_hamming_cuda_topk(at<uint8_t>(queries), query_count, at<uint8_t>(codes), code_count, bytes, k, spans,
                                   at<uint64_t>(found), at<int32_t>(distances), at<int64_t>(indices),
                                   at<CUstream_st>(stream)));
  });
}
