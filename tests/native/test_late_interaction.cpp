// The kernels of late interaction against naive sums in double, for the sanitizers: every capability, random shapes,
// strides and masks, forward and backward, in exactly sized memory, so that a read past the end is seen.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "core/capability.h"
#include "late_interaction/late_interaction.h"

using namespace xmkern;
using namespace xmkern::late_interaction;

namespace {

std::mt19937_64 generator;

int64_t draw(int64_t from, int64_t to) { return std::uniform_int_distribution<int64_t>(from, to)(generator); }
bool coin() { return draw(0, 1) != 0; }
int64_t one_of(std::initializer_list<int64_t> values) {
  return values.begin()[draw(0, static_cast<int64_t>(values.size()) - 1)];
}

// Multiples of 1/64, which all dtypes have, and whose products add up in float32 without rounding.
double draw_number() { return static_cast<double>(draw(-96, 96)) / 64; }

void write(void* data, Dtype dtype, int64_t at, double x) {
  if (dtype == Dtype::float32) {
    static_cast<float*>(data)[at] = static_cast<float>(x);
    return;
  }
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(x));
  const uint32_t half = x == 0 ? 0 : (bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10));
  static_cast<uint16_t*>(data)[at] = static_cast<uint16_t>(dtype == Dtype::bfloat16 ? bits >> 16 : half);
}

double read(const void* data, Dtype dtype, int64_t at) {
  if (dtype == Dtype::float32) return static_cast<const float*>(data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(data)[at];
  if (dtype == Dtype::bfloat16) return std::bit_cast<float>(uint32_t{bits} << 16);
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 31) return std::nan("");
  const double size = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
  return bits & 0x8000 ? -size : size;
}

double epsilon(Dtype dtype) { return dtype == Dtype::float32 ? 0x1p-23 : dtype == Dtype::bfloat16 ? 0x1p-7 : 0x1p-10; }

// Samples of tokens in one of two memory orders, tokens a little apart or not; it ends with its last number.
struct RandomSide {
  Dtype dtype;
  int64_t samples, tokens, depth, sample_stride, token_stride;
  std::unique_ptr<uint8_t[]> bytes, mask;

  RandomSide(Dtype type, int64_t n, int64_t t, int64_t d) : dtype(type), samples(n), tokens(t), depth(d) {
    const int64_t apart = depth + (coin() ? draw(1, 9) : 0);
    const bool samples_inside = coin();
    token_stride = samples_inside ? apart * samples : apart;
    sample_stride = samples_inside ? apart : apart * tokens;
    const bool empty = samples * tokens == 0;
    const int64_t size = empty ? 0 : index(samples - 1, tokens - 1) + depth;
    bytes = std::make_unique<uint8_t[]>(static_cast<size_t>(size * size_of(dtype)));
    std::fill_n(bytes.get(), size * size_of(dtype), uint8_t{0xff});  // NaN, which what is hidden stays
    if (coin()) {
      mask = std::make_unique<uint8_t[]>(static_cast<size_t>(samples * tokens));
      for (int64_t i = 0; i < samples * tokens; ++i) mask[static_cast<size_t>(i)] = draw(0, 3) != 0;
      if (samples > 0 && coin()) std::fill_n(mask.get(), tokens, uint8_t{0});
    }
    for (int64_t sample = 0; sample < samples; ++sample)
      for (int64_t token = 0; token < tokens; ++token)
        for (int64_t c = 0; seen(sample, token) && c < depth; ++c)
          write(bytes.get(), dtype, index(sample, token) + c, draw_number());
  }

  int64_t index(int64_t sample, int64_t token) const { return sample * sample_stride + token * token_stride; }
  double at(int64_t sample, int64_t token, int64_t c) const {
    return read(bytes.get(), dtype, index(sample, token) + c);
  }
  bool seen(int64_t sample, int64_t token) const {
    return !mask || mask[static_cast<size_t>(sample * tokens + token)] != 0;
  }
  int64_t count(int64_t sample) const {
    int64_t total = 0;
    for (int64_t token = 0; token < tokens; ++token) total += seen(sample, token);
    return total;
  }
  Side side() const { return {bytes.get(), samples, tokens, sample_stride, token_stride, mask.get()}; }
};

