#include "attention/attention.h"

#include <array>
#include <stdexcept>
#include <vector>

#include "module.h"

namespace py = pybind11;
using namespace xmkern::attention;

namespace {

// Address, then strides of batch, head and row.
using OperandNumbers = std::array<int64_t, 4>;
// Address, then strides of batch, head, query and key.
using MaskNumbers = std::array<int64_t, 5>;
// Address, strides of batch, head, query and key, address of the buckets.
using BiasNumbers = std::array<int64_t, 6>;

template <class T>
T* at(int64_t address) {
  return reinterpret_cast<T*>(static_cast<Address>(address));
}

Operand operand(const OperandNumbers& n) { return {at<void>(n[0]), n[1], n[2], n[3]}; }

// The arguments of a call, and the memory that a Problem points into.
struct Call {
  Problem problem;
  std::vector<int64_t> program;
  std::vector<MaskTensor> tensors;

  Call(const std::array<int64_t, 7>& shape, int dtype, float scale, const OperandNumbers& query,
       const OperandNumbers& key, const OperandNumbers& value, const OperandNumbers& out, int64_t lse,
       std::vector<int64_t> mask, const std::vector<MaskNumbers>& mask_tensors, const BiasNumbers& bias,
       uint32_t threshold, uint64_t seed, float kept_scale)
      : program(std::move(mask)) {
    for (const auto& n : mask_tensors) tensors.push_back({at<void>(n[0]), n[1], n[2], n[3], n[4]});
    const auto [batches, heads, key_heads, queries, keys, depth, value_depth] = shape;
    problem = {batches,
               heads,
               key_heads,
               queries,
               keys,
               depth,
               value_depth,
               static_cast<xmkern::Dtype>(dtype),
               scale,
               operand(query),
               operand(key),
               operand(value),
               operand(out),
               at<float>(lse),
               {program.data(), static_cast<int64_t>(program.size()), tensors.data()},
               {at<float>(bias[0]), bias[1], bias[2], bias[3], bias[4], at<int32_t>(bias[5])},
               {threshold, seed, kept_scale}};
  }
};

}  // namespace

void bind_attention(py::module_& module) {
  py::module_ attention = module.def_submodule("attention");

  attention.def("forward",
                [](const std::array<int64_t, 7>& shape, int dtype, float scale, const OperandNumbers& query,
                   const OperandNumbers& key, const OperandNumbers& value, const OperandNumbers& out, int64_t lse,
                   std::vector<int64_t> mask, const std::vector<MaskNumbers>& mask_tensors, const BiasNumbers& bias,
                   uint32_t threshold, uint64_t seed, float kept_scale, int threads) {
                  const Call call(shape, dtype, scale, query, key, value, out, lse, std::move(mask), mask_tensors, bias,
                                  threshold, seed, kept_scale);
                  py::gil_scoped_release release;
                  forward(call.problem, threads);
                });

  attention.def("backward", [](const std::array<int64_t, 7>& shape, int dtype, float scale, const OperandNumbers& query,
                               const OperandNumbers& key, const OperandNumbers& value, const OperandNumbers& out,
                               int64_t lse, std::vector<int64_t> mask, const std::vector<MaskNumbers>& mask_tensors,
                               const BiasNumbers& bias, uint32_t threshold, uint64_t seed, float kept_scale,
                               const OperandNumbers& grad_out, int64_t grad_lse, const OperandNumbers& grad_query,
                               const OperandNumbers& grad_key, const OperandNumbers& grad_value, int bias_form,
                               const std::array<int64_t, 6>& grad_bias, int threads) {
    const Call call(shape, dtype, scale, query, key, value, out, lse, std::move(mask), mask_tensors, bias, threshold,
                    seed, kept_scale);
    const auto [data, batch, head, row, column, length] = grad_bias;
    const Gradients gradients = {
        operand(grad_out),   at<float>(grad_lse),
        operand(grad_query), operand(grad_key),
        operand(grad_value), {static_cast<BiasForm>(bias_form), at<float>(data), batch, head, row, column, length}};
    py::gil_scoped_release release;
    backward(call.problem, gradients, threads);
  });
}
