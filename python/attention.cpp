#include "attention/attention.h"

#include <algorithm>
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

// [batch, head, row, column], the last axis dense and not too long for the kernels.
bool read_heads(py::handle given, xmkern::Strided& x, Operand& out) {
  constexpr int64_t most = 256;
  if (!xmkern::read(given, x) || !x.computes() || x.axes != 4 || x.strides[3] != 1 || x.shape[3] > most) return false;
  out = {x.data, x.strides[0], x.strides[1], x.strides[2]};
  return true;
}

// Memory for a result or a gradient, by the rule of xmkern/ops/attention/layout.py.
bool make_heads(py::handle like, const xmkern::Strided& x, int64_t depth, py::object& made, Operand& out) {
  const int64_t *shape = x.shape, *strides = x.strides;
  const bool heads_inside = strides[1] < strides[2];
  const bool dense = strides[0] == shape[1] * shape[2] * shape[3] &&
                     (heads_inside ? strides[1] == shape[3] && strides[2] == shape[1] * shape[3]
                                   : strides[2] == shape[3] && strides[1] == shape[2] * shape[3]);
  if (dense && depth == shape[3]) {
    made = xmkern::empty_like(like);
  } else if (heads_inside) {
    made = xmkern::empty(like, {shape[0], shape[2], shape[1], depth}).attr("transpose")(1, 2);
  } else {
    made = xmkern::empty(like, {shape[0], shape[1], shape[2], depth});
  }
  xmkern::Strided read_back;
  return read_heads(made, read_back, out);
}

// Lengths [B], ids [B, L] or flags [B, H, L, S] of a mask that fits; an axis of one is one that does not vary.
bool read_mask(py::handle given, MaskTensor& out) {
  xmkern::Strided x;
  if (!xmkern::read(given, x)) return false;
  if (x.element != xmkern::Element::int64 && x.element != xmkern::Element::boolean) return false;
  const auto stride = [&](int axis) { return x.shape[axis] == 1 ? 0 : x.strides[axis]; };
  out = {x.data, stride(0), 0, 0, 0};
  if (x.axes == 2) out.query = out.key = stride(1);  // for queries and keys alike: each reads along its own axis
  if (x.axes == 4) out.head = stride(1), out.query = stride(2), out.key = stride(3);
  return x.axes == 1 || x.axes == 2 || x.axes == 4;
}

// A problem of ordinary tensors (tensor.h), and what it points into. The mask fits.
struct Ordinary {
  xmkern::Strided q, k, v;
  Problem problem{};
  Source source{};
  std::vector<MaskTensor> tensors;

  bool begin(py::handle query, py::handle key, py::handle value, const std::vector<int64_t>& mask,
             const py::tuple& mask_tensors, py::handle scale) {
    Problem& p = problem;
    if (!read_heads(query, q, p.query) || !read_heads(key, k, source.key) || !read_heads(value, v, source.value))
      return false;
    if (k.element != q.element || v.element != q.element) return false;
    p.batches = q.shape[0], p.heads = q.shape[1], p.queries = q.shape[2], p.depth = q.shape[3];
    p.key_heads = k.shape[1], p.value_depth = v.shape[3], p.dtype = q.dtype(), source.keys = k.shape[2];
    if (k.shape[0] != p.batches || v.shape[0] != p.batches || p.heads % p.key_heads != 0) return false;
    if (v.shape[1] != p.key_heads || v.shape[2] != source.keys || k.shape[3] != p.depth) return false;
    if (std::max({q.bytes(), k.bytes(), v.bytes(), rows() * p.value_depth * xmkern::size_of(p.dtype)}) >= xmkern::large)
      return false;
    tensors.resize(mask_tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i)
      if (!read_mask(mask_tensors[i], tensors[i])) return false;
    source.mask = {mask.data(), static_cast<int64_t>(mask.size()), tensors.data()};
    p.dropout.kept_scale = 1;
    if (scale.is_none()) {
      p.scale = static_cast<float>(std::pow(static_cast<double>(p.depth), -0.5));
      return true;
    }
    p.scale = static_cast<float>(PyFloat_AsDouble(scale.ptr()));
    return PyFloat_CheckExact(scale.ptr());
  }

  int64_t rows() const { return problem.batches * problem.heads * problem.queries; }
};

// Each returns None where anything is not as it mostly is, and True where all is but a gradient is asked for.

// -> the output, and lse or None
py::object attention_at_once(py::handle query, py::handle key, py::handle value, const std::vector<int64_t>& mask,
                             const py::tuple& mask_tensors, py::handle scale, bool keep_lse, bool gradients,
                             int threads) {
  const py::object no = py::none();
  Ordinary given;
  Problem& p = given.problem;
  if (!given.begin(query, key, value, mask, mask_tensors, scale)) return no;
  if (gradients && xmkern::ask_gradients({query, key, value})) return py::bool_(true);
  py::object out, lse = no;
  if (!make_heads(query, given.q, p.value_depth, out, p.out)) return no;
  std::vector<float> forgotten;
  if (keep_lse) {
    lse = xmkern::empty_floats({p.batches, p.heads, p.queries}, p.lse);
  } else {
    forgotten.resize(static_cast<size_t>(given.rows()));
    p.lse = forgotten.data();
  }
  {
    py::gil_scoped_release release;
    lay_out(p, &given.source, 1);
    forward(&p, 1, threads);
  }
  return py::make_tuple(out, lse);
}

// -> the gradients of query, key and value
py::object attention_backward_at_once(py::handle grad_out, py::handle query, py::handle key, py::handle value,
                                      py::handle out, py::handle lse, const std::vector<int64_t>& mask,
                                      const py::tuple& mask_tensors, py::handle scale, int threads) {
  const py::object no = py::none();
  Ordinary given;
  Problem& p = given.problem;
  xmkern::Strided o, grad;
  xmkern::Dense kept;
  Gradients gradients{};
  SourceGradients of_source{};
  if (!given.begin(query, key, value, mask, mask_tensors, scale)) return no;
  if (!read_heads(out, o, p.out) || !read_heads(grad_out, grad, gradients.out)) return no;
  if (!std::equal(o.shape, o.shape + 4, grad.shape) || grad.element != given.q.element) return no;
  if (!xmkern::read(lse, kept) || kept.element != xmkern::Element::float32) return no;
  p.lse = static_cast<float*>(kept.data);
  py::object grad_query, grad_key, grad_value;
  if (!make_heads(query, given.q, p.depth, grad_query, gradients.query)) return no;
  if (!make_heads(key, given.k, p.depth, grad_key, of_source.key)) return no;
  if (!make_heads(value, given.v, p.value_depth, grad_value, of_source.value)) return no;
  gradients.sources = &of_source;
  {
    py::gil_scoped_release release;
    lay_out(p, &given.source, 1);
    backward(&p, &gradients, 1, threads);
  }
  return py::make_tuple(grad_query, grad_key, grad_value);
}

}  // namespace

void bind_attention(py::module_& module) {
  py::module_ attention = module.def_submodule("attention");

  attention.def("forward", [](const std::vector<ProblemNumbers>& problems, int threads) {
    const Call call(problems);
    py::gil_scoped_release release;
    forward(call.problems.data(), static_cast<int64_t>(call.problems.size()), threads);
  });

  attention.def("forward_at_once", &attention_at_once);
  attention.def("backward_at_once", &attention_backward_at_once);

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
