#include "tensor.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/pages.h"
#include "module.h"

namespace py = pybind11;

namespace xmkern {
namespace {

// DLPack 1.x, as https://dmlc.github.io/dlpack/latest/c_api.html has it: what is read of it.
struct Version {
  std::uint32_t major, minor;
};

struct Described {
  void* data;
  std::int32_t device, device_index;
  std::int32_t axes;
  std::uint8_t kind, bits;
  std::uint16_t lanes;
  std::int64_t *shape, *strides;
  std::uint64_t offset;
};
static_assert(sizeof(Described) == 48);

struct Exchange {
  Version version;
  Exchange* previous;
  void *allocate, *export_owned, *import_owned;
  int (*describe)(void* tensor, Described* out);
  void* stream;
};

constexpr std::int32_t on_cpu = 1;
constexpr std::uint8_t an_int = 0, a_float = 2, a_bfloat = 4, a_bool = 6;

// Set once, when the module is loaded; Python keeps them for as long as the process lives.
const Exchange* exchange = nullptr;
PyObject *tensor_type, *parameter_type, *torch_empty_like, *a_float_tensor, *new_empty, *requires_grad, *is_neg;

// Whether torch has the table, so that tensors can be read.
bool learn(const py::type& tensor, const py::type& parameter, const py::object& empty_like, const py::object& floats) {
  const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return false;
  const auto* found = static_cast<Exchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  while (found && found->version.major > 1) found = found->previous;
  if (!found || found->version.major != 1 || !found->describe) return false;
  tensor_type = py::type(tensor).release().ptr();
  parameter_type = py::type(parameter).release().ptr();
  a_float_tensor = py::object(floats).release().ptr();
  torch_empty_like = py::object(empty_like).release().ptr();
  new_empty = PyUnicode_InternFromString("new_empty");
  requires_grad = PyUnicode_InternFromString("requires_grad");
  is_neg = PyUnicode_InternFromString("is_neg");
  exchange = found;
  return true;
}

bool element_of(const Described& x, Element& out) {
  struct Known {
    std::uint8_t kind, bits;
    Element element;
  };
  constexpr Known known[] = {{a_float, 32, Element::float32}, {a_bfloat, 16, Element::bfloat16},
                             {a_float, 16, Element::float16}, {a_float, 64, Element::float64},
                             {an_int, 32, Element::int32},    {an_int, 64, Element::int64},
                             {a_bool, 8, Element::boolean}};
  for (const Known& each : known) {
    if (x.kind != each.kind || x.bits != each.bits || x.lanes != 1) continue;
    out = each.element;
    return true;
  }
  return false;
}

// Whether its numbers lie there with the other sign, as those of the imaginary part of a conjugate: not side by side.
bool negated(py::handle x, const Strided& read_now) {
  if (read_now.axes == 0 || read_now.strides[read_now.axes - 1] == 1) return false;
  const auto is = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(x.ptr(), is_neg));
  if (!is) throw py::error_already_set();
  return is.ptr() == Py_True;
}

bool asks_gradient(py::handle x) {
  if (x.is_none()) return false;
  const auto asks = py::reinterpret_steal<py::object>(PyObject_GetAttr(x.ptr(), requires_grad));
  if (!asks) PyErr_Clear();  // no tensor: that is for Python to say
  return asks.ptr() != Py_False;
}

// A new tensor, not written yet: if it is large, on huge pages, as in xmkern/ops/fresh.py.
py::object fresh(PyObject* made) {
  constexpr std::int64_t large = std::int64_t{1} << 22;
  if (!made) throw py::error_already_set();
  Strided x;
  if (read(made, x) && x.bytes() >= large)
    ask_for_huge_pages(reinterpret_cast<std::uintptr_t>(x.data), static_cast<std::size_t>(x.bytes()));
  return py::reinterpret_steal<py::object>(made);
}

}  // namespace

bool read(py::handle x, Strided& out) {
  const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(x.ptr()));
  if (!exchange || (type != tensor_type && type != parameter_type)) return false;
  Described described;
  if (exchange->describe(x.ptr(), &described) != 0) {  // a tensor without elements that are somewhere
    PyErr_Clear();
    return false;
  }
  if (described.device != on_cpu || !element_of(described, out.element)) return false;
  out.data = static_cast<char*>(described.data) + described.offset;
  out.axes = described.axes, out.shape = described.shape, out.strides = described.strides;
  out.elements = std::accumulate(out.shape, out.shape + out.axes, std::int64_t{1}, std::multiplies<>{});
  return out.elements > 0 && !negated(x, out);
}

bool is_dense(const Strided& x) {
  std::int64_t stride = 1;
  for (int axis = x.axes; axis-- > 0; stride *= x.shape[axis])
    if (x.shape[axis] != 1 && x.strides[axis] != stride) return false;
  return true;
}

bool read(py::handle x, Dense& out) { return read(x, static_cast<Strided&>(out)) && is_dense(out); }

bool read_operand(py::handle x, Dense& out) { return read(x, out) && out.computes(); }

bool read_like(py::handle x, const Dense& like, Dense& out) {
  return read(x, out) && out.element == like.element && same_shape(out, like);
}

bool ask_gradients(std::initializer_list<py::handle> tensors) {
  return std::any_of(tensors.begin(), tensors.end(), asks_gradient);
}

bool ask_gradients(const py::tuple& tensors) {
  for (py::handle x : tensors)
    if (asks_gradient(x)) return true;
  return false;
}

bool read_integer(py::handle x, std::int64_t least, std::int64_t& out) {
  if (!PyLong_CheckExact(x.ptr())) return false;
  int overflow;
  out = PyLong_AsLongLongAndOverflow(x.ptr(), &overflow);
  return !overflow && out >= least;
}

bool same_shape(const Dense& a, const Dense& b) {
  return a.axes == b.axes && std::equal(a.shape, a.shape + a.axes, b.shape);
}

py::object empty_like(py::handle x) { return fresh(PyObject_CallOneArg(torch_empty_like, x.ptr())); }

py::object empty(py::handle x, std::initializer_list<std::int64_t> shape) {
  return empty(x, shape.begin(), static_cast<int>(shape.size()));
}

py::object empty(py::handle x, const std::int64_t* shape, int axes) {
  py::tuple sizes(static_cast<size_t>(axes));
  for (int axis = 0; axis < axes; ++axis) sizes[static_cast<size_t>(axis)] = py::int_(shape[axis]);
  return fresh(PyObject_CallMethodOneArg(x.ptr(), new_empty, sizes.ptr()));
}

py::object empty_floats(std::initializer_list<std::int64_t> shape, float*& data) {
  py::object made = empty(a_float_tensor, shape);
  Dense dense;
  if (read(made, dense)) data = static_cast<float*>(dense.data);
  return made;
}

void bind_tensor(py::module_& module) { module.def("learn_tensors", &learn); }

}  // namespace xmkern
