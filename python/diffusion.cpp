#include "diffusion/diffusion.h"

#include <cmath>
#include <vector>

#include "module.h"

namespace py = pybind11;
using namespace xmkern;
using namespace xmkern::diffusion;

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

}  // namespace

void bind_diffusion(py::module_& module) {
  py::module_ diffusion = module.def_submodule("diffusion");

  // The operands are sample, output, conditional, variance, known, mask, three of history, noise; the numbers are those
  // of reference.Numbers.
  diffusion.def("step", [](int dtype, int64_t samples, int64_t elements, int64_t row, const py::tuple& operands,
                           const py::tuple& numbers, int noise_dtype, bool drawn, int64_t seed, int64_t offset,
                           int deviation, Address previous, Address original, int threads) {
    const auto number = [&](py::ssize_t i) { return PyFloat_AsDouble(item(numbers, i).ptr()); };
    const auto f = [&](py::ssize_t i) { return static_cast<float>(number(i)); };
    constexpr double half_log2_e = 0.72134752044448170;
    const double low = number(12) * half_log2_e, high = number(13) * half_log2_e;
    Step s{};
    s.dtype = static_cast<Dtype>(dtype);
    s.samples = samples, s.elements = elements, s.row = row;
    const auto of = [&](py::ssize_t i) { return operand(item(operands, i)); };
    s.sample = of(0), s.output = of(1), s.conditional = of(2), s.variance = of(3), s.known = of(4), s.mask = of(5);
    for (int k = 0; k < 3; ++k) s.history[k] = of(6 + k), s.of_history[k] = f(7 + k);
    s.noise = noise_of(item(operands, 9), noise_dtype, drawn, seed, offset);
    s.previous = reinterpret_cast<void*>(previous), s.original = reinterpret_cast<void*>(original);
    s.deviation = static_cast<Variance>(deviation);
    s.from_sample = f(0), s.from_output = f(1), s.of_sample = f(2), s.of_original = f(3), s.of_output = f(4);
    s.of_noise = f(5), s.churn = f(6), s.of_known = f(10), s.known_noise = f(11);
    s.log2_low = static_cast<float>((low + high) / 2), s.log2_slope = static_cast<float>((high - low) / 2);
    s.guidance = f(14), s.rescale = number(15), s.clip = f(16), s.ratio = number(17);
    py::gil_scoped_release release;
    step(s, threads);
  });

  // -> the place in t of what is no step, or -1
  diffusion.def("q_sample", [](int dtype, int64_t samples, int64_t elements, const py::tuple& sample,
                               const py::tuple& noise, int noise_dtype, bool drawn, int64_t seed, int64_t offset,
                               Address t, bool long_t, Address table, bool double_table, int64_t steps, Address noisy,
                               Address velocity, Address drawn_noise, int threads) {
    const Operand clean = operand(sample);
    const Noise added = noise_of(noise, noise_dtype, drawn, seed, offset);
    py::gil_scoped_release release;
    std::vector<float> levels(static_cast<size_t>(2 * samples));
    const auto read = long_t ? (double_table ? read_levels<int64_t, double> : read_levels<int64_t, float>)
                             : (double_table ? read_levels<int32_t, double> : read_levels<int32_t, float>);
    const int64_t wrong =
        read(reinterpret_cast<const void*>(t), reinterpret_cast<const void*>(table), samples, steps, levels.data());
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
