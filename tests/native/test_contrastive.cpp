// The kernels of similarity reductions against naive sums in double, for the sanitizers: every capability and kind,
// random shapes, strides and sorts of pairs, forward and backward, in exactly sized memory, so that a read past the end
// is seen; and on one thread as on three.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "contrastive/contrastive.h"
#include "contrastive/divergence.h"
#include "core/capability.h"
#include "numbers.h"

using namespace xmkern;
using namespace xmkern::contrastive;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
int checks = 0;

// One side of the matrix in memory of its own, and what is wanted of it.
struct Operand {
  int64_t count, stride;
  Dtype dtype;
  std::unique_ptr<uint8_t[]> data;
  std::vector<float> scale, offset, grad_value, grad_positive;
  std::vector<int64_t> ids, groups;
  std::vector<float> value, positive, grad, grad_scale;
  std::vector<int64_t> places;
  std::vector<double> want_value, want_positive, want_count, want_grad, want_grad_scale;

  Operand(int64_t rows, int64_t depth, Dtype type)
      : count(rows), stride(depth + (coin() ? draw(1, 9) : 0)), dtype(type) {
    const auto numbers = rows ? (rows - 1) * stride + depth : 0, width = (depth + 15) / 16 * 16;
    data = std::make_unique<uint8_t[]>(static_cast<size_t>(numbers * size_of(dtype)));
    for (int64_t i = 0; i < numbers; ++i) write(data.get(), dtype, i, i % stride < depth ? draw_number() : NAN);
    for (int64_t i = 0; i < rows; ++i) {
      scale.push_back(static_cast<float>(0.3 + 0.1 * draw_number()));
      offset.push_back(static_cast<float>(draw_number()));
      grad_value.push_back(static_cast<float>(draw_number()));
      grad_positive.push_back(static_cast<float>(draw_number()));
      ids.push_back(draw(0, 20));
      groups.push_back(draw(0, 3));
    }
    const auto size = static_cast<size_t>(rows);
    value.resize(size), positive.resize(size), places.resize(size);
    want_value.resize(size), want_positive.resize(size), want_count.resize(size);
    grad.resize(static_cast<size_t>(rows * width)), want_grad.resize(static_cast<size_t>(rows * width));
    grad_scale.resize(size), want_grad_scale.resize(size);
  }

  double at(int64_t row, int64_t k) const { return read(data.get(), dtype, row * stride + k); }

  Side side(bool with_ids, bool with_groups, bool with_offset) const {
    return {data.get(),
            count,
            stride,
            scale.data(),
            with_ids ? ids.data() : nullptr,
            with_groups ? groups.data() : nullptr,
            with_offset ? offset.data() : nullptr};
  }
  Totals totals() { return {value.data(), positive.data(), places.data(), nullptr, nullptr}; }
  Slopes slopes() {
    return {value.data(), positive.data(), grad_value.data(), grad_positive.data(), grad.data(), grad_scale.data()};
  }
};

double log_sum_exp(const std::vector<double>& z) {
  const double most = z.empty() ? -infinity : *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (double each : z) sum += std::exp(each - most);
  return z.empty() ? -infinity : most + std::log(sum);
}

bool draws_none(Kind kind) { return kind == Kind::softplus || kind == Kind::margin; }

struct Case {
  Problem p;
  Operand x, y;
  std::vector<uint8_t> relevance;
  std::vector<float> grad_bias;

  Case(int64_t rows, int64_t columns, int64_t depth, Dtype dtype, Kind kind)
      : x(rows, depth, dtype), y(columns, depth, dtype), grad_bias(static_cast<size_t>(rows)) {
    const bool related = coin(), ids = !related && coin(), groups = coin();
    for (int64_t i = 0; i < rows * columns; ++i) relevance.push_back(draw(0, 9) == 0);
    const bool offsets = kind == Kind::hinge || kind == Kind::margin;
    p = {x.side(ids, groups, offsets),
         y.side(ids, groups, offsets),
         depth,
         dtype,
         -0.25f,
         related ? relevance.data() : nullptr,
         columns,
         kind,
         coin()};
  }

  double product(int64_t i, int64_t j) const {
    double sum = 0;
    for (int64_t k = 0; k < p.depth; ++k) sum += x.at(i, k) * y.at(j, k);
    return sum;
  }
  double logit(int64_t i, int64_t j) const {
    const auto a = static_cast<size_t>(i), b = static_cast<size_t>(j);
    return product(i, j) * x.scale[a] * y.scale[b] + p.bias;
  }
  bool positive(int64_t i, int64_t j) const {
    if (p.relevance) return relevance[static_cast<size_t>(i * p.y.count + j)] != 0;
    return p.x.ids && x.ids[static_cast<size_t>(i)] == y.ids[static_cast<size_t>(j)];
  }
  bool hidden(int64_t i, int64_t j) const {
    return p.x.groups && !positive(i, j) && x.groups[static_cast<size_t>(i)] == y.groups[static_cast<size_t>(j)];
  }

