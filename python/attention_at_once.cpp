// Attention of ordinary tensors, which the extension reads itself (tensor.h): in place of Python's checks, and of its
// passing on addresses and strides, which take longer than a small kernel.
#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "attention/attention.h"
#include "module.h"
#include "tensor.h"

namespace py = pybind11;
namespace xmkern::attention {
namespace {

// Threshold, seed and scale of what is kept.
using DropoutNumbers = std::tuple<uint32_t, uint64_t, float>;

// An axis of one is one that does not vary.
int64_t step(const Strided& x, int axis) { return x.shape[axis] == 1 ? 0 : x.strides[axis]; }

// [batch, head, row, column], the last axis dense and not too long for the kernels.
bool read_heads(py::handle given, Strided& x, Operand& out) {
  constexpr int64_t most = 256;
  if (!read(given, x) || !x.computes() || x.axes != 4 || x.strides[3] != 1 || x.shape[3] > most) return false;
  out = {x.data, x.strides[0], x.strides[1], x.strides[2]};
  return true;
}

// Memory for a result or a gradient, by the rule of xmkern/ops/attention/layout.py.
bool make_heads(py::handle like, const Strided& x, int64_t depth, py::object& made, Operand& out) {
  const int64_t *shape = x.shape, *strides = x.strides;
  const bool heads_inside = strides[1] < strides[2];
  const bool dense = strides[0] == shape[1] * shape[2] * shape[3] &&
                     (heads_inside ? strides[1] == shape[3] && strides[2] == shape[1] * shape[3]
                                   : strides[2] == shape[3] && strides[1] == shape[2] * shape[3]);
  if (dense && depth == shape[3]) {
    made = empty_like(like);
  } else if (heads_inside) {
    made = empty(like, {shape[0], shape[2], shape[1], depth}).attr("transpose")(1, 2);
  } else {
    made = empty(like, {shape[0], shape[1], shape[2], depth});
  }
  Strided read_back;
  return read_heads(made, read_back, out);
}

// Where so many dense float32 numbers lie; null: it is not they.
float* floats(py::handle given, int64_t count) {
  Dense x;
  if (!read(given, x) || x.element != Element::float32 || x.elements != count) return nullptr;
  return static_cast<float*>(x.data);
}

// The tensors of a mask's program, each of whose axes must be of a full size or, where that may be, one.
struct MaskReader {
  const int64_t* program;
  int64_t length;
  const py::handle* given;
  size_t count;
  int64_t batches, heads, queries, keys;
  std::vector<MaskTensor> tensors;

  bool read() {
    constexpr int64_t operands[] = {0, 0, 2, 1, 7, 2, 1};  // in the order of MaskCode
    tensors.resize(count);
    for (int64_t at = 0; at < length; at += 1 + operands[program[at]]) {
      const int64_t* tensor = program + at + 1;
      switch (static_cast<MaskCode>(program[at])) {
        case MaskCode::key_lengths:
          if (!read(tensor[0], Element::int64, {batches})) return false;
          break;
        case MaskCode::segments:
          if (!read(tensor[0], Element::int64, {batches, queries})) return false;
          if (!read(tensor[1], Element::int64, {batches, keys})) return false;
          break;
        case MaskCode::dense:
          if (!read(tensor[0], Element::boolean, {batches, heads, queries, keys})) return false;
          break;
        default:
          break;
      }
    }
    return true;
  }

 private:
  bool read(int64_t place, Element element, std::initializer_list<int64_t> full) {
    const auto i = static_cast<size_t>(place);
    Strided x;
    if (i >= count || !xmkern::read(given[i], x) || x.element != element) return false;
    if (x.axes != static_cast<int>(full.size())) return false;
    for (int axis = 0; axis < x.axes; ++axis) {
      const bool may_be_one = !(x.axes == 2 && axis == 1);  // ids are there for each place
      const int64_t size = full.begin()[axis];
      if (x.shape[axis] != size && !(may_be_one && x.shape[axis] == 1)) return false;
    }
    MaskTensor& out = tensors[i];
    out = {x.data, step(x, 0), 0, 0, 0};
    if (x.axes == 2) out.query = out.key = step(x, 1);  // for queries and keys alike: each reads along its own axis
    if (x.axes == 4) out.head = step(x, 1), out.query = step(x, 2), out.key = step(x, 3);
    return true;
  }
};

// A problem, and what it points into.
class Ordinary {
 public:
  Problem problem{};

