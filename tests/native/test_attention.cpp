// The attention kernels against naive sums in double, for the sanitizers: every capability, random shapes, strides,
// sources, masks, biases and dropout, forward and backward, in exactly sized memory, so that a read past the end is
// seen.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "core/capability.h"
#include "numbers.h"

using namespace xmkern;
using namespace xmkern::attention;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int64_t unbounded = int64_t{1} << 62;
// [batch, head, row, column], in one of two memory orders, rows a little apart or not; it ends with its last element.
struct Tensor {
  Dtype dtype;
  int64_t sizes[4], strides[3], columns;
  std::unique_ptr<uint8_t[]> bytes;

  Tensor(Dtype type, int64_t batches, int64_t heads, int64_t rows, int64_t width)
      : dtype(type), sizes{batches, heads, rows, width}, columns(width) {
    const int64_t apart = width + (coin() ? draw(1, 9) : 0);
    if (coin())
      strides[2] = apart, strides[1] = apart * rows, strides[0] = strides[1] * heads;
    else
      strides[1] = apart, strides[2] = apart * heads, strides[0] = strides[2] * rows;
    const bool empty = batches * heads * rows * width == 0;
    const int64_t last = empty ? -1 : index(batches - 1, heads - 1, rows - 1, width - 1);
    const int64_t size = (last + 1) * size_of(dtype);
    bytes = std::make_unique<uint8_t[]>(static_cast<size_t>(size));
    std::fill_n(bytes.get(), size, uint8_t{0xff});  // NaN, until written
  }

  int64_t index(int64_t b, int64_t h, int64_t r, int64_t c) const {
    return b * strides[0] + h * strides[1] + r * strides[2] + c;
  }
  double at(int64_t b, int64_t h, int64_t r, int64_t c) const { return read(bytes.get(), dtype, index(b, h, r, c)); }
  Operand operand() const { return {bytes.get(), strides[0], strides[1], strides[2]}; }

  Tensor& randomize() {
    for (int64_t b = 0; b < sizes[0]; ++b)
      for (int64_t h = 0; h < sizes[1]; ++h)
        for (int64_t r = 0; r < sizes[2]; ++r)
          for (int64_t c = 0; c < columns; ++c) write(bytes.get(), dtype, index(b, h, r, c), draw_number());
    return *this;
  }
};

// A contiguous matrix [batch, head, row, column] of doubles.
struct Doubles {
  int64_t heads, rows, columns;
  std::vector<double> data;

  Doubles(int64_t b, int64_t h, int64_t r, int64_t c)
      : heads(h), rows(r), columns(c), data(static_cast<size_t>(b * h * r * c)) {}
  double& operator()(int64_t b, int64_t h, int64_t r, int64_t c) {
    return data[static_cast<size_t>(((b * heads + h) * rows + r) * columns + c)];
  }
};

struct Shape {
  int64_t batches, heads, key_heads, queries, keys, depth, value_depth;
};

struct RandomMask {
  std::string name;
  std::vector<int64_t> program, ids, key_ids, lengths;
  std::unique_ptr<uint8_t[]> flags;
  std::vector<MaskTensor> tensors;