  // What the reductions of one side are; `turned`: of the columns.
  void reduce(Operand& own, bool turned) const {
    const int64_t others = turned ? x.count : y.count;
    for (int64_t i = 0; i < own.count; ++i) {
      const auto at = static_cast<size_t>(i);
      std::vector<double> seen, drawn;
      double value = p.kind == Kind::maximum ? -infinity : 0, pull = 0, count = p.kind == Kind::maximum ? -1 : 0;
      for (int64_t j = 0; j < others; ++j) {
        const int64_t row = turned ? j : i, column = turned ? i : j;
        const double z = logit(row, column);
        const bool is_positive = positive(row, column), is_hidden = hidden(row, column);
        if (!is_hidden) seen.push_back(z);
        if (is_positive) drawn.push_back(z), pull += z;
        if (p.kind == Kind::softplus && !is_hidden)
          value += std::log1p(std::exp(-std::fabs(z))) + std::max(is_positive ? -z : z, 0.0);
        if (p.kind == Kind::margin && !is_hidden) value += std::max((is_positive ? -z : z) + own.offset[at], 0.0);
        const bool rival = !is_positive && !is_hidden;
        if (p.kind == Kind::hinge && rival) value += std::max(z + own.offset[at], 0.0);
        if (p.kind == Kind::maximum && rival && z > value) value = z, count = static_cast<double>(j);
        if (p.kind != Kind::hinge && p.kind != Kind::maximum) count += is_positive;
      }
      const bool exponential = p.kind == Kind::logsumexp || p.kind == Kind::mil;
      own.want_value[at] = exponential ? log_sum_exp(seen) : value;
      own.want_positive[at] = p.kind == Kind::mil ? log_sum_exp(drawn) : draws_none(p.kind) ? 0 : pull;
      own.want_count[at] = count;
    }
  }

  double slope(const Operand& own, int64_t i, double z, bool is_positive, bool is_hidden) const {
    const auto at = static_cast<size_t>(i);
    if (is_hidden) return 0;
    if (p.kind == Kind::softplus)
      return is_positive ? -own.grad_value[at] / (1 + std::exp(z)) : own.grad_value[at] / (1 + std::exp(-z));
    const double pull = is_positive ? own.grad_positive[at] : 0;
    if (p.kind == Kind::hinge) return is_positive ? pull : z + own.offset[at] > 0 ? own.grad_value[at] : 0;
    const double push = own.grad_value[at] * std::exp(z - own.want_value[at]);
    if (p.kind == Kind::logsumexp) return push + pull;
    return push + (is_positive ? pull * std::exp(z - own.want_positive[at]) : 0);
  }

  void expect(double got, double want, double size, double unit, const char* what) const {
    ++checks;
    if (got == want || std::fabs(got - want) <= unit * std::max(1.0, size)) return;
    std::printf("FAILED: %s is %g, not %g, at %s: kind %d, dtype %d, %d x %d x %d, columns %d, ids %d, groups %d\n",
                what, got, want, capability_name(current_capability()), static_cast<int>(p.kind),
                static_cast<int>(p.dtype), static_cast<int>(p.x.count), static_cast<int>(p.y.count),
                static_cast<int>(p.depth), p.columns, p.x.ids != nullptr, p.x.groups != nullptr);
    std::exit(1);
  }

  void check_totals(const Operand& own) const {
    for (size_t i = 0; i < own.value.size(); ++i) {
      const double size = std::fabs(own.want_value[i]) + static_cast<double>(std::max(x.count, y.count));
      expect(own.value[i], own.want_value[i], size, 1e-5, "value");
      expect(own.positive[i], own.want_positive[i], size, 1e-5, "positive");
      // At a tie or a kink, rounding decides.
      if (p.kind != Kind::hinge && p.kind != Kind::maximum)
        expect(static_cast<double>(own.places[i]), own.want_count[i], 0, 0, "count");
    }
  }

