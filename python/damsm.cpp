#include "damsm/damsm.h"

#include <array>

#include "module.h"

namespace py = pybind11;
namespace xmkern::damsm {
namespace {

// Address, then strides of item and row.
using OperandNumbers = std::array<int64_t, 3>;

Operand operand(const OperandNumbers& n) { return {at<void>(n[0]), n[1], n[2]}; }

Problem problem(const std::array<int64_t, 5>& shape, int dtype, float gamma1, const OperandNumbers& words,
                const OperandNumbers& regions, int64_t lengths, int64_t cosines, int64_t norms) {
  const auto [captions, images, word_count, region_count, depth] = shape;
  return {captions,
          images,
          word_count,
          region_count,
          depth,
          static_cast<Dtype>(dtype),
          gamma1,
          operand(words),
          operand(regions),
          at<int64_t>(lengths),
          at<float>(cosines),
          at<float>(norms)};
}

}  // namespace

void bind(py::module_& module) {
  py::module_ damsm = module.def_submodule("damsm");

  damsm.def("forward", [](const std::array<int64_t, 5>& shape, int dtype, float gamma1, const OperandNumbers& words,
                          const OperandNumbers& regions, int64_t lengths, int64_t cosines, int64_t norms, int threads) {
    const Problem call = problem(shape, dtype, gamma1, words, regions, lengths, cosines, norms);
    py::gil_scoped_release release;
    forward(call, threads);
  });

  damsm.def("backward",
            [](const std::array<int64_t, 5>& shape, int dtype, float gamma1, const OperandNumbers& words,
               const OperandNumbers& regions, int64_t lengths, int64_t cosines, int64_t norms, int64_t grad_cosines,
               const OperandNumbers& grad_words, const OperandNumbers& grad_regions, int threads) {
              const Problem call = problem(shape, dtype, gamma1, words, regions, lengths, cosines, norms);
              const Gradients gradients = {at<float>(grad_cosines), operand(grad_words), operand(grad_regions)};
              py::gil_scoped_release release;
              backward(call, gradients, threads);
            });
}

}  // namespace xmkern::damsm
