#include "tensor.h"

#include <algorithm>

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
constexpr std::uint8_t an_int = 0, a_float = 2, a_bfloat = 4;

// Set once, when the module is loaded; Python keeps them for as long as the process lives.
const Exchange* exchange = nullptr;
PyObject *tensor_type, *empty, *requires_grad;

// Whether torch has the table, so that tensors can be read.
bool learn(const py::type& tensor, const py::object& empty_like) {
  const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return false;
  const auto* found = static_cast<Exchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  while (found && found->version.major > 1) found = found->previous;
  if (!found || found->version.major != 1 || !found->describe) return false;
  tensor_type = py::type(tensor).release().ptr();
  empty = py::object(empty_like).release().ptr();
  requires_grad = PyUnicode_InternFromString("requires_grad");
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
                             {an_int, 32, Element::int32},    {an_int, 64, Element::int64}};
  for (const Known& each : known) {
    if (x.kind != each.kind || x.bits != each.bits || x.lanes != 1) continue;
    out = each.element;
    return true;
  }
  return false;
}

}  // namespace

bool read(py::handle x, bool gradients, Dense& out) {
  if (!exchange || reinterpret_cast<PyObject*>(Py_TYPE(x.ptr())) != tensor_type) return false;
  if (gradients) {
    const auto asks = py::reinterpret_steal<py::object>(PyObject_GetAttr(x.ptr(), requires_grad));
    if (asks.ptr() != Py_False) {
      PyErr_Clear();
      return false;
    }
  }
  Described described;
  if (exchange->describe(x.ptr(), &described) != 0) {  // a tensor without elements that are somewhere
    PyErr_Clear();
    return false;
  }
  if (described.device != on_cpu || !element_of(described, out.element)) return false;
  std::int64_t elements = 1;
  for (std::int32_t axis = described.axes; axis-- > 0;) {
    const std::int64_t size = described.shape[axis];
    if (size != 1 && described.strides[axis] != elements) return false;
    elements *= size;
  }
  if (elements == 0) return false;
  out.data = static_cast<char*>(described.data) + described.offset;
  out.axes = described.axes, out.shape = described.shape, out.elements = elements;
  return true;
}

bool read_operand(py::handle x, bool gradients, Dense& out) {
  return read(x, gradients, out) && out.element <= Element::float16;
}

bool read_like(py::handle x, bool gradients, const Dense& like, Dense& out) {
  return read(x, gradients, out) && out.element == like.element && same_shape(out, like);
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

py::object empty_like(py::handle x) {
  PyObject* made = PyObject_CallOneArg(empty, x.ptr());
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

}  // namespace xmkern

void bind_tensor(py::module_& module) { module.def("learn_tensors", &xmkern::learn); }
