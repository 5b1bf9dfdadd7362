// Rows of any dtype, read and written as vectors of float32; rows of float32 in working memory; dropout. For kernel
// sources (see core/capability.h).
#pragma once

#include "core/philox.h"
#include "core/stream.h"
#include "epilogue/kernels.h"

namespace xmkern::XMKERN_CAPABILITY {
namespace {

using epilogue::Dropout;
using epilogue::Numbers;
using epilogue::padded;
using epilogue::Rows;

struct Whole {};
struct Part {
  int64_t count;
};

// Calls f with each column where a vector begins, and whether it is a whole one.
template <class F>
inline void for_columns(int64_t count, F&& f) {
  int64_t c = 0;
  for (; c + lanes <= count; c += lanes) f(c, Whole{});
  if (c < count) f(c, Part{count - c});
}

template <Dtype dtype>
inline Floats load_numbers(const void* data, int64_t i, Whole) {
  return load_floats<dtype>(data, i);
}

// Zeros past the end.
template <Dtype dtype>
inline Floats load_numbers(const void* data, int64_t i, Part part) {
  return load_some_floats<dtype>(data, i, part.count);
}

template <Dtype dtype>
inline void store_numbers(void* data, int64_t i, Floats x, Whole, bool stream) {
  char* to = static_cast<char*>(data) + i * size_of(dtype);
  if (stream && reinterpret_cast<uintptr_t>(to) % (lanes * size_of(dtype)) == 0)
    stream_floats<dtype>(to, x);
  else
    store_floats<dtype>(to, 0, x);
}

template <Dtype dtype>
inline void store_numbers(void* data, int64_t i, Floats x, Part part, bool) {
  store_some_floats<dtype>(data, i, x, part.count);
}

inline char* at(const Rows& rows, int64_t row, int64_t column = 0) {
  return static_cast<char*>(rows.data) + (row * rows.stride + column) * size_of(rows.dtype);
}

// Calls f with each column where a vector begins, and the vector.
template <class F>
inline void read(Dtype dtype, const void* data, int64_t count, F&& f) {
  with_dtype(dtype, [&](auto constant) {
    for_columns(count, [&](int64_t c, auto extent) { f(c, load_numbers<decltype(constant)::value>(data, c, extent)); });
  });
}

// Stores what f gives for each column where a vector begins.
template <class F>
inline void write(const Rows& rows, int64_t row, int64_t column, int64_t count, F&& f) {
  with_dtype(rows.dtype, [&](auto constant) {
    char* data = at(rows, row, column);
    for_columns(count, [&](int64_t c, auto extent) {
      store_numbers<decltype(constant)::value>(data, c, f(c), extent, rows.stream);
    });
  });
}

// Parameters in float32, with something in the place of one that is absent.
inline const float* widen(const Numbers& numbers, int64_t count, float absent, float* to) {
  if (numbers.data != nullptr && !numbers.one) {
    read(numbers.dtype, numbers.data, count, [&](int64_t c, Floats x) { store(to + c, x); });
    return to;
  }
  if (numbers.data != nullptr) read(numbers.dtype, numbers.data, 1, [&](int64_t, Floats x) { absent = x[0]; });
  for (int64_t c = 0; c < padded(count); c += lanes) store(to + c, splat(absent));
  return to;
}

// Pieces of rows as numbers of one dtype: where they lie, or copies in working memory.
class Pieces {
 public:
  template <class... Others>
  explicit Pieces(const Rows& first, const Others&... others) {
    const auto fits = [&](const Rows& rows) { return rows.data == nullptr || rows.dtype == first.dtype; };
    dtype = (fits(others) && ...) ? first.dtype : Dtype::float32;
  }

  void* place(const Rows& rows, int64_t row, int64_t column, float* copy) const {
    return rows.dtype == dtype ? at(rows, row, column) : static_cast<void*>(copy);
  }
  const void* fetch(const Rows& rows, int64_t row, int64_t column, int64_t count, float* copy) const {
    if (rows.data == nullptr) return nullptr;
    if (rows.dtype != dtype)
      read(rows.dtype, at(rows, row, column), count, [&](int64_t c, Floats x) { store(copy + c, x); });
    return place(rows, row, column, copy);
  }
  void put(const Rows& rows, int64_t row, int64_t column, int64_t count, const float* copy) const {
    if (rows.data != nullptr && rows.dtype != dtype)
      write(rows, row, column, count, [&](int64_t c) { return load(copy + c); });
  }

  Dtype dtype;
};

// Two sums at once.
struct Two {
  Floats first, second;

  Two operator+(const Two& x) const { return {first + x.first, second + x.second}; }
  Two& operator+=(const Two& x) { return *this = *this + x; }
};

// Those lanes whose bits are set, and zeros.
inline Floats lanes_of(uint32_t bits, Floats x) { return select(bits, x, Floats{}); }
inline Two lanes_of(uint32_t bits, const Two& x) { return {lanes_of(bits, x.first), lanes_of(bits, x.second)}; }

// f added up over a row of vectors; of the last one, only what is there counts.
template <class F>
inline auto total_over(int64_t count, F&& f) {
  using Value = decltype(f(int64_t{}));
  Value totals[4] = {};
  int64_t c = 0;
  for (; c + 4 * lanes <= count; c += 4 * lanes)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) totals[i] += f(c + i * lanes);
  for (; c + lanes <= count; c += lanes) totals[0] += f(c);
  if (c < count) totals[1] += lanes_of((1u << (count - c)) - 1, f(c));
  return (totals[0] + totals[1]) + (totals[2] + totals[3]);
}

template <class F>
inline float sum_over(int64_t count, F&& f) {
  return sum(total_over(count, f));
}

// Which elements of a row are kept, a bit each.
inline void draw_kept(const Dropout& dropout, int64_t row, int64_t count, uint64_t* kept) {
  const auto place = static_cast<uint64_t>(row);
  for (int64_t tile = 0; tile * 64 < count; ++tile)
    kept[tile] = kept_word(dropout.seed, dropout.threshold, place >> 32, static_cast<uint32_t>(place),
                           static_cast<uint32_t>(tile));
}

inline void drop(const Dropout& dropout, const uint64_t* kept, int64_t count, float* row) {
  for (int64_t c = 0; c < count; c += lanes) {
    const auto bits = static_cast<uint32_t>(kept[c / 64] >> (c % 64));
    store(row + c, select(bits, load(row + c) * dropout.scale, Floats{}));
  }
}

}  // namespace
}  // namespace xmkern::XMKERN_CAPABILITY