  void check_gradients(const Operand& own, const std::vector<double>& sizes) const {
    const double unit = 8 * epsilon(p.dtype == Dtype::float16 ? Dtype::float32 : p.dtype);
    const int64_t width = (p.depth + 15) / 16 * 16;
    for (int64_t i = 0; i < own.count; ++i) {
      const auto at = static_cast<size_t>(i);
      for (int64_t k = 0; k < p.depth; ++k) {
        const auto place = static_cast<size_t>(i * width + k);
        expect(own.grad[place], own.want_grad[place], sizes[at], unit, "gradient");
      }
      expect(own.grad_scale[at], own.want_grad_scale[at], sizes[at] * static_cast<double>(p.depth), 1e-5, "scale's");
    }
  }

  void run() {
    forward(p, x.totals(), y.totals(), 1);
    reduce(x, false);
    check_totals(x);
    reduce(y, true);
    if (p.columns) check_totals(y);
    const auto value = x.value;
    forward(p, x.totals(), y.totals(), 3);
    for (size_t i = 0; i < value.size(); ++i) expect(x.value[i], value[i], 0, 0, "value on three threads");
    // The slopes of hinges jump, and may do so by rounding.
    if (p.kind == Kind::maximum || p.kind == Kind::hinge || p.kind == Kind::margin) return;

    backward(p, {x.slopes(), y.slopes(), grad_bias.data()}, 1);
    const int64_t width = (p.depth + 15) / 16 * 16;
    std::vector<double> bias(static_cast<size_t>(x.count)), x_sizes(bias.size()), y_sizes(static_cast<size_t>(y.count));
    for (int64_t i = 0; i < x.count; ++i)
      for (int64_t j = 0; j < y.count; ++j) {
        const auto a = static_cast<size_t>(i), b = static_cast<size_t>(j);
        const double z = logit(i, j), s = product(i, j);
        const bool is_positive = positive(i, j), is_hidden = hidden(i, j);
        double grad = slope(x, i, z, is_positive, is_hidden);
        if (p.columns) grad += slope(y, j, z, is_positive, is_hidden);
        bias[a] += grad;
        x.want_grad_scale[a] += grad * y.scale[b] * s, y.want_grad_scale[b] += grad * x.scale[a] * s;
        const double share = grad * x.scale[a] * y.scale[b];
        x_sizes[a] += 2 * std::fabs(grad), y_sizes[b] += 2 * std::fabs(grad);
        for (int64_t k = 0; k < p.depth; ++k) {
          x.want_grad[static_cast<size_t>(i * width + k)] += share * y.at(j, k);
          y.want_grad[static_cast<size_t>(j * width + k)] += share * x.at(i, k);
        }
      }
    check_gradients(x, x_sizes);
    check_gradients(y, y_sizes);
    for (size_t i = 0; i < bias.size(); ++i) expect(grad_bias[i], bias[i], x_sizes[i], 1e-5, "bias");
    const auto grad = y.grad;
    std::fill(y.grad.begin(), y.grad.end(), 0.0f);
    backward(p, {x.slopes(), y.slopes(), grad_bias.data()}, 3);
    for (size_t i = 0; i < grad.size(); ++i) expect(y.grad[i], grad[i], 0, 0, "gradient on three threads");
    check_one_side(x, y);
    check_one_side(y, x);
    if (p.kind != Kind::mil) check_loss();
  }

  // Gradients of sides and scales, of slopes of all pairs.
  void check_products(const std::vector<double>& slopes) {
    const int64_t width = (p.depth + 15) / 16 * 16;
    std::vector<double> x_sizes(static_cast<size_t>(x.count), 1.0), y_sizes(static_cast<size_t>(y.count), 1.0);
    for (int64_t i = 0; i < x.count; ++i)
      for (int64_t j = 0; j < y.count; ++j) {
        const auto a = static_cast<size_t>(i), b = static_cast<size_t>(j);
        const double grad = slopes[static_cast<size_t>(i * y.count + j)], s = product(i, j);
        x.want_grad_scale[a] += grad * y.scale[b] * s, y.want_grad_scale[b] += grad * x.scale[a] * s;
        x_sizes[a] += 2 * std::fabs(grad), y_sizes[b] += 2 * std::fabs(grad);
        for (int64_t k = 0; k < p.depth; ++k) {
          x.want_grad[static_cast<size_t>(i * width + k)] += grad * x.scale[a] * y.scale[b] * y.at(j, k);
          y.want_grad[static_cast<size_t>(j * width + k)] += grad * x.scale[a] * y.scale[b] * x.at(i, k);
        }
      }
    check_gradients(x, x_sizes), check_gradients(y, y_sizes);
  }

