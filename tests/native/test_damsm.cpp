// The kernels of DAMSM against naive sums in double, for the sanitizers: every capability, random shapes, strides and
// lengths, forward and backward, in exactly sized memory, so that a read past the end is seen.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/capability.h"
#include "damsm/damsm.h"
#include "numbers.h"

using namespace xmkern;
using namespace xmkern::damsm;

namespace {

// [item, row, column], rows and items a little apart or not; it ends with its last element.
struct Tensor {
  Dtype dtype;
  int64_t row, item;
  std::unique_ptr<uint8_t[]> bytes;

  Tensor(Dtype type, int64_t items, int64_t rows, int64_t columns) : dtype(type) {
    row = columns + draw(0, 1) * draw(1, 9), item = row * rows + draw(0, 1) * draw(1, 9);
    const bool empty = items * rows * columns == 0;
    const int64_t size = (empty ? 0 : (items - 1) * item + (rows - 1) * row + columns) * size_of(dtype);
    bytes = std::make_unique<uint8_t[]>(static_cast<size_t>(size));
    std::fill_n(bytes.get(), size, uint8_t{0xff});  // NaN, until written
  }
  double at(int64_t i, int64_t r, int64_t c) const { return read(bytes.get(), dtype, i * item + r * row + c); }
  void set(int64_t i, int64_t r, int64_t c, double x) { write(bytes.get(), dtype, i * item + r * row + c, x); }
  Operand operand() const { return {bytes.get(), item, row}; }
};

using Matrix = std::vector<std::vector<double>>;
Matrix zeros(int64_t rows, int64_t columns) {
  return Matrix(static_cast<size_t>(rows), std::vector<double>(static_cast<size_t>(columns)));
}
double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double total = 0;
  for (size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}
void softmax(std::vector<double>& x) {
  double total = 0;
  const double most = x.empty() ? 0 : *std::max_element(x.begin(), x.end());
  for (double& each : x) total += each = std::exp(each - most);
  for (double& each : x) each /= total;
}

int checks = 0;

struct Case {
  int64_t captions, images, words, regions, depth;
  Dtype dtype;
  double gamma1;

  void expect(double got, double want, double tolerance, const char* what) const {
    ++checks;
    if (std::fabs(got - want) <= tolerance) return;
    std::printf("FAILED: %s is %g, not %g within %g, at %s: dtype %d, N %d, M %d, T %d, R %d, D %d, gamma1 %g\n", what,
                got, want, tolerance, capability_name(current_capability()), static_cast<int>(dtype),
                static_cast<int>(captions), static_cast<int>(images), static_cast<int>(words),
                static_cast<int>(regions), static_cast<int>(depth), gamma1);
    std::exit(1);
  }

  void compare(const Tensor& got, const std::vector<Matrix>& want, double tolerance, const char* what) const {
    double largest = 0;
    for (const auto& matrix : want)
      for (const auto& row : matrix)
        for (double x : row) largest = std::max(largest, std::fabs(x));
    for (size_t i = 0; i < want.size(); ++i)
      for (size_t r = 0; r < want[i].size(); ++r)
        for (size_t c = 0; c < want[i][r].size(); ++c)
          expect(got.at(static_cast<int64_t>(i), static_cast<int64_t>(r), static_cast<int64_t>(c)), want[i][r][c],
                 tolerance * largest, what);
  }

