// The kernels of attention both ways and of additive pooling against naive sums in double, for the sanitizers: every
// capability, random shapes, strides and masks, forward and backward, in exactly sized memory, so that a read past the
// end is seen.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "bi_attention/bi_attention.h"
#include "bi_attention/pool.h"
#include "core/capability.h"
#include "numbers.h"

using namespace xmkern;

namespace {

int checks = 0;

void expect(double got, double want, double tolerance, const char* what) {
  ++checks;
  if (std::fabs(got - want) <= tolerance) return;
  std::printf("FAILED: %s is %g, not %g within %g, at %s\n", what, got, want, tolerance,
              capability_name(current_capability()));
  std::exit(1);
}

using Matrix = std::vector<std::vector<double>>;
Matrix zeros(int64_t rows, int64_t columns) {
  return Matrix(static_cast<size_t>(rows), std::vector<double>(static_cast<size_t>(columns)));
}

// [batch, head, row, column], rows a little apart or not; it ends with its last element.
struct Tensor {
  Dtype dtype;
  int64_t batches, heads, rows, columns, row, head, batch;
  std::unique_ptr<uint8_t[]> bytes;

  Tensor(Dtype type, int64_t b, int64_t h, int64_t r, int64_t c)
      : dtype(type), batches(b), heads(h), rows(r), columns(c) {
    row = columns + draw(0, 1) * draw(1, 9), head = row * rows + draw(0, 1) * draw(1, 9), batch = head * heads;
    const bool empty = b * h * r * c == 0;
    const int64_t size = empty ? 0 : (b - 1) * batch + (h - 1) * head + (r - 1) * row + c;
    bytes = std::make_unique<uint8_t[]>(static_cast<size_t>(size * size_of(dtype)));
    std::fill_n(bytes.get(), size * size_of(dtype), uint8_t{0xff});  // NaN, until written
  }
  int64_t place(int64_t b, int64_t h, int64_t r, int64_t c) const { return b * batch + h * head + r * row + c; }
  bi_attention::Operand operand() const { return {bytes.get(), batch, head, row}; }
  pool::Operand pool_operand() const { return {bytes.get(), batch, row}; }

  void fill() {
    for (int64_t b = 0; b < batches; ++b)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c) write(bytes.get(), dtype, place(b, h, r, c), draw_number() / 2);
  }
  Matrix matrix(int64_t b, int64_t h) const {
    Matrix out = zeros(rows, columns);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        out[static_cast<size_t>(r)][static_cast<size_t>(c)] = read(bytes.get(), dtype, place(b, h, r, c));
    return out;
  }
  void compare(int64_t b, int64_t h, const Matrix& want, double tolerance, const char* what) const {
    const Matrix got = matrix(b, h);
    double largest = 1;
    for (const auto& each : want)
      for (double x : each) largest = std::max(largest, std::fabs(x));
    for (size_t r = 0; r < want.size(); ++r)
      for (size_t c = 0; c < want[r].size(); ++c) expect(got[r][c], want[r][c], tolerance * largest, what);
  }
};

Matrix transpose(const Matrix& x, int64_t columns) {
  Matrix out = zeros(columns, static_cast<int64_t>(x.size()));
  for (size_t r = 0; r < x.size(); ++r)
    for (size_t c = 0; c < out.size(); ++c) out[c][r] = x[r][c];
  return out;
}

// x y for y of `columns` columns
Matrix times(const Matrix& x, const Matrix& y, int64_t columns) {
  Matrix out = zeros(static_cast<int64_t>(x.size()), columns);
  for (size_t r = 0; r < x.size(); ++r)
    for (size_t k = 0; k < y.size(); ++k)
      for (size_t c = 0; c < out[r].size(); ++c) out[r][c] += x[r][k] * y[k][c];
  return out;
}

Matrix softmax_of_rows(const Matrix& x, const uint8_t* rows, const uint8_t* columns) {
  Matrix out = x;
  for (size_t r = 0; r < x.size(); ++r) {
    double most = -INFINITY, total = 0;
    for (size_t c = 0; c < x[r].size(); ++c)
      if (columns[c]) most = std::max(most, x[r][c]);
    for (size_t c = 0; c < x[r].size(); ++c)
      total += out[r][c] = rows[r] && columns[c] ? std::exp(x[r][c] - most) : 0.0;
    for (double& each : out[r]) each = total > 0 ? each / total : 0.0;
  }
  return out;
}