// What a call leaves of the tokens of one side, and what it should.
struct Results {
  std::unique_ptr<float[]> scores;
  std::unique_ptr<uint8_t[]> winners;
  std::vector<double> want;
  std::vector<int64_t> want_winners;
  int64_t tokens, bytes;

  Results(int64_t pairs, int64_t own_tokens, int64_t other_tokens)
      : want(static_cast<size_t>(pairs)),
        want_winners(static_cast<size_t>(pairs * own_tokens)),
        tokens(own_tokens),
        bytes(winner_bytes(other_tokens)) {
    scores = std::make_unique<float[]>(static_cast<size_t>(pairs));
    winners = std::make_unique<uint8_t[]>(static_cast<size_t>(pairs * own_tokens * bytes));
  }

  int64_t winner(int64_t i) const {
    const uint8_t* at = winners.get() + i * bytes;
    return bytes == 1   ? *at
           : bytes == 2 ? *reinterpret_cast<const int16_t*>(at)
                        : *reinterpret_cast<const int32_t*>(at);
  }
};

int checks = 0;

struct Case {
  Dtype dtype;
  bool mean, both;
  int64_t depth;
  RandomSide x, y;

  void expect(double got, double want, double tolerance, const char* what) {
    ++checks;
    if (got == want || std::fabs(got - want) <= tolerance) return;
    std::printf("FAILED: %s is %g, not %g, at %s: dtype %d, B %d, N %d, R %d, T %d, D %d, mean %d\n", what, got, want,
                capability_name(current_capability()), static_cast<int>(dtype), static_cast<int>(x.samples),
                static_cast<int>(y.samples), static_cast<int>(x.tokens), static_cast<int>(y.tokens),
                static_cast<int>(depth), mean);
    std::exit(1);
  }

  double similarity(int64_t b, int64_t r, int64_t n, int64_t t) const {
    double total = 0;
    for (int64_t c = 0; c < depth; ++c) total += x.at(b, r, c) * y.at(n, t, c);
    return total;
  }

  // Scores and winners of the pair (b, n); `of_x`: of x's tokens.
  void score(int64_t b, int64_t n, bool of_x, Results& results) const {
    const RandomSide &own = of_x ? x : y, &other = of_x ? y : x;
    const int64_t i = of_x ? b : n, j = of_x ? n : b, pair = b * y.samples + n;
    if (own.count(i) == 0 || other.count(j) == 0) return;
    double total = 0;
    for (int64_t token = 0; token < own.tokens; ++token) {
      if (!own.seen(i, token)) continue;
      double most = -std::numeric_limits<double>::infinity();
      for (int64_t against = 0; against < other.tokens; ++against) {
        if (!other.seen(j, against)) continue;
        const double found = of_x ? similarity(b, token, n, against) : similarity(b, against, n, token);
        if (found > most) {
          most = found;
          results.want_winners[static_cast<size_t>(pair * own.tokens + token)] = against;
        }
      }
      total += most;
    }
    results.want[static_cast<size_t>(pair)] = mean ? total / static_cast<double>(own.count(i)) : total;
  }

  // Adds what the gradient of the pair's score of x's tokens, or y's, gives to both sides' tokens.
  void add_gradients(int64_t b, int64_t n, bool of_x, const Results& results, std::vector<double>& grad_x,
                     std::vector<double>& grad_y) const {
    const RandomSide &own = of_x ? x : y, &other = of_x ? y : x;
    const int64_t i = of_x ? b : n, j = of_x ? n : b, pair = b * y.samples + n;
    if (own.count(i) == 0 || other.count(j) == 0) return;
    double weight = static_cast<double>(results.scores[static_cast<size_t>(pair)]);
    if (mean) weight /= static_cast<double>(own.count(i));
    for (int64_t token = 0; token < own.tokens; ++token) {
      if (!own.seen(i, token)) continue;
      const int64_t won = results.winner(pair * own.tokens + token);
      const int64_t r = of_x ? token : won, t = of_x ? won : token;
      for (int64_t c = 0; c < depth; ++c) {
        grad_x[static_cast<size_t>((b * x.tokens + r) * depth + c)] += weight * y.at(n, t, c);
        grad_y[static_cast<size_t>((n * y.tokens + t) * depth + c)] += weight * x.at(b, r, c);
      }
    }
  }