  // A side's gradient is the same where the other's is not wanted.
  void check_one_side(Operand& live, Operand& frozen) {
    const auto run_on = [&](const Slopes& other) {
      std::fill(live.grad.begin(), live.grad.end(), 0.0f);
      backward(p, {&live == &x ? x.slopes() : other, &live == &x ? other : y.slopes(), grad_bias.data()}, 2);
      return live.grad;
    };
    const auto want = run_on(frozen.slopes());
    Slopes unwanted = frozen.slopes();
    unwanted.grad = nullptr;
    const auto got = run_on(unwanted);
    for (size_t i = 0; i < want.size(); ++i) expect(got[i], want[i], 0, 0, "gradient of one side");
  }

  // Loss and gradients in one go are those of forward and backward, of a sum.
  void check_loss() {
    double want = 0;
    const auto weigh = [&](Operand& own) {
      for (size_t i = 0; i < own.value.size(); ++i) {
        const bool counts = p.kind == Kind::softplus || own.places[i] > 0;
        own.grad_value[i] = counts, own.grad_positive[i] = 0;
        if (p.kind == Kind::logsumexp && counts) own.grad_positive[i] = -1.0f / static_cast<float>(own.places[i]);
        if (counts) want += own.value[i] + own.grad_positive[i] * own.positive[i];
      }
    };
    if (p.kind == Kind::softplus) p.columns = false;
    weigh(x);
    if (p.columns) weigh(y);
    std::fill(x.grad.begin(), x.grad.end(), 0.0f), std::fill(y.grad.begin(), y.grad.end(), 0.0f);
    backward(p, {x.slopes(), y.slopes(), grad_bias.data()}, 2);
    const auto x_grad = x.grad, y_grad = y.grad;
    std::fill(x.grad.begin(), x.grad.end(), 0.0f), std::fill(y.grad.begin(), y.grad.end(), 0.0f);
    if (p.kind == Kind::softplus) {
      const double got = loss(p, 1.0, {x.slopes(), y.slopes(), grad_bias.data()}, 2);
      expect(got, want, std::fabs(want) + static_cast<double>(x.count * y.count), 1e-5, "loss");
      for (size_t i = 0; i < x_grad.size(); ++i) expect(x.grad[i], x_grad[i], 0, 0, "gradient in one go");
      for (size_t i = 0; i < y_grad.size(); ++i) expect(y.grad[i], y_grad[i], 0, 0, "gradient in one go");
    }
    if (p.dtype == Dtype::float16) return;
    // Of the matrix that is kept, sums are taken in another order.
    const auto bytes = static_cast<size_t>(p.depth * size_of(p.dtype));
    const auto x_out = std::make_unique<uint8_t[]>(x.grad.size() ? static_cast<size_t>(x.count) * bytes : 0);
    const auto y_out = std::make_unique<uint8_t[]>(y.grad.size() ? static_cast<size_t>(y.count) * bytes : 0);
    float bias = 0;
    for (const int threads : {1, 3}) {
      const WholeGradients wanted = {x_out.get(), threads == 1 ? y_out.get() : nullptr, x.grad_scale.data(),
                                     y.grad_scale.data(), &bias};
      const double got = whole_loss(p, 1.0, wanted, threads);
      expect(got, want, std::fabs(want) + static_cast<double>(x.count * y.count), 1e-5, "kept loss");
      check_rounded(x, x_grad, x_out.get(), y.count);
      check_rounded(y, y_grad, y_out.get(), x.count);
    }
  }

  void check_rounded(const Operand& own, const std::vector<float>& want, const uint8_t* got, int64_t others) const {
    const int64_t width = (p.depth + 15) / 16 * 16;
    for (int64_t i = 0; i < own.count; ++i)
      for (int64_t k = 0; k < p.depth; ++k) {
        const double expected = want[static_cast<size_t>(i * width + k)];
        const double size = std::fabs(expected) + 0.1 * static_cast<double>(others);
        expect(read(got, p.dtype, i * p.depth + k), expected, size, 8 * epsilon(p.dtype), "kept gradient");
      }
  }
};

// The divergence of two matrices, and its gradients, of rows and columns or of rows alone.
struct Pair {
  Case z, t;
  std::vector<double> z_slopes, t_slopes;

  Pair(int64_t rows, int64_t columns, Dtype dtype)
      : z(rows, columns, one_of({1, 40, 70}), dtype, Kind::logsumexp),
        t(rows, columns, one_of({3, 33, 64}), dtype, Kind::logsumexp) {
    for (Case* each : {&z, &t}) {
      each->p.relevance = nullptr, each->p.columns = z.p.columns;
      for (Side* side : {&each->p.x, &each->p.y}) side->ids = side->groups = nullptr;
    }
  }