  explicit RandomMask(const Shape& s) {
    const int64_t causal[] = {2, -unbounded, 0};
    const auto add = [&](std::initializer_list<int64_t> code) { program.insert(program.end(), code); };
    const auto add_lengths = [&] {
      for (int64_t b = 0; b < s.batches; ++b) lengths.push_back(draw(0, s.keys));
      tensors.push_back({lengths.data(), 1, 0, 0, 0});
      add({3, 0});
    };
    switch (draw(0, 6)) {
      case 0:
        name = "no mask";
        break;
      case 1:
        name = "band";
        add({2, coin() ? -unbounded : draw(-70, 10), draw(-5, 70)});
        break;
      case 2:
        name = "key lengths";
        add_lengths();
        break;
      case 3:
        name = "prefix";
        add_lengths();
        program.insert(program.end(), std::begin(causal), std::end(causal));
        add({1});
        break;
      case 4:
        name = "grid";
        add({4, draw(0, 9), draw(1, 9), draw(1, 20), draw(-3, 0), draw(0, 3), coin() ? -unbounded : -2, draw(0, 3)});
        program.insert(program.end(), std::begin(causal), std::end(causal));
        add({0});
        break;
      case 5: {
        name = "segments";
        for (int64_t i = 0; i < s.batches * s.queries; ++i) ids.push_back(i % s.queries / 40);
        for (int64_t j = 0; j < s.keys; ++j) key_ids.push_back(j / 30);
        tensors.push_back({ids.data(), s.queries, 0, 1, 0});
        tensors.push_back({key_ids.data(), 0, 0, 0, 1});
        add({5, 0, 1});
        break;
      }
      default: {
        name = "dense";
        const int64_t b = coin() ? s.batches : 1, h = coin() ? s.heads : 1, q = coin() ? s.queries : 1;
        flags = std::make_unique<uint8_t[]>(static_cast<size_t>(b * h * q * s.keys));
        for (int64_t i = 0; i < b * h * q * s.keys; ++i) flags[static_cast<size_t>(i)] = coin();
        tensors.push_back({flags.get(), b > 1 ? h * q * s.keys : 0, h > 1 ? q * s.keys : 0, q > 1 ? s.keys : 0, 1});
        add({6, 0});
      }
    }
  }

  bool visible(int64_t b, int64_t h, int64_t i, int64_t j) const {
    std::vector<bool> stack;
    for (size_t at = 0; at < program.size();) {
      const int64_t *x = &program[at] + 1, code = program[at];
      at += 1 + static_cast<size_t>("\0\0\2\1\7\2\1"[code]);
      if (code < 2) {
        const bool top = stack.back();
        stack.pop_back();
        stack.back() = code == 0 ? stack.back() && top : stack.back() || top;
      } else if (code == 2) {
        stack.push_back(j - i >= x[0] && j - i <= x[1]);
      } else if (code == 3) {
        stack.push_back(j < lengths[static_cast<size_t>(b)]);
      } else if (code == 4) {
        const int64_t text = x[0], width = x[2], end = text + x[1] * width;
        const int64_t rows = (j - text) / width - (i - text) / width, columns = (j - text) % width - (i - text) % width;
        const bool image = i >= text && i < end && j >= text && j < end;
        stack.push_back(j < text || (image && rows >= x[3] && rows <= x[4] && columns >= x[5] && columns <= x[6]));
      } else if (code == 5) {
        stack.push_back(ids[static_cast<size_t>(b * tensors[0].batch + i)] == key_ids[static_cast<size_t>(j)]);
      } else {
        const MaskTensor& t = tensors[0];
        stack.push_back(flags[static_cast<size_t>(b * t.batch + h * t.head + i * t.query + j)] != 0);
      }
    }
    return stack.empty() || stack[0];
  }
};

// A bias and its gradient; `place` says which element a score takes.
struct RandomBias {
  BiasForm form = BiasForm::none;
  int64_t batch = 0, head = 0, query = 0, key = 0, length = 0;
  std::unique_ptr<float[]> data, grad;
  std::unique_ptr<int32_t[]> buckets;
  int64_t count = 0, first = 0, keys;

  explicit RandomBias(const Shape& s) : keys(s.keys) {
    form = static_cast<BiasForm>(draw(0, 4));
    if (form == BiasForm::none || s.queries * s.keys == 0) {
      form = BiasForm::none;
      return;
    }
    int64_t rows = 1;
    if (form == BiasForm::rows) {
      rows = s.queries, length = coin() ? s.keys : 1;
      query = rows > 1 ? length : 0, key = length > 1 ? 1 : 0;
      if (rows == 1) form = BiasForm::keys;
    } else if (form == BiasForm::keys) {
      length = coin() ? s.keys : 1, key = length > 1 ? 1 : 0;
    } else if (form == BiasForm::diagonals) {
      length = s.queries + s.keys - 1, query = -1, key = 1, first = s.queries - 1;
    } else {
      length = draw(1, 40), key = 1;
      buckets = std::make_unique<int32_t[]>(static_cast<size_t>(s.queries * s.keys));
      for (int64_t i = 0; i < s.queries * s.keys; ++i)
        buckets[static_cast<size_t>(i)] = static_cast<int32_t>(draw(0, length - 1));
    }
    const int64_t heads = coin() ? s.heads : 1, batches = coin() ? s.batches : 1;
    head = heads > 1 ? rows * length : 0, batch = batches > 1 ? heads * rows * length : 0;
    count = batches * heads * rows * length;
    data = std::make_unique<float[]>(static_cast<size_t>(count));
    grad = std::make_unique<float[]>(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) data[static_cast<size_t>(i)] = static_cast<float>(draw_number());
  }