void check_attention() {
  const int64_t B = draw(0, 2), H = draw(0, 2), L = one_of({0, 1, 7, 48, 49, 110, 200}),
                S = one_of({0, 1, 5, 16, 33, 270});
  const int64_t D = one_of({1, 8, 20, 33, 270}), Da = one_of({1, 9, 32, 260}), Db = one_of({1, 8, 33, 300});
  const auto dtype = static_cast<Dtype>(draw(0, 2));
  const bool tanh = coin(), softmax = coin(), masked = coin();
  const double scale = 0.5 / std::sqrt(static_cast<double>(D));
  Tensor a(dtype, B, H, L, D), b(dtype, B, H, S, D), va(dtype, B, H, L, Da), vb(dtype, B, H, S, Db);
  Tensor oa(dtype, B, H, L, Db), ob(dtype, B, H, S, Da), ga(dtype, B, H, L, Db), gb(dtype, B, H, S, Da);
  Tensor da(dtype, B, H, L, D), db(dtype, B, H, S, D), dva(dtype, B, H, L, Da), dvb(dtype, B, H, S, Db);
  for (Tensor* x : {&a, &b, &va, &vb, &ga, &gb}) x->fill();
  const auto flags = [&](int64_t count) {
    auto out = std::make_unique<uint8_t[]>(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) out[static_cast<size_t>(i)] = !masked || draw(0, 2) > 0;
    return out;
  };
  const auto mask_a = flags(B * L), mask_b = flags(B * S);
  const auto lse_a = std::make_unique<float[]>(static_cast<size_t>(B * H * L));
  const auto lse_b = std::make_unique<float[]>(static_cast<size_t>(B * H * S));
  const bi_attention::Side rows{
      L, Da, a.operand(), va.operand(), oa.operand(), masked ? mask_a.get() : nullptr, lse_a.get()};
  const bi_attention::Side columns{
      S, Db, b.operand(), vb.operand(), ob.operand(), masked ? mask_b.get() : nullptr, lse_b.get()};
  const bi_attention::Problem problem{B, H, D, dtype, static_cast<float>(scale), tanh, softmax, rows, columns};
  forward(problem, 2);
  backward(problem, {{ga.operand(), da.operand(), dva.operand()}, {gb.operand(), db.operand(), dvb.operand()}}, 2);

  const double tolerance = 64 * epsilon(dtype);
  for (int64_t i = 0; i < B * H; ++i) {
    const int64_t n = i / H, h = i % H;
    const uint8_t *ra = mask_a.get() + n * L, *rb = mask_b.get() + n * S;
    const auto there = [&](const Tensor& x, const uint8_t* mask) {
      Matrix out = x.matrix(n, h);
      for (size_t r = 0; r < out.size(); ++r)
        if (!mask[r]) std::fill(out[r].begin(), out[r].end(), 0.0);
      return out;
    };
    const Matrix A = there(a, ra), Bm = there(b, rb), VA = there(va, ra), VB = there(vb, rb), GA = there(ga, ra),
                 GB = there(gb, rb);
    Matrix c = times(A, transpose(Bm, D), S);
    for (auto& row : c)
      for (double& x : row) x = tanh ? std::tanh(scale * x) : scale * x;
    Matrix pa = c, pb = transpose(c, S);
    if (softmax) pa = softmax_of_rows(c, ra, rb), pb = softmax_of_rows(transpose(c, S), rb, ra);
    oa.compare(n, h, times(pa, VB, Db), tolerance, "out of a");
    ob.compare(n, h, times(pb, VA, Da), tolerance, "out of b");
    const Matrix dpa = times(GA, transpose(VB, Db), S), dpb = times(GB, transpose(VA, Da), L);
    const auto slopes = [&](const Matrix& p, const Matrix& dp) {
      Matrix out = dp;
      for (size_t r = 0; r < p.size() && softmax; ++r) {
        double mean = 0;
        for (size_t k = 0; k < p[r].size(); ++k) mean += p[r][k] * dp[r][k];
        for (size_t k = 0; k < p[r].size(); ++k) out[r][k] = p[r][k] * (dp[r][k] - mean);
      }
      return out;
    };
    Matrix dc = slopes(pa, dpa);
    const Matrix other = transpose(slopes(pb, dpb), L);
    for (size_t r = 0; r < dc.size(); ++r)
      for (size_t k = 0; k < dc[r].size(); ++k)
        dc[r][k] = (dc[r][k] + other[r][k]) * scale * (tanh ? 1 - c[r][k] * c[r][k] : 1.0);
    da.compare(n, h, times(dc, Bm, D), tolerance, "gradient of a");
    db.compare(n, h, times(transpose(dc, S), A, D), tolerance, "gradient of b");
    dva.compare(n, h, times(transpose(pb, L), GB, Da), tolerance, "gradient of the values of a");
    dvb.compare(n, h, times(transpose(pa, S), GA, Db), tolerance, "gradient of the values of b");
  }
}

