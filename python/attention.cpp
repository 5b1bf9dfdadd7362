#include "attention/attention.h"

#include <array>
#include <tuple>
#include <vector>

#include "module.h"

namespace py = pybind11;
namespace xmkern::attention {
namespace {

// Address, then strides of batch, head and row.
using OperandNumbers = std::array<int64_t, 4>;
// Address, then strides of batch, head, query and key.
using MaskNumbers = std::array<int64_t, 5>;
// Address, strides of batch, head, query and key, address of the buckets.
using BiasNumbers = std::array<int64_t, 6>;
// Keys, operands of key and value, mask program, its tensors, bias.
using SourceNumbers =
    std::tuple<int64_t, OperandNumbers, OperandNumbers, std::vector<int64_t>, std::vector<MaskNumbers>, BiasNumbers>;
// Batches, heads, key heads, queries, depth, value depth; dtype; scale; operands of query and out, address of lse;
// dropout's threshold, seed and scale of what is kept; sources.
using ProblemNumbers = std::tuple<std::array<int64_t, 6>, int, float, OperandNumbers, OperandNumbers, int64_t, uint32_t,
                                  uint64_t, float, std::vector<SourceNumbers>>;
// Operands of key and value, form of the bias's gradient; its address, strides of batch, head, query and key, length.
using SourceGradientNumbers = std::tuple<OperandNumbers, OperandNumbers, int, std::array<int64_t, 6>>;
// Operand of the output's gradient, address of that of lse, operand of query's; sources.
using GradientNumbers = std::tuple<OperandNumbers, int64_t, OperandNumbers, std::vector<SourceGradientNumbers>>;

Operand operand(const OperandNumbers& n) { return {at<void>(n[0]), n[1], n[2], n[3]}; }

// The problems of a call, and the memory that they point into besides its arguments.
struct Call {
  std::vector<Problem> problems;
  std::vector<std::vector<Source>> sources;
  std::vector<std::vector<MaskTensor>> tensors;

  explicit Call(const std::vector<ProblemNumbers>& numbers) {
    for (const auto& [shape, dtype, scale, query, out, lse, threshold, seed, kept_scale, given] : numbers) {
      const auto [batches, heads, key_heads, queries, depth, value_depth] = shape;
      Problem& problem = problems.emplace_back(Problem{batches,
                                                       heads,
                                                       key_heads,
                                                       queries,
                                                       depth,
                                                       value_depth,
                                                       static_cast<Dtype>(dtype),
                                                       scale,
                                                       operand(query),
                                                       operand(out),
                                                       at<float>(lse),
                                                       {threshold, seed, kept_scale}});
      std::vector<Source>& own = sources.emplace_back();
      for (const auto& [keys, key, value, program, mask_tensors, bias] : given) {
        std::vector<MaskTensor>& read = tensors.emplace_back();
        for (const auto& n : mask_tensors) read.push_back({at<void>(n[0]), n[1], n[2], n[3], n[4]});
        own.push_back({keys,
                       operand(key),
                       operand(value),
                       {program.data(), static_cast<int64_t>(program.size()), read.data()},
                       {at<float>(bias[0]), bias[1], bias[2], bias[3], bias[4], at<int32_t>(bias[5])}});
      }
      lay_out(problem, own.data(), static_cast<int64_t>(own.size()));
    }
  }
};

}  // namespace

void bind(py::module_& module) {
  py::module_ attention = module.def_submodule("attention");

  attention.def("forward", [](const std::vector<ProblemNumbers>& problems, int threads) {
    const Call call(problems);
    py::gil_scoped_release release;
    forward(call.problems.data(), static_cast<int64_t>(call.problems.size()), threads);
  });

  bind_at_once(attention);

  attention.def("backward", [](const std::vector<ProblemNumbers>& problems, const std::vector<GradientNumbers>& numbers,
                               int threads) {
    const Call call(problems);
    std::vector<Gradients> gradients;
    std::vector<std::vector<SourceGradients>> sources;
    for (const auto& [out, lse, query, given] : numbers) {
      std::vector<SourceGradients>& own = sources.emplace_back();
      for (const auto& [key, value, form, bias] : given) {
        const auto [data, batch, head, row, column, length] = bias;
        own.push_back({operand(key),
                       operand(value),
                       {static_cast<BiasForm>(form), at<float>(data), batch, head, row, column, length}});
      }
      gradients.push_back({operand(out), at<float>(lse), operand(query), own.data()});
    }
    py::gil_scoped_release release;
    backward(call.problems.data(), gradients.data(), static_cast<int64_t>(gradients.size()), threads);
  });
}

}  // namespace xmkern::attention