  size_t place(int64_t b, int64_t h, int64_t i, int64_t j) const {
    const int64_t in_matrix = buckets ? buckets[static_cast<size_t>(i * keys + j)] : first + i * query + j * key;
    return static_cast<size_t>(b * batch + h * head + in_matrix);
  }
  Bias argument() const {
    if (!data) return {};
    return {data.get() + first, batch, head, buckets ? 0 : query, key, buckets.get()};
  }
  BiasGradient gradient() const {
    const bool rows = form == BiasForm::rows;
    return {form, grad.get(), batch, head, rows ? query : 0, rows || form == BiasForm::keys ? key : 1, length};
  }
};

// Philox4x32-10 (Salmon et al., 2011): the word of an element.
uint32_t word_of(uint64_t seed, int64_t matrix, int64_t i, int64_t j) {
  const auto m = static_cast<uint64_t>(matrix);
  uint32_t c[4] = {static_cast<uint32_t>(j / 64 * 16 + j % 16), static_cast<uint32_t>(i), static_cast<uint32_t>(m),
                   static_cast<uint32_t>(m >> 32)};
  auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t p = uint64_t{c[0]} * 0xD2511F53u, q = uint64_t{c[2]} * 0xCD9E8D57u;
    const uint32_t next[4] = {static_cast<uint32_t>(q >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(q),
                              static_cast<uint32_t>(p >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p)};
    std::copy(next, next + 4, c);
  }
  return c[j % 64 / 16];
}

int checks = 0;

// Keys and values with their own mask and bias, and what their gradients should be.
struct RandomSource {
  Shape s;
  RandomMask mask;
  RandomBias bias;
  Tensor k, v, dk, dv;
  Doubles want_k, want_v;
  std::vector<double> want_bias, summed;

  RandomSource(const Shape& shape, Dtype dtype)
      : s(shape),
        mask(s),
        bias(s),
        k(dtype, s.batches, s.key_heads, s.keys, s.depth),
        v(dtype, s.batches, s.key_heads, s.keys, s.value_depth),
        dk(dtype, s.batches, s.key_heads, s.keys, s.depth),
        dv(dtype, s.batches, s.key_heads, s.keys, s.value_depth),
        want_k(s.batches, s.key_heads, s.keys, s.depth),
        want_v(s.batches, s.key_heads, s.keys, s.value_depth),
        want_bias(static_cast<size_t>(bias.count)),
        summed(want_bias.size()) {
    k.randomize(), v.randomize();
  }

  Source argument() const {
    return {s.keys,
            k.operand(),
            v.operand(),
            {mask.program.data(), static_cast<int64_t>(mask.program.size()), mask.tensors.data()},
            bias.argument()};
  }
};

struct Case {
  Shape s;  // its keys are not used: each source has its own
  Dtype dtype;
  double scale;
  Dropout dropout;
  std::vector<RandomSource> sources;
  Tensor q, out, grad_out, dq;
  std::vector<float> lse, grad_lse;
  bool lse_graded = coin();
  std::vector<Source> given;
  std::vector<SourceGradients> asked;

  Case(const Shape& shape, const std::vector<int64_t>& lengths, Dtype type, double factor, const Dropout& drop)
      : s(shape),
        dtype(type),
        scale(factor),
        dropout(drop),
        q(dtype, s.batches, s.heads, s.queries, s.depth),
        out(dtype, s.batches, s.heads, s.queries, s.value_depth),
        grad_out(dtype, s.batches, s.heads, s.queries, s.value_depth),
        dq(dtype, s.batches, s.heads, s.queries, s.depth),
        lse(static_cast<size_t>(s.batches * s.heads * s.queries)),
        grad_lse(lse.size()) {
    q.randomize(), grad_out.randomize();
    for (float& x : grad_lse) x = static_cast<float>(draw_number());
    for (int64_t keys : lengths) {
      Shape own = s;
      own.keys = keys;
      sources.emplace_back(own, dtype);
    }
    for (const RandomSource& source : sources) {
      given.push_back(source.argument());
      asked.push_back({source.dk.operand(), source.dv.operand(), source.bias.gradient()});
    }
  }

