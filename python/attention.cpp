#include "attention/attention.h"

#include <array>
#include <cmath>
#include <tuple>
#include <vector>

#include "module.h"
#include "tensor.h"

namespace py = pybind11;
using namespace xmkern::attention;

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
                                                       static_cast<xmkern::Dtype>(dtype),
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

// [batch, head, row, column] of the elements of another, the last axis dense and not too long for the kernels.
bool read_heads(py::handle given, bool gradients, xmkern::Strided& x, Operand& out) {
  constexpr int64_t most = 256;
  if (!xmkern::read(given, gradients, x) || !x.computes() || x.axes != 4) return false;
  if (x.strides[3] != 1 || x.shape[3] > most) return false;
  out = {x.data, x.strides[0], x.strides[1], x.strides[2]};
  return true;
}

// Memory for the result, by the rule of xmkern/ops/attention/layout.py.
py::object empty_like_query(py::handle query, const xmkern::Strided& q, int64_t depth) {
  const int64_t heads_inside = q.strides[1] < q.strides[2];
  const int64_t *shape = q.shape, *strides = q.strides;
  const bool dense = strides[0] == shape[1] * shape[2] * shape[3] &&
                     (heads_inside ? strides[1] == shape[3] && strides[2] == shape[1] * shape[3]
                                   : strides[2] == shape[3] && strides[1] == shape[2] * shape[3]);
  if (dense && depth == shape[3]) return xmkern::empty_like(query);
  if (heads_inside) return xmkern::empty(query, {shape[0], shape[2], shape[1], depth}).attr("transpose")(1, 2);
  return xmkern::empty(query, {shape[0], shape[1], shape[2], depth});
}

// Lengths [B], ids [B, L] or flags [B, H, L, S] of a mask that fits; an axis of one is one that does not vary.
bool read_mask(py::handle given, MaskTensor& out) {
  xmkern::Strided x;
  if (!xmkern::read(given, false, x)) return false;
  if (x.element != xmkern::Element::int64 && x.element != xmkern::Element::boolean) return false;
  const auto stride = [&](int axis) { return x.shape[axis] == 1 ? 0 : x.strides[axis]; };
  out = {x.data, stride(0), 0, 0, 0};
  if (x.axes == 2) out.query = out.key = stride(1);  // for queries and keys alike: each reads along its own axis
  if (x.axes == 4) out.head = stride(1), out.query = stride(2), out.key = stride(3);
  return x.axes == 1 || x.axes == 2 || x.axes == 4;
}

// Attention of ordinary tensors (tensor.h) -> its output; None where anything is not as it mostly is. The mask fits.
py::object at_once(py::handle query, py::handle key, py::handle value, const std::vector<int64_t>& mask,
                   const py::tuple& mask_tensors, py::handle scale, bool gradients, int threads) {
  const py::object no = py::none();
  xmkern::Strided q, k, v, o;
  Problem p{};
  Source source{};
  if (!read_heads(query, gradients, q, p.query) || !read_heads(key, gradients, k, source.key)) return no;
  if (!read_heads(value, gradients, v, source.value) || k.element != q.element || v.element != q.element) return no;
  p.batches = q.shape[0], p.heads = q.shape[1], p.queries = q.shape[2], p.depth = q.shape[3];
  p.key_heads = k.shape[1], p.value_depth = v.shape[3], p.dtype = q.dtype(), source.keys = k.shape[2];
  if (k.shape[0] != p.batches || v.shape[0] != p.batches || p.heads % p.key_heads != 0) return no;
  if (v.shape[1] != p.key_heads || v.shape[2] != source.keys || k.shape[3] != p.depth) return no;
  if (scale.is_none()) {
    p.scale = static_cast<float>(std::pow(static_cast<double>(p.depth), -0.5));
  } else {
    if (!PyFloat_CheckExact(scale.ptr())) return no;
    p.scale = static_cast<float>(PyFloat_AS_DOUBLE(scale.ptr()));
  }
  const int64_t rows = p.batches * p.heads * p.queries;
  if (rows * p.value_depth * xmkern::size_of(p.dtype) >= xmkern::large) return no;
  const py::object out = empty_like_query(query, q, p.value_depth);
  if (!read_heads(out, gradients, o, p.out)) return no;
  p.dropout.kept_scale = 1;
  std::vector<MaskTensor> tensors(mask_tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i)
    if (!read_mask(mask_tensors[i], tensors[i])) return no;
  source.mask = {mask.data(), static_cast<int64_t>(mask.size()), tensors.data()};
  {
    py::gil_scoped_release release;
    std::vector<float> lse(static_cast<size_t>(rows));
    p.lse = lse.data();
    lay_out(p, &source, 1);
    forward(&p, 1, threads);
  }
  return out;
}

}  // namespace

void bind_attention(py::module_& module) {
  py::module_ attention = module.def_submodule("attention");

  attention.def("forward", [](const std::vector<ProblemNumbers>& problems, int threads) {
    const Call call(problems);
    py::gil_scoped_release release;
    forward(call.problems.data(), static_cast<int64_t>(call.problems.size()), threads);
  });

  attention.def("at_once", &at_once);

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
