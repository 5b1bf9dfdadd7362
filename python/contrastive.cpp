#include "contrastive/contrastive.h"

#include <array>
#include <utility>

#include "contrastive/divergence.h"
#include "module.h"

namespace py = pybind11;
namespace xmkern::contrastive {
namespace {

// Address, count, stride; addresses of scale, ids, groups and offset.
using SideNumbers = std::array<int64_t, 7>;
// x, y; depth, dtype, kind, whether columns are reduced; address and row stride of the relevance; bias.
struct Call {
  static Side side(const SideNumbers& n) {
    return {at<void>(n[0]), n[1], n[2], at<float>(n[3]), at<int64_t>(n[4]), at<int64_t>(n[5]), at<float>(n[6])};
  }

  static Problem problem(const SideNumbers& x, const SideNumbers& y, const std::array<int64_t, 6>& n, float bias) {
    return {side(x),  side(y), n[0], static_cast<Dtype>(n[1]), bias, at<uint8_t>(n[4]), n[5], static_cast<Kind>(n[2]),
            n[3] != 0};
  }
};

// Addresses of value, positive and count.
Totals totals(const std::array<int64_t, 3>& n) { return {at<float>(n[0]), at<float>(n[1]), at<int64_t>(n[2]), {}, {}}; }

// Addresses of value, positive, their gradients, and the gradients of a side and its scale.
Slopes slopes(const std::array<int64_t, 6>& n) {
  return {at<float>(n[0]), at<float>(n[1]), at<float>(n[2]), at<float>(n[3]), at<float>(n[4]), at<float>(n[5])};
}

}  // namespace

void bind(py::module_& module) {
  py::module_ contrastive = module.def_submodule("contrastive");

  contrastive.def("forward",
                  [](const SideNumbers& x, const SideNumbers& y, const std::array<int64_t, 6>& numbers, float bias,
                     const std::array<int64_t, 3>& rows, const std::array<int64_t, 3>& columns, int threads) {
                    py::gil_scoped_release release;
                    forward(Call::problem(x, y, numbers, bias), totals(rows), totals(columns), threads);
                  });

  contrastive.def("backward", [](const SideNumbers& x, const SideNumbers& y, const std::array<int64_t, 6>& numbers,
                                 float bias, const std::array<int64_t, 6>& rows, const std::array<int64_t, 6>& columns,
                                 int64_t grad_bias, int threads) {
    py::gil_scoped_release release;
    backward(Call::problem(x, y, numbers, bias), {slopes(rows), slopes(columns), at<float>(grad_bias)}, threads);
  });

  // Addresses of the gradients of a side and of its scale.
  using GradientNumbers = std::array<int64_t, 2>;
  contrastive.def("loss", [](const SideNumbers& x, const SideNumbers& y, const std::array<int64_t, 6>& numbers,
                             float bias, double weight, const GradientNumbers& grad_x, const GradientNumbers& grad_y,
                             int64_t grad_bias, int threads) {
    py::gil_scoped_release release;
    return loss(
        Call::problem(x, y, numbers, bias), weight,
        {slopes({0, 0, 0, 0, grad_x[0], grad_x[1]}), slopes({0, 0, 0, 0, grad_y[0], grad_y[1]}), at<float>(grad_bias)},
        threads);
  });

  contrastive.def("can_be_kept", &can_be_kept);
  contrastive.def("whole_loss", [](const SideNumbers& x, const SideNumbers& y, const std::array<int64_t, 6>& numbers,
                                   float bias, double weight, const GradientNumbers& grad_x,
                                   const GradientNumbers& grad_y, int threads) {
    py::gil_scoped_release release;
    float grad_bias;
    const double loss = whole_loss(
        Call::problem(x, y, numbers, bias), weight,
        {at<void>(grad_x[0]), at<void>(grad_y[0]), at<float>(grad_x[1]), at<float>(grad_y[1]), &grad_bias}, threads);
    return std::pair(loss, grad_bias);
  });

  using CallNumbers = std::array<int64_t, 6>;
  const auto comparison = [](const SideNumbers& x, const SideNumbers& y, const SideNumbers& teacher_x,
                             const SideNumbers& teacher_y, const CallNumbers& numbers, const CallNumbers& teacher) {
    return Comparison{Call::problem(x, y, numbers, 0.0f), Call::problem(teacher_x, teacher_y, teacher, 0.0f)};
  };
  // Of one side: addresses of the divergences, and of the log-sum-exps of student and teacher, [2, count].
  using DivergenceNumbers = std::array<int64_t, 3>;
  contrastive.def("divergence",
                  [=](const SideNumbers& x, const SideNumbers& y, const SideNumbers& teacher_x,
                      const SideNumbers& teacher_y, const CallNumbers& numbers, const CallNumbers& teacher,
                      const DivergenceNumbers& rows, const DivergenceNumbers& columns, int threads) {
                    py::gil_scoped_release release;
                    const auto of = [](const DivergenceNumbers& n, int64_t count) {
                      return Divergences{totals({n[1], 0, 0}), totals({n[2], 0, 0}), at<float>(n[0]),
                                         at<float>(n[1]) + count, at<float>(n[2]) + count};
                    };
                    const Comparison both = comparison(x, y, teacher_x, teacher_y, numbers, teacher);
                    divergence(both, of(rows, both.student.x.count),
                               of(columns, both.student.columns ? both.student.y.count : 0), threads);
                  });

  // Those, and of the gradients of the divergences; of one matrix: addresses of the gradients of sides and scales.
  using Numbers = std::array<int64_t, 4>;
  contrastive.def("divergence_backward", [=](const SideNumbers& x, const SideNumbers& y, const SideNumbers& teacher_x,
                                             const SideNumbers& teacher_y, const CallNumbers& numbers,
                                             const CallNumbers& teacher, const Numbers& rows, const Numbers& columns,
                                             const Numbers& grads, const Numbers& teacher_grads, bool teacher_wanted,
                                             int threads) {
    py::gil_scoped_release release;
    const auto distances = [](const Numbers& n, int64_t count) {
      const auto *student = at<float>(n[1]), *teacher_lse = at<float>(n[2]);
      return Distances{student, student + count, teacher_lse, teacher_lse + count, at<float>(n[0]), at<float>(n[3])};
    };
    const auto gradients = [](const Numbers& n, bool wanted) {
      return MatrixGradients{at<float>(n[0]), at<float>(n[1]), at<float>(n[2]), at<float>(n[3]), wanted};
    };
    const Comparison both = comparison(x, y, teacher_x, teacher_y, numbers, teacher);
    divergence_backward(both, distances(rows, both.student.x.count),
                        distances(columns, both.student.columns ? both.student.y.count : 0), gradients(grads, true),
                        gradients(teacher_grads, teacher_wanted), threads);
  });
}

}  // namespace xmkern::contrastive