  Problem problem() {
    Problem made{s.batches,   s.heads,       s.key_heads, s.queries,
                 s.depth,     s.value_depth, dtype,       static_cast<float>(scale),
                 q.operand(), out.operand(), lse.data(),  dropout};
    lay_out(made, given.data(), static_cast<int64_t>(given.size()));
    return made;
  }
  Gradients gradients() const {
    return {grad_out.operand(), lse_graded ? grad_lse.data() : nullptr, dq.operand(), asked.data()};
  }

  // A few roundings of numbers as large as the largest there are.
  void compare(const char* what, Tensor& got, Doubles& want) {
    double largest = 1;
    for (double x : want.data) largest = std::max(largest, std::fabs(x));
    for (int64_t b = 0; b < got.sizes[0]; ++b)
      for (int64_t h = 0; h < got.sizes[1]; ++h)
        for (int64_t r = 0; r < got.sizes[2]; ++r)
          for (int64_t c = 0; c < got.columns; ++c)
            expect(got.at(b, h, r, c), want(b, h, r, c), largest * 16 * epsilon(dtype), what);
  }

  void expect(double got, double want, double tolerance, const char* what) {
    ++checks;
    if (got == want || std::fabs(got - want) <= tolerance) return;
    std::printf("FAILED: %s is %g, not %g, at %s: dtype %d, B %d, H %d, Hk %d, L %d, D %d, Dv %d\n", what, got, want,
                capability_name(current_capability()), static_cast<int>(dtype), static_cast<int>(s.batches),
                static_cast<int>(s.heads), static_cast<int>(s.key_heads), static_cast<int>(s.queries),
                static_cast<int>(s.depth), static_cast<int>(s.value_depth));
    for (const RandomSource& source : sources)
      std::printf("  %d keys, %s, bias %d\n", static_cast<int>(source.s.keys), source.mask.name.c_str(),
                  static_cast<int>(source.bias.form));
    std::exit(1);
  }