  // The cosines and norms of one caption and one image, and their part of the gradients.
  void match(const Matrix& w, const Matrix& v, const float* grads, const float* cosines, const float* norms,
             double tolerance, Matrix& grad_w, Matrix& grad_v) const {
    const size_t T = w.size(), R = v.size(), D = static_cast<size_t>(depth);
    Matrix shares = zeros(regions, static_cast<int64_t>(T)), weights = zeros(static_cast<int64_t>(T), regions);
    for (size_t r = 0; r < R; ++r) {
      for (size_t t = 0; t < T; ++t) shares[r][t] = dot(w[t], v[r]);
      softmax(shares[r]);
    }
    Matrix slopes = zeros(regions, static_cast<int64_t>(T));
    for (size_t t = 0; t < T; ++t) {
      for (size_t r = 0; r < R; ++r) weights[t][r] = gamma1 * shares[r][t];
      softmax(weights[t]);
      std::vector<double> context(D), grad_context(D), grad_weights(R);
      for (size_t r = 0; r < R; ++r)
        for (size_t d = 0; d < D; ++d) context[d] += weights[t][r] * v[r][d];
      const double norm = std::sqrt(dot(context, context)), word_norm = std::sqrt(dot(w[t], w[t]));
      const double product = std::max(norm * word_norm, 1e-8), cosine = dot(w[t], context) / product, grad = grads[t];
      expect(norms[t], norm, tolerance * std::max(1.0, norm), "norm");
      expect(cosines[t], cosine, tolerance, "cosine");
      const bool clamped = norm * word_norm < 1e-8;
      for (size_t d = 0; d < D; ++d) {
        grad_context[d] = grad * w[t][d] / product - (clamped ? 0 : grad * cosine * context[d] / norm / norm);
        grad_w[t][d] += grad * context[d] / product - (clamped ? 0 : grad * cosine * w[t][d] / word_norm / word_norm);
      }
      for (size_t r = 0; r < R; ++r) grad_weights[r] = dot(grad_context, v[r]);
      const double mean = dot(weights[t], grad_weights);
      for (size_t r = 0; r < R; ++r) {
        slopes[r][t] = gamma1 * weights[t][r] * (grad_weights[r] - mean);
        for (size_t d = 0; d < D; ++d) grad_v[r][d] += weights[t][r] * grad_context[d];
      }
    }
    for (size_t r = 0; r < R; ++r) {
      const double mean = dot(shares[r], slopes[r]);
      for (size_t t = 0; t < T; ++t) {
        const double grad = shares[r][t] * (slopes[r][t] - mean);
        for (size_t d = 0; d < D; ++d) grad_w[t][d] += grad * v[r][d], grad_v[r][d] += grad * w[t][d];
      }
    }
  }

  void run() const {
    Tensor word(dtype, captions, words, depth), region(dtype, images, regions, depth);
    Tensor grad_word(dtype, captions, words, depth), grad_region(dtype, images, regions, depth);
    const auto lengths = std::make_unique<int64_t[]>(static_cast<size_t>(captions));
    std::vector<Matrix> w, v, want_w, want_v;
    const auto fill = [&](Tensor& x, int64_t item, int64_t rows, std::vector<Matrix>& out) {
      out.push_back(zeros(rows, depth));
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < depth; ++c)
          x.set(item, r, c, out.back()[static_cast<size_t>(r)][static_cast<size_t>(c)] = draw_number());
    };
    for (int64_t i = 0; i < captions; ++i) {
      lengths[static_cast<size_t>(i)] = draw(0, 3) ? draw(0, words) : words;
      fill(word, i, lengths[static_cast<size_t>(i)], w);
      want_w.push_back(zeros(words, depth));
    }
    for (int64_t j = 0; j < images; ++j) {
      fill(region, j, regions, v);
      want_v.push_back(zeros(regions, depth));
    }
    const auto size = static_cast<size_t>(captions * images * words);
    const auto cosines = std::make_unique<float[]>(size), norms = std::make_unique<float[]>(size),
               grads = std::make_unique<float[]>(size);
    for (size_t i = 0; i < size; ++i) grads[i] = static_cast<float>(draw_number());

    const Problem problem{
        captions,       images,           words,         regions,       depth,      dtype, static_cast<float>(gamma1),
        word.operand(), region.operand(), lengths.get(), cosines.get(), norms.get()};
    forward(problem, 2);
    backward(problem, {grads.get(), grad_word.operand(), grad_region.operand()}, 2);

    // Cosines and norms stay in float32 where the arithmetic does.
    const double tolerance = 16 * epsilon(dtype == Dtype::float16 ? Dtype::float32 : dtype);
    for (int64_t i = 0; i < captions; ++i)
      for (int64_t j = 0; j < images; ++j) {
        const auto at = static_cast<size_t>((i * images + j) * words);
        match(w[static_cast<size_t>(i)], v[static_cast<size_t>(j)], grads.get() + at, cosines.get() + at,
              norms.get() + at, tolerance, want_w[static_cast<size_t>(i)], want_v[static_cast<size_t>(j)]);
        for (int64_t t = lengths[static_cast<size_t>(i)]; t < words; ++t)
          expect(cosines[at + static_cast<size_t>(t)], 0, 0, "cosine of padding");
      }
    compare(grad_word, want_w, 64 * epsilon(dtype), "gradient of words");
    compare(grad_region, want_v, 64 * epsilon(dtype), "gradient of regions");
  }
};

void check() {
  Case{draw(0, 9),
       one_of({0, 1, 2, 3, 17}),
       one_of({0, 1, 3, 18, 100}),
       one_of({0, 1, 7, 16, 33, 70, 270}),
       one_of({8, 16, 24, 33, 270}),
       static_cast<Dtype>(draw(0, 2)),
       static_cast<double>(one_of({1, 4, -2}))}
      .run();
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 40; ++i) check();
  }
  std::printf("damsm: %d checks passed on %d capabilities\n", checks, static_cast<int>(detected_capability()) + 1);
  return 0;
}
