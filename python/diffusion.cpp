#include "diffusion/diffusion.h"

#include <cmath>
#include <vector>

#include "module.h"
#include "tensor.h"

namespace py = pybind11;
namespace xmkern::diffusion {
namespace {

// Tuples are read by hand: pybind11's conversion of all that a step has takes longer than a small step.
py::handle item(py::handle tuple, py::ssize_t i) { return PyTuple_GET_ITEM(tuple.ptr(), i); }

// Of where, and the stride from sample to sample.
Operand operand(py::handle given) {
  return {PyLong_AsVoidPtr(item(given, 0).ptr()), PyLong_AsLongLong(item(given, 1).ptr())};
}

Noise noise_of(py::handle given, int dtype, bool drawn, int64_t seed, int64_t offset) {
  return {operand(given), static_cast<Dtype>(dtype), drawn, static_cast<uint64_t>(seed), static_cast<uint64_t>(offset)};
}

void set_numbers(Step& s, const py::tuple& numbers) {
  const auto number = [&](py::ssize_t i) { return PyFloat_AsDouble(item(numbers, i).ptr()); };
  const auto f = [&](py::ssize_t i) { return static_cast<float>(number(i)); };
  constexpr double half_log2_e = 0.72134752044448170;
  const double low = number(12) * half_log2_e, high = number(13) * half_log2_e;
  s.from_sample = f(0), s.from_output = f(1), s.of_sample = f(2), s.of_original = f(3), s.of_output = f(4);
  s.of_noise = f(5), s.churn = f(6), s.of_known = f(10), s.known_noise = f(11);
  for (int k = 0; k < 3; ++k) s.of_history[k] = f(7 + k);
  s.log2_low = static_cast<float>((low + high) / 2), s.log2_slope = static_cast<float>((high - low) / 2);
  s.guidance = f(14), s.rescale = number(15), s.clip = f(16), s.ratio = number(17);
}

// Where z comes from, of shape and dtype of x or in float32; false: none of the two, or not as it mostly is.
bool read_noise(py::handle noise, py::handle seed, py::handle offset, const Dense& x, Noise& out) {
  constexpr int64_t most = int64_t{1} << 62;
  int64_t key, begin;
  if (seed.is_none()) {
    Dense z;
    if (!read_operand(noise, z) || !same_shape(z, x)) return false;
    if (z.element != x.element && z.element != Element::float32) return false;
    out = {{z.data, x.elements / x.shape[0]}, z.dtype(), false, 0, 0};
    return true;
  }
  if (!noise.is_none() || !read_integer(seed, INT64_MIN, key) || !read_integer(offset, 0, begin)) return false;
  out = {{}, x.dtype(), true, static_cast<uint64_t>(key), static_cast<uint64_t>(begin)};
  return begin < most;
}

// Where an ordinary tensor like x lies; false: it is none.
bool read_address(py::handle given, const Dense& x, void*& out) {
  Dense read_now;
  if (!read_like(given, x, read_now)) return false;
  out = read_now.data;
  return true;
}

// A step of ordinary tensors (tensor.h) -> the earlier sample, and x0 or None; None alone where anything is not as it
// mostly is.
py::object step_at_once(py::handle sample, py::handle output, py::handle noise, const py::tuple& history,
                        const py::tuple& numbers, py::handle seed, py::handle offset, int deviation, bool guided,
                        bool original, py::handle out, bool gradients, int threads) {
  const py::object no = py::none();
  Dense x, model, other;
  if (!read_operand(sample, x) || !read(output, model) || history.size() > 3) return no;
  Step s{};
  s.deviation = static_cast<Variance>(deviation);
  const bool learned = s.deviation != Variance::fixed;
  if (x.axes < (learned ? 2 : 1) || model.axes != x.axes || model.element != x.element) return no;
  for (int axis = 0; axis < x.axes; ++axis)
    if (model.shape[axis] != x.shape[axis] * (axis == 0 && guided ? 2 : axis == 1 && learned ? 2 : 1)) return no;
  s.dtype = x.dtype(), s.samples = x.shape[0], s.elements = s.row = x.elements / x.shape[0];
  const auto output_from = [&](int64_t element) {
    return Operand{static_cast<char*>(model.data) + element * size_of(s.dtype), learned ? 2 * s.elements : s.elements};
  };
  s.sample = {x.data, s.elements}, s.output = output_from(0);
  const int64_t conditional = guided ? s.samples * s.output.stride : 0;
  if (guided) s.conditional = output_from(conditional);
  if (learned) s.variance = output_from(conditional + s.elements);
  for (size_t k = 0; k < history.size(); ++k) {
    if (!read_like(history[k], x, other)) return no;
    s.history[k] = {other.data, s.elements};
  }
  set_numbers(s, numbers);
  if ((s.of_noise != 0 || s.churn != 0) && !read_noise(noise, seed, offset, x, s.noise)) return no;
  if (gradients && (ask_gradients({sample, output, noise}) || ask_gradients(history))) return no;
  py::object previous, predicted = py::none();
  if (out.is_none()) {
    previous = empty_like(sample);
    if (original) predicted = empty_like(sample);
  } else {
    if (!PyTuple_CheckExact(out.ptr()) || PyTuple_GET_SIZE(out.ptr()) != 2) return no;
    previous = py::reinterpret_borrow<py::object>(item(out, 0));
    predicted = py::reinterpret_borrow<py::object>(item(out, 1));
    if (gradients && ask_gradients(py::reinterpret_borrow<py::tuple>(out))) return no;
  }
  if (!read_address(previous, x, s.previous)) return no;
  if (!predicted.is_none() && !read_address(predicted, x, s.original)) return no;
  {
    py::gil_scoped_release release;
    step(s, threads);
  }
  return py::make_tuple(previous, predicted);
}

// The place of the first number of t that is no step, or -1; else the levels of all samples.
template <class Time, class Level>
int64_t read_levels(const void* t, const void* table, int64_t samples, int64_t steps, float* levels) {
  for (int64_t b = 0; b < samples; ++b) {
    const auto at = static_cast<int64_t>(static_cast<const Time*>(t)[b]);
    if (at < 0 || at >= steps) return b;
    const double kept = static_cast<const Level*>(table)[at];
    levels[2 * b] = static_cast<float>(std::sqrt(kept));
    levels[2 * b + 1] = static_cast<float>(std::sqrt(1 - kept));
  }
  return -1;
}

int64_t read_levels(const void* t, bool long_t, const void* table, bool double_table, int64_t samples, int64_t steps,
                    float* levels) {
  const auto read = long_t ? (double_table ? read_levels<int64_t, double> : read_levels<int64_t, float>)
                           : (double_table ? read_levels<int32_t, double> : read_levels<int32_t, float>);
  return read(t, table, samples, steps, levels);
}

// Noise for ordinary tensors, and of what it makes the target: 0 nothing, 1 the noise, if it is drawn, 2 the velocity
// -> x_t, and the target or None; None alone where anything is not as it mostly is.
py::object q_sample_at_once(py::handle x0, py::handle t, py::handle table, py::handle noise, py::handle seed,
                            py::handle offset, int target, bool gradients, int threads) {
  const py::object no = py::none();
  Dense x, times, kept;
  if (!read_operand(x0, x) || !read(t, times) || !read(table, kept)) return no;
  if (x.axes == 0 || times.axes != 1 || times.elements != x.shape[0] || kept.axes != 1) return no;
  if ((times.element != Element::int64 && times.element != Element::int32) ||
      (kept.element != Element::float32 && kept.element != Element::float64))
    return no;
  Noising q{x.dtype(), x.shape[0], x.elements / x.shape[0], {}, {}, nullptr, nullptr, nullptr, nullptr};
  q.sample = {x.data, q.elements};
  if (!read_noise(noise, seed, offset, x, q.noise)) return no;
  if (gradients && ask_gradients({x0, table, noise})) return no;
  std::vector<float> levels(static_cast<size_t>(2 * q.samples));
  q.levels = levels.data();
  if (read_levels(times.data, times.element == Element::int64, kept.data, kept.element == Element::float64, q.samples,
                  kept.elements, levels.data()) >= 0)
    return no;
  const auto memory = [&](py::object& of, void*& address) { return read_address(of = empty_like(x0), x, address); };
  py::object noisy, made = py::none();
  if (!memory(noisy, q.noisy)) return no;
  if (target == 2 && !memory(made, q.velocity)) return no;
  if (target == 1 && q.noise.drawn && !memory(made, q.drawn)) return no;
  {
    py::gil_scoped_release release;
    q_sample(q, threads);
  }
  return py::make_tuple(noisy, made);
}

// Normal numbers into an ordinary tensor; false: it is none, or another number is not as it mostly is.
bool normals_at_once(py::handle out, py::handle seed, py::handle offset, int threads) {
  Dense x;
  Noise noise;
  if (!read_operand(out, x) || x.axes == 0) return false;
  if (!read_noise(py::none(), seed, offset, x, noise)) return false;
  py::gil_scoped_release release;
  normals(x.data, x.dtype(), x.elements, noise.seed, noise.offset, threads);
  return true;
}

}  // namespace

void bind(py::module_& module) {
  py::module_ diffusion = module.def_submodule("diffusion");

  // The operands are sample, output, conditional, variance, known, mask, three of history, noise; the numbers are those
  // of reference.Numbers.
  diffusion.def("step", [](int dtype, int64_t samples, int64_t elements, int64_t row, const py::tuple& operands,
                           const py::tuple& numbers, int noise_dtype, bool drawn, int64_t seed, int64_t offset,
                           int deviation, Address previous, Address original, int threads) {
    Step s{};
    set_numbers(s, numbers);
    s.dtype = static_cast<Dtype>(dtype);
    s.samples = samples, s.elements = elements, s.row = row;
    const auto of = [&](py::ssize_t i) { return operand(item(operands, i)); };
    s.sample = of(0), s.output = of(1), s.conditional = of(2), s.variance = of(3), s.known = of(4), s.mask = of(5);
    for (int k = 0; k < 3; ++k) s.history[k] = of(6 + k);
    s.noise = noise_of(item(operands, 9), noise_dtype, drawn, seed, offset);
    s.previous = reinterpret_cast<void*>(previous), s.original = reinterpret_cast<void*>(original);
    s.deviation = static_cast<Variance>(deviation);
    py::gil_scoped_release release;
    step(s, threads);
  });

  diffusion.def("step_at_once", &step_at_once);
  diffusion.def("q_sample_at_once", &q_sample_at_once);
  diffusion.def("normals_at_once", &normals_at_once);

  // -> the place in t of what is no step, or -1
  diffusion.def("q_sample", [](int dtype, int64_t samples, int64_t elements, const py::tuple& sample,
                               const py::tuple& noise, int noise_dtype, bool drawn, int64_t seed, int64_t offset,
                               Address t, bool long_t, Address table, bool double_table, int64_t steps, Address noisy,
                               Address velocity, Address drawn_noise, int threads) {
    const Operand clean = operand(sample);
    const Noise added = noise_of(noise, noise_dtype, drawn, seed, offset);
    py::gil_scoped_release release;
    std::vector<float> levels(static_cast<size_t>(2 * samples));
    const int64_t wrong = read_levels(reinterpret_cast<const void*>(t), long_t, reinterpret_cast<const void*>(table),
                                      double_table, samples, steps, levels.data());
    if (wrong >= 0) return wrong;
    q_sample({static_cast<Dtype>(dtype), samples, elements, clean, added, levels.data(), reinterpret_cast<void*>(noisy),
              reinterpret_cast<void*>(velocity), reinterpret_cast<void*>(drawn_noise)},
             threads);
    return wrong;
  });

  diffusion.def("normals", [](Address out, int dtype, int64_t count, int64_t seed, int64_t offset, int threads) {
    py::gil_scoped_release release;
    normals(reinterpret_cast<void*>(out), static_cast<Dtype>(dtype), count, static_cast<uint64_t>(seed),
            static_cast<uint64_t>(offset), threads);
  });
}

}  // namespace xmkern::diffusion
