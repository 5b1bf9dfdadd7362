#include "late_interaction/late_interaction.h"

#include <array>

#include "module.h"

namespace py = pybind11;
namespace xmkern::late_interaction {
namespace {

// Address, samples, tokens, strides of sample and token, address of the mask.
using SideNumbers = std::array<int64_t, 6>;
// Addresses of scores and winners.
using ScoreNumbers = std::array<int64_t, 2>;

Side side(const SideNumbers& n) { return {at<void>(n[0]), n[1], n[2], n[3], n[4], at<uint8_t>(n[5])}; }
Scores scores(const ScoreNumbers& n) { return {at<float>(n[0]), at<void>(n[1])}; }

Problem problem(int dtype, int64_t depth, bool mean, const SideNumbers& x, const SideNumbers& y) {
  return {static_cast<Dtype>(dtype), depth, mean, side(x), side(y)};
}

}  // namespace

void bind(py::module_& module) {
  py::module_ late_interaction = module.def_submodule("late_interaction");

  late_interaction.def("forward", [](int dtype, int64_t depth, bool mean, const SideNumbers& x, const SideNumbers& y,
                                     const ScoreNumbers& x_scores, const ScoreNumbers& y_scores, int threads) {
    py::gil_scoped_release release;
    forward(problem(dtype, depth, mean, x, y), scores(x_scores), scores(y_scores), threads);
  });

  late_interaction.def("backward", [](int dtype, int64_t depth, bool mean, const SideNumbers& x, const SideNumbers& y,
                                      const ScoreNumbers& x_scores, const ScoreNumbers& y_scores, int64_t grad_x,
                                      int64_t grad_y, int threads) {
    py::gil_scoped_release release;
    backward(problem(dtype, depth, mean, x, y), scores(x_scores), scores(y_scores), at<void>(grad_x), at<void>(grad_y),
             threads);
  });
}

}  // namespace xmkern::late_interaction