  bool begin(py::handle query, py::handle scale, const DropoutNumbers& dropout, size_t sources) {
    Problem& p = problem;
    if (!read_heads(query, q_, p.query)) return false;
    p.batches = q_.shape[0], p.heads = q_.shape[1], p.queries = q_.shape[2], p.depth = q_.shape[3],
    p.dtype = q_.dtype();
    p.dropout = {std::get<0>(dropout), std::get<1>(dropout), std::get<2>(dropout)};
    query_ = query;
    given_.reserve(sources), sources_.reserve(sources);
    if (scale.is_none()) {
      p.scale = static_cast<float>(std::pow(static_cast<double>(p.depth), -0.5));
      return true;
    }
    if (!PyFloat_CheckExact(scale.ptr())) return false;
    p.scale = static_cast<float>(PyFloat_AS_DOUBLE(scale.ptr()));
    return true;
  }

  bool add(py::handle key, py::handle value, const int64_t* program, int64_t length, const py::handle* mask_tensors,
           size_t mask_tensor_count, py::handle bias) {
    Problem& p = problem;
    Given& g = given_.emplace_back();
    Source& s = sources_.emplace_back();
    g.key = key, g.value = value, g.bias = bias;
    if (!read_heads(key, g.k, s.key) || !read_heads(value, g.v, s.value)) return false;
    if (g.k.element != q_.element || g.v.element != q_.element) return false;
    if (sources_.size() == 1) p.key_heads = g.k.shape[1], p.value_depth = g.v.shape[3];
    s.keys = g.k.shape[2];
    const int64_t key_shape[4] = {p.batches, p.key_heads, s.keys, p.depth};
    const int64_t value_shape[4] = {p.batches, p.key_heads, s.keys, p.value_depth};
    if (!std::equal(key_shape, key_shape + 4, g.k.shape) || !std::equal(value_shape, value_shape + 4, g.v.shape))
      return false;
    if (p.heads % p.key_heads != 0) return false;
    MaskReader mask{program, length, mask_tensors, mask_tensor_count, p.batches, p.heads, p.queries, s.keys, {}};
    if (!mask.read()) return false;
    g.mask_tensors = std::move(mask.tensors);
    s.mask = {program, length, g.mask_tensors.data()};
    return read_bias(bias, s.keys, g.b, s.bias);
  }

  // Memory for the output, and for lse or, if that is not wanted, for the time of the call.
  bool make_results(bool keep_lse, py::object& out, py::object& lse) {
    Problem& p = problem;
    if (!make_heads(query_, q_, p.value_depth, out, p.out)) return false;
    if (keep_lse) {
      lse = empty_floats({p.batches, p.heads, p.queries}, p.lse);
    } else {
      forgotten_.resize(static_cast<size_t>(rows()));
      p.lse = forgotten_.data();
    }
    lay_out(p, sources_.data(), static_cast<int64_t>(sources_.size()));
    return true;
  }

  // What the forward gave, and the gradients of it; that of lse may be None.
  bool read_results(py::handle out, py::handle lse, py::handle grad_out, py::handle grad_lse, Gradients& gradients) {
    Problem& p = problem;
    Strided o, grad;
    const int64_t shape[4] = {p.batches, p.heads, p.queries, p.value_depth};
    if (!read_heads(out, o, p.out) || !read_heads(grad_out, grad, gradients.out)) return false;
    if (!std::equal(shape, shape + 4, o.shape) || !std::equal(shape, shape + 4, grad.shape)) return false;
    if (o.element != q_.element || grad.element != q_.element) return false;
    p.lse = floats(lse, rows());
    if (!grad_lse.is_none()) gradients.lse = floats(grad_lse, rows());
    if (!p.lse || (!grad_lse.is_none() && !gradients.lse)) return false;
    lay_out(p, sources_.data(), static_cast<int64_t>(sources_.size()));
    return true;
  }

  struct Made {
    py::object key, value, bias = py::none();
  };

  // Memory for the gradients; of which biases they are wanted is asked source by source.
  template <class Wanted>
  bool make_gradients(Gradients& gradients, py::object& query, std::vector<Made>& made, Wanted&& bias_wanted) {
    if (!make_heads(query_, q_, problem.depth, query, gradients.query)) return false;
    of_sources_.resize(given_.size());
    for (size_t i = 0; i < given_.size(); ++i) {
      const Given& g = given_[i];
      SourceGradients& of = of_sources_[i];
      Made& m = made.emplace_back();
      if (!make_heads(g.key, g.k, problem.depth, m.key, of.key)) return false;
      if (!make_heads(g.value, g.v, problem.value_depth, m.value, of.value)) return false;
      if (!g.bias.is_none() && bias_wanted(i) && !make_bias_gradient(g, m.bias, of.bias)) return false;
    }
    gradients.sources = of_sources_.data();
    return true;
  }