  void verify() {
    Doubles want(s.batches, s.heads, s.queries, s.value_depth), want_q(s.batches, s.heads, s.queries, s.depth);
    std::vector<int64_t> firsts, places;
    int64_t keys = 0, end = 0;
    for (const RandomSource& source : sources) {
      firsts.push_back(keys), keys += source.s.keys;
      places.push_back((end + 63) / 64 * 64), end = source.s.keys ? places.back() + source.s.keys : end;
    }
    std::vector<double> p(static_cast<size_t>(keys)), grad_p(p.size()), kept(p.size());
    for (int64_t b = 0; b < s.batches; ++b)
      for (int64_t h = 0; h < s.heads; ++h)
        for (int64_t i = 0; i < s.queries; ++i) {
          const int64_t key_head = h / (s.heads / s.key_heads), row = (b * s.heads + h) * s.queries + i;
          double most = -infinity, total = 0, delta = lse_graded ? -grad_lse[static_cast<size_t>(row)] : 0;
          // f(source, key, its number among all, its place)
          const auto each_key = [&](auto&& f) {
            for (size_t n = 0; n < sources.size(); ++n)
              for (int64_t j = 0; j < sources[n].s.keys; ++j)
                f(sources[n], j, static_cast<size_t>(firsts[n] + j), places[n] + j);
          };
          each_key([&](RandomSource& x, int64_t j, size_t at, int64_t) {
            double score = 0;
            for (int64_t c = 0; c < s.depth; ++c) score += q.at(b, h, i, c) * x.k.at(b, key_head, j, c);
            score = score * scale + (x.bias.data ? x.bias.data[x.bias.place(b, h, i, j)] : 0);
            p[at] = x.mask.visible(b, h, i, j) ? score : -infinity;
            most = std::max(most, p[at]);
          });
          if (most == -infinity) most = 0;
          for (double& x : p) total += x = std::exp(x - most);
          const double want_lse = total == 0 ? -infinity : most + std::log(total);
          expect(lse[static_cast<size_t>(row)], want_lse, 1e-5 * std::max(1.0, std::fabs(want_lse)), "lse");
          each_key([&](RandomSource& x, int64_t j, size_t at, int64_t place) {
            p[at] = total == 0 ? 0 : p[at] / total;
            const bool keep =
                !dropout.threshold || word_of(dropout.seed, b * s.heads + h, i, place) >= dropout.threshold;
            kept[at] = keep ? static_cast<double>(dropout.kept_scale) : 0;
            grad_p[at] = 0;
            for (int64_t c = 0; c < s.value_depth; ++c) {
              const double value = x.v.at(b, key_head, j, c), g = grad_out.at(b, h, i, c);
              want(b, h, i, c) += kept[at] * p[at] * value;
              grad_p[at] += kept[at] * g * value;
              x.want_v(b, key_head, j, c) += kept[at] * p[at] * g;
            }
          });
          // Of the rounded output, as in the reference.
          for (int64_t c = 0; c < s.value_depth; ++c) delta += grad_out.at(b, h, i, c) * out.at(b, h, i, c);
          each_key([&](RandomSource& x, int64_t j, size_t at, int64_t) {
            const double grad_score = p[at] * (grad_p[at] - delta);
            if (x.bias.data) {
              x.want_bias[x.bias.place(b, h, i, j)] += grad_score;
              x.summed[x.bias.place(b, h, i, j)] += p[at] * (std::fabs(grad_p[at]) + std::fabs(delta));
            }
            for (int64_t c = 0; c < s.depth; ++c) {
              want_q(b, h, i, c) += scale * grad_score * x.k.at(b, key_head, j, c);
              x.want_k(b, key_head, j, c) += scale * grad_score * q.at(b, h, i, c);
            }
          });
        }
    compare("out", out, want);
    compare("gradient of query", dq, want_q);
    for (RandomSource& source : sources) {
      compare("gradient of key", source.dk, source.want_k);
      compare("gradient of value", source.dv, source.want_v);
      double largest = 1;
      for (double x : source.summed) largest = std::max(largest, x);  // what is added up may cancel
      for (size_t i = 0; i < source.want_bias.size(); ++i)
        expect(source.bias.grad[i], source.want_bias[i], largest * 16 * epsilon(dtype), "gradient of bias");
    }
  }
};

// One or two problems in a call, each with one to three sources.
void check() {
  std::vector<std::unique_ptr<Case>> cases;
  std::vector<Problem> problems;
  std::vector<Gradients> gradients;
  for (int64_t i = draw(1, 2); i > 0; --i) {
    const int64_t key_heads = draw(1, 2), heads = key_heads * draw(1, 3);
    const Shape s{draw(1, 2),
                  heads,
                  key_heads,
                  one_of({0, 1, 2, 13, 50, 65, 100}),
                  0,
                  one_of({1, 7, 16, 40, 64, 72}),
                  one_of({1, 5, 16, 33, 64, 80})};
    std::vector<int64_t> lengths = {one_of({0, 1, 3, 31, 64, 65, 130, 270})};
    while (draw(0, 2) == 0 && lengths.size() < 3) lengths.push_back(one_of({0, 1, 20, 64, 100}));
    const auto dtype = static_cast<Dtype>(draw(0, 2));
    const double scale = one_of({1, 1, -1}) * 0.25;
    const uint32_t threshold = coin() ? 0 : 0x40000000u;
    const Dropout dropout{threshold, generator(), threshold ? 4.0f / 3 : 1.0f};
    cases.push_back(std::make_unique<Case>(s, lengths, dtype, scale, dropout));
    problems.push_back(cases.back()->problem());
    gradients.push_back(cases.back()->gradients());
  }
  const auto count = static_cast<int64_t>(problems.size());
  forward(problems.data(), count, 2);
  backward(problems.data(), gradients.data(), count, 2);
  for (const auto& each : cases) each->verify();
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 100; ++i) check();
  }
  std::printf("attention: %d checks passed on %d capabilities\n", checks, static_cast<int>(detected_capability()) + 1);
  return 0;
}