  void compare(const char* what, const RandomSide& side, const uint8_t* got, const std::vector<double>& want) {
    double largest = 1;
    for (double each : want) largest = std::max(largest, std::fabs(each));
    for (int64_t i = 0; i < side.samples * side.tokens; ++i)
      for (int64_t c = 0; side.seen(i / side.tokens, i % side.tokens) && c < depth; ++c)
        expect(read(got, dtype, i * depth + c), want[static_cast<size_t>(i * depth + c)], largest * 16 * epsilon(dtype),
               what);
  }

  void run() {
    const int64_t pairs = x.samples * y.samples;
    Results of_x(pairs, x.tokens, y.tokens), of_y(both ? pairs : 0, y.tokens, x.tokens);
    const Problem problem{dtype, depth, mean, x.side(), y.side()};
    const Scores x_scores{of_x.scores.get(), of_x.winners.get()};
    const Scores y_scores{both ? of_y.scores.get() : nullptr, of_y.winners.get()};
    forward(problem, x_scores, y_scores, 2);
    for (Results* results : {&of_x, &of_y}) {
      if (results == &of_y && !both) continue;
      for (int64_t i = 0; i < pairs; ++i) score(i / y.samples, i % y.samples, results == &of_x, *results);
      for (int64_t i = 0; i < pairs; ++i) {
        const double want = results->want[static_cast<size_t>(i)];
        expect(results->scores[static_cast<size_t>(i)], want, 1e-5 * std::max(1.0, std::fabs(want)), "a score");
      }
      for (int64_t i = 0; i < pairs * results->tokens; ++i)
        expect(static_cast<double>(results->winner(i)),
               static_cast<double>(results->want_winners[static_cast<size_t>(i)]), 0, "a winner");
      for (int64_t i = 0; i < pairs; ++i)  // now gradients, some of them zero
        results->scores[static_cast<size_t>(i)] = draw(0, 3) ? static_cast<float>(draw_number()) : 0.0f;
    }

    const auto numbers = [&](const RandomSide& side) {
      return static_cast<size_t>(side.samples * side.tokens * depth);
    };
    const auto bytes = static_cast<size_t>(size_of(dtype));
    const auto grad_x = std::make_unique<uint8_t[]>(numbers(x) * bytes);
    const auto grad_y = std::make_unique<uint8_t[]>(numbers(y) * bytes);
    backward(problem, x_scores, y_scores, grad_x.get(), grad_y.get(), 2);
    std::vector<double> want_x(numbers(x)), want_y(numbers(y));
    for (int64_t i = 0; i < pairs; ++i) {
      add_gradients(i / y.samples, i % y.samples, true, of_x, want_x, want_y);
      if (both) add_gradients(i / y.samples, i % y.samples, false, of_y, want_x, want_y);
    }
    compare("gradient of x", x, grad_x.get(), want_x);
    compare("gradient of y", y, grad_y.get(), want_y);
    backward(problem, x_scores, y_scores, nullptr, nullptr, 2);  // no side is wanted
  }
};

void check() {
  const auto dtype = static_cast<Dtype>(draw(0, 2));
  const int64_t depth = one_of({1, 7, 16, 40, 100, 256, 257, 520});
  const auto side = [&] {
    const int64_t tokens = one_of({0, 1, 2, 11, 12, 13, 17, 33, 49, 65, 270});
    return RandomSide(dtype, draw(0, tokens > 60 || depth > 200 ? 2 : 6), tokens, depth);
  };
  Case{dtype, coin(), coin(), depth, side(), side()}.run();
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 120; ++i) check();
  }
  std::printf("late interaction: %d checks passed on %d capabilities\n", checks,
              static_cast<int>(detected_capability()) + 1);
  return 0;
}