 private:
  struct Given {
    py::handle key, value, bias;
    Strided k, v, b;
    std::vector<MaskTensor> mask_tensors;
  };

  py::handle query_;
  Strided q_;
  std::vector<Given> given_;
  std::vector<Source> sources_;
  std::vector<SourceGradients> of_sources_;
  std::vector<float> forgotten_;

  int64_t rows() const { return problem.batches * problem.heads * problem.queries; }

  // [B|1, H|1, L|1, S|1], or of diagonals, [B|1, H|1, L + S - 1].
  bool read_bias(py::handle given, int64_t keys, Strided& x, Bias& out) const {
    if (given.is_none()) return true;
    if (!read(given, x) || x.element != Element::float32 || (x.axes != 3 && x.axes != 4)) return false;
    const bool diagonals = x.axes == 3;
    const int64_t full[4] = {problem.batches, problem.heads, diagonals ? problem.queries + keys - 1 : problem.queries,
                             keys};
    for (int axis = 0; axis < x.axes; ++axis)
      if (x.shape[axis] != full[axis] && (x.shape[axis] != 1 || (diagonals && axis == 2))) return false;
    out = {static_cast<float*>(x.data), step(x, 0), step(x, 1), step(x, 2), 0, nullptr};
    if (diagonals) {  // element key - query + queries - 1
      out.key = x.strides[2], out.query = -out.key;
      out.data += (problem.queries - 1) * out.key;
    } else {
      out.key = step(x, 3);
    }
    return true;
  }

  // Zeros like the bias.
  static bool make_bias_gradient(const Given& g, py::object& made, BiasGradient& out) {
    Dense x;
    made = empty(g.bias, g.b.shape, g.b.axes);
    if (!read(made, x)) return false;
    std::fill_n(static_cast<float*>(x.data), x.elements, 0.0f);
    const int64_t last = x.shape[x.axes - 1];
    const BiasForm form = x.axes == 3 ? BiasForm::diagonals : x.shape[2] > 1 ? BiasForm::rows : BiasForm::keys;
    out = {form, static_cast<float*>(x.data), step(x, 0), step(x, 1), 0, 1, last};
    if (x.axes == 4) out.query = step(x, 2), out.key = step(x, 3);
    return true;
  }
};

// Each function returns None where anything is not as it mostly is; the first also True where all is, but a gradient is
// asked for.

// -> the output, and lse or None
py::object attention(py::handle query, py::handle key, py::handle value, const std::vector<int64_t>& mask,
                     const std::vector<py::handle>& mask_tensors, py::handle bias, const DropoutNumbers& dropout,
                     py::handle scale, bool keep_lse, bool gradients, int threads) {
  const py::object no = py::none();
  Ordinary call;
  if (!call.begin(query, scale, dropout, 1)) return no;
  if (!call.add(key, value, mask.data(), static_cast<int64_t>(mask.size()), mask_tensors.data(), mask_tensors.size(),
                bias))
    return no;
  if (gradients && ask_gradients({query, key, value, bias})) return py::bool_(true);
  py::object out, lse = no;
  if (!call.make_results(keep_lse, out, lse)) return no;
  {
    py::gil_scoped_release release;
    forward(&call.problem, 1, threads);
  }
  return py::make_tuple(out, lse);
}

// -> the gradients of query, key, value and bias, or None for it
py::object attention_backward(py::handle grad_out, py::handle grad_lse, py::handle query, py::handle key,
                              py::handle value, py::handle out, py::handle lse, const std::vector<int64_t>& mask,
                              const std::vector<py::handle>& mask_tensors, py::handle bias,
                              const DropoutNumbers& dropout, py::handle scale, bool bias_grad, int threads) {
  const py::object no = py::none();
  Ordinary call;
  Gradients gradients{};
  if (!call.begin(query, scale, dropout, 1)) return no;
  if (!call.add(key, value, mask.data(), static_cast<int64_t>(mask.size()), mask_tensors.data(), mask_tensors.size(),
                bias))
    return no;
  if (!call.read_results(out, lse, grad_out, grad_lse, gradients)) return no;
  py::object grad_query;
  std::vector<Ordinary::Made> made;
  if (!call.make_gradients(gradients, grad_query, made, [&](size_t) { return bias_grad; })) return no;
  {
    py::gil_scoped_release release;
    backward(&call.problem, &gradients, 1, threads);
  }
  return py::make_tuple(grad_query, made[0].key, made[0].value, made[0].bias);
}

using Handles = std::vector<py::handle>;

// What cross-attention's operator takes, in its form (xmkern/ops/cross_attention/problem.py).
struct CrossArguments {
  Handles queries, keys, values;
  std::vector<size_t> counts;
  std::vector<int64_t> masks;
  Handles mask_tensors, biases;
  std::vector<DropoutNumbers> dropouts;
  Handles scales;