  // Of one side: the divergences in double, and their share of the slopes of all pairs.
  std::vector<double> divergences(bool turned, const std::vector<float>& grad) {
    const int64_t own = turned ? z.y.count : z.x.count, others = turned ? z.x.count : z.y.count;
    std::vector<double> found;
    for (int64_t i = 0; i < own; ++i) {
      const auto pair = [&](int64_t j) { return turned ? std::pair(j, i) : std::pair(i, j); };
      std::vector<double> z_row, t_row;
      for (int64_t j = 0; j < others; ++j) {
        z_row.push_back(z.logit(pair(j).first, pair(j).second)),
            t_row.push_back(t.logit(pair(j).first, pair(j).second));
      }
      const double z_lse = log_sum_exp(z_row), t_lse = log_sum_exp(t_row);
      double sum = 0;
      const auto surplus = [&](size_t j) { return t_row[j] - t_lse - (z_row[j] - z_lse); };
      for (size_t j = 0; j < z_row.size(); ++j) sum += std::exp(t_row[j] - t_lse) * surplus(j);
      for (size_t j = 0; j < z_row.size(); ++j) {
        const auto [row, column] = pair(static_cast<int64_t>(j));
        const auto at = static_cast<size_t>(row * z.y.count + column);
        const double p = std::exp(t_row[j] - t_lse), push = grad[static_cast<size_t>(i)];
        z_slopes[at] += push * (std::exp(z_row[j] - z_lse) - p), t_slopes[at] += push * p * (surplus(j) - sum);
      }
      found.push_back(sum);
    }
    return found;
  }

  void run() {
    const auto rows = static_cast<size_t>(z.x.count), columns = static_cast<size_t>(z.p.columns ? z.y.count : 0);
    std::vector<float> of_rows(5 * rows), of_columns(5 * columns);
    const Comparison both{z.p, t.p};
    const auto outputs = [](std::vector<float>& of, size_t count) {
      Divergences out{};
      out.divergence = of.data(), out.student.value = of.data() + count, out.student_log = of.data() + 2 * count;
      out.teacher.value = of.data() + 3 * count, out.teacher_log = of.data() + 4 * count;
      return out;
    };
    divergence(both, outputs(of_rows, rows), outputs(of_columns, columns), 1);
    const auto first = of_rows;
    divergence(both, outputs(of_rows, rows), outputs(of_columns, columns), 3);
    for (size_t i = 0; i < first.size(); ++i) z.expect(of_rows[i], first[i], 0, 0, "divergence on three threads");
    z_slopes.resize(rows * static_cast<size_t>(z.y.count)), t_slopes.resize(z_slopes.size());
    const auto check = [&](const std::vector<double>& want, const std::vector<float>& got) {
      for (size_t i = 0; i < want.size(); ++i) z.expect(got[i], want[i], 10, 1e-5, "divergence");
    };
    check(divergences(false, z.x.grad_value), of_rows);
    if (columns) check(divergences(true, z.y.grad_value), of_columns);

    const auto distances = [](const std::vector<float>& of, size_t count, const Operand& side) {
      const float* at = of.data();
      return Distances{at + count, at + 2 * count, at + 3 * count, at + 4 * count, at, side.grad_value.data()};
    };
    const auto gradients = [](Case& of, bool wanted) {
      return MatrixGradients{wanted ? of.x.grad.data() : nullptr, wanted ? of.y.grad.data() : nullptr,
                             of.x.grad_scale.data(), of.y.grad_scale.data(), wanted};
    };
    const bool taught = coin();
    divergence_backward(both, distances(of_rows, rows, z.x), distances(of_columns, columns, z.y), gradients(z, true),
                        gradients(t, taught), 2);
    z.check_products(z_slopes);
    if (taught) t.check_products(t_slopes);
  }
};

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 120; ++i) {
      const int64_t rows = one_of({0, 1, 2, 13, 31, 145, 300}), columns = one_of({0, 1, 3, 17, 32, 130, 257, 530});
      const int64_t depth = one_of({1, 7, 16, 33, 64, 100});
      Case(rows, columns, depth, static_cast<Dtype>(draw(0, 2)), static_cast<Kind>(i % 6)).run();
    }
    for (int i = 0; i < 24; ++i)
      Pair(one_of({0, 1, 13, 145, 300}), one_of({0, 1, 17, 130, 270}), static_cast<Dtype>(i % 3)).run();
    Case(20, 40, 1100, Dtype::float32, Kind::logsumexp).run();
    Case(20, 40, 1100, Dtype::bfloat16, Kind::softplus).run();
  }
  std::printf("contrastive: %d checks passed on %d capabilities\n", checks,
              static_cast<int>(detected_capability()) + 1);
  return 0;
}