void check_pool() {
  const int64_t B = draw(0, 40), N = one_of({0, 1, 5, 30}), D = one_of({1, 8, 33, 100}), K = one_of({1, 16, 20, 70});
  const auto dtype = static_cast<Dtype>(draw(0, 2));
  const int64_t guided = draw(0, 2);  // not, by one guide, by a guide for each row
  const bool masked = coin();
  Tensor x(dtype, B, 1, N, D), hidden(dtype, B, 1, N, K), guide(dtype, B, 1, guided == 2 ? N : 1, K),
      weight(dtype, 1, 1, 1, K);
  Tensor pooled(dtype, B, 1, 1, D), grad(dtype, B, 1, 1, D), dx(dtype, B, 1, N, D), dh(dtype, B, 1, N, K);
  Tensor dg(dtype, B, 1, 1, K), dw(dtype, 1, 1, 1, K);
  for (Tensor* each : {&x, &hidden, &guide, &weight, &grad}) each->fill();
  const auto mask = std::make_unique<uint8_t[]>(static_cast<size_t>(B * N));
  const auto shares = std::make_unique<float[]>(static_cast<size_t>(B * N)),
             grads = std::make_unique<float[]>(static_cast<size_t>(B * N));
  for (int64_t i = 0; i < B * N; ++i) {
    mask[static_cast<size_t>(i)] = !masked || draw(0, 2) > 0;
    grads[static_cast<size_t>(i)] = static_cast<float>(draw_number());
  }
  auto of_guide = guided ? guide.pool_operand() : pool::Operand{};
  if (guided == 1 || N == 1) of_guide.row = 0;
  const pool::Problem problem{B,
                              N,
                              D,
                              K,
                              dtype,
                              x.pool_operand(),
                              hidden.pool_operand(),
                              of_guide,
                              weight.bytes.get(),
                              masked ? mask.get() : nullptr,
                              pooled.pool_operand(),
                              shares.get()};
  forward(problem, 2);
  backward(problem,
           {grad.pool_operand(), grads.get(), dx.pool_operand(), dh.pool_operand(),
            guided == 1 ? dg.pool_operand() : pool::Operand{}, dw.bytes.get()},
           2);

  const double tolerance = 64 * epsilon(dtype);
  const std::vector<double> w = weight.matrix(0, 0)[0];
  Matrix want_w = zeros(1, K);
  for (int64_t n = 0; n < B; ++n) {
    const Matrix X = x.matrix(n, 0), G = grad.matrix(n, 0);
    Matrix t = hidden.matrix(n, 0), logits = zeros(1, N), slope = zeros(1, N), want_x = zeros(N, D),
           want_h = zeros(N, K), want_g = zeros(1, K);
    const Matrix own = guided ? guide.matrix(n, 0) : Matrix();
    for (size_t r = 0; r < t.size(); ++r)
      for (size_t k = 0; k < t[r].size(); ++k) {
        t[r][k] = std::tanh(t[r][k] + (guided ? own[guided == 2 ? r : 0][k] : 0.0));
        logits[0][r] += t[r][k] * w[k];
      }
    const uint8_t *there = mask.get() + n * N, one = 1;
    const Matrix p = softmax_of_rows(logits, &one, there);
    pooled.compare(n, 0, times(p, X, D), tolerance, "pooled");
    double mean = 0;
    for (size_t r = 0; r < X.size(); ++r) {
      expect(shares[static_cast<size_t>(n * N) + r], p[0][r], 16 * epsilon(Dtype::float32), "share");
      slope[0][r] = grads[static_cast<size_t>(n * N) + r];
      for (size_t c = 0; c < X[r].size(); ++c) slope[0][r] += X[r][c] * G[0][c], want_x[r][c] = p[0][r] * G[0][c];
      mean += p[0][r] * slope[0][r];
    }
    for (size_t r = 0; r < X.size(); ++r)
      for (size_t k = 0; k < w.size(); ++k) {
        const double at = p[0][r] * (slope[0][r] - mean);
        want_w[0][k] += at * t[r][k];
        want_g[0][k] += want_h[r][k] = at * w[k] * (1 - t[r][k] * t[r][k]);
      }
    dx.compare(n, 0, want_x, tolerance, "gradient of x");
    dh.compare(n, 0, want_h, tolerance, "gradient of hidden");
    if (guided == 1) dg.compare(n, 0, want_g, tolerance, "gradient of the guide");
  }
  dw.compare(0, 0, want_w, tolerance, "gradient of the weight");
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    generator.seed(1);
    for (int i = 0; i < 60; ++i) check_attention(), check_pool();
  }
  std::printf("bi_attention: %d checks passed on %d capabilities\n", checks,
              static_cast<int>(detected_capability()) + 1);
  return 0;
}