  explicit CrossArguments(const py::tuple& a)
      : queries(a[0].cast<Handles>()),
        keys(a[1].cast<Handles>()),
        values(a[2].cast<Handles>()),
        counts(a[3].cast<std::vector<size_t>>()),
        masks(a[4].cast<std::vector<int64_t>>()),
        mask_tensors(a[5].cast<Handles>()),
        biases(a[6].cast<Handles>()),
        dropouts(a[7].cast<std::vector<DropoutNumbers>>()),
        scales(a[8].cast<Handles>()) {}

  bool read(std::vector<Ordinary>& calls) const {
    const int64_t* program = masks.data();
    size_t source = 0;
    const py::handle* tensors = mask_tensors.data();
    calls.resize(queries.size());
    for (size_t i = 0; i < calls.size(); ++i) {
      if (!calls[i].begin(queries[i], scales[i], dropouts[i], counts[i])) return false;
      for (size_t k = 0; k < counts[i]; ++k, ++source) {
        const int64_t length = program[0];
        const auto tensor_count = static_cast<size_t>(program[1]);
        if (!calls[i].add(keys[source], values[source], program + 2, length, tensors, tensor_count, biases[source]))
          return false;
        program += 2 + length, tensors += tensor_count;
      }
    }
    return true;
  }
};

// The problems side by side, as the kernels take them.
std::vector<Problem> problems_of(const std::vector<Ordinary>& calls) {
  std::vector<Problem> problems;
  for (const Ordinary& call : calls) problems.push_back(call.problem);
  return problems;
}

// -> the outputs, then lses
py::object cross_attention(const py::tuple& arguments, int threads) {
  const py::object no = py::none();
  const CrossArguments given(arguments);
  std::vector<Ordinary> calls;
  if (!given.read(calls)) return no;
  const size_t count = calls.size();
  py::list results(2 * count);
  for (size_t i = 0; i < count; ++i) {
    py::object out, lse;
    if (!calls[i].make_results(true, out, lse)) return no;
    results[i] = out, results[count + i] = lse;
  }
  const std::vector<Problem> problems = problems_of(calls);
  {
    py::gil_scoped_release release;
    forward(problems.data(), static_cast<int64_t>(count), threads);
  }
  return results;
}

// -> the gradients of queries, keys, values and biases, in one list; those that are not wanted are None
py::object cross_attention_backward(const Handles& grad_outs, const Handles& grad_lses, const Handles& outs,
                                    const Handles& lses, const py::tuple& arguments,
                                    const std::vector<bool>& bias_grads, int threads) {
  const py::object no = py::none();
  const CrossArguments given(arguments);
  std::vector<Ordinary> calls;
  if (!given.read(calls)) return no;
  const size_t count = calls.size(), sources = given.keys.size();
  std::vector<Gradients> gradients(count);
  std::vector<Ordinary::Made> made;
  py::list results(count + 3 * sources);
  for (size_t i = 0; i < count; ++i) {
    if (!calls[i].read_results(outs[i], lses[i], grad_outs[i], grad_lses[i], gradients[i])) return no;
    const size_t first = made.size();
    py::object query;
    const auto wanted = [&](size_t k) { return bias_grads[first + k]; };
    if (!calls[i].make_gradients(gradients[i], query, made, wanted)) return no;
    results[i] = query;
  }
  for (size_t k = 0; k < sources; ++k) {
    results[count + k] = made[k].key;
    results[count + sources + k] = made[k].value;
    results[count + 2 * sources + k] = made[k].bias;
  }
  const std::vector<Problem> problems = problems_of(calls);
  {
    py::gil_scoped_release release;
    backward(problems.data(), gradients.data(), static_cast<int64_t>(count), threads);
  }
  return results;
}

}  // namespace

void bind_at_once(py::module_& module) {
  module.def("forward_at_once", &attention);
  module.def("backward_at_once", &attention_backward);
  module.def("cross_forward_at_once", &cross_attention);
  module.def("cross_backward_at_once", &cross_attention_backward);
}

}  // namespace xmkern::attention
