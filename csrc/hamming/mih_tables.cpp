// Building the tables of multi-index hashing.
#include <algorithm>
#include <limits>

#include "core/integer.h"
#include "core/parallel.h"
#include "hamming/mih.h"

namespace xmkern::hamming {
namespace {

constexpr int most_copied_words = 2;
constexpr int widest_key = 20;

}  // namespace

Mih::Patterns::Patterns(int width) : all(size_t{1} << width), starts(static_cast<size_t>(width) + 2, 0) {
  const auto ones = [](uint32_t pattern) { return static_cast<size_t>(__builtin_popcount(pattern)); };
  for (uint32_t p = 0; p < all.size(); ++p) ++starts[ones(p) + 1];
  for (size_t w = 1; w < starts.size(); ++w) starts[w] += starts[w - 1];
  std::vector<int64_t> next = starts;
  for (uint32_t p = 0; p < all.size(); ++p) all[static_cast<size_t>(next[ones(p)]++)] = p;
}

Mih::Mih(Codes codes, int bits, int threads)
    : words_(static_cast<int>(ceil_div(codes.bytes, 8))),
      count_(std::min<int64_t>(codes.count, std::numeric_limits<uint32_t>::max())) {
  // Buckets of about one code would be best; of more where that takes keys wider than the caches bear.
  int wanted = 1;
  while (wanted < widest_key && (int64_t{1} << wanted) < count_) ++wanted;
  const int m = static_cast<int>(ceil_div(bits, wanted));
  width_ = bits / m;
  for (int t = 0; t < m; ++t) {
    const int begin = static_cast<int>(int64_t{bits} * t / m), end = static_cast<int>(int64_t{bits} * (t + 1) / m);
    tables_.push_back({begin, end - begin, {}, {}, {}});
  }
  patterns_.emplace_back(width_);
  if (bits % m != 0) patterns_.emplace_back(width_ + 1);
  parallel_for(m, threads, [&](int64_t t) { fill(tables_[static_cast<size_t>(t)], codes); });
}

// A counting sort.
void Mih::fill(Table& table, Codes codes) const {
  const size_t buckets = size_t{1} << table.width, rows = static_cast<size_t>(count_);
  table.offsets = LargeArray<uint32_t>(buckets + 1);
  table.positions = LargeArray<uint32_t>(rows);
  std::fill(table.offsets.get(), table.offsets.get() + buckets + 1, 0);
  if (words_ <= most_copied_words) table.rows = LargeArray<uint64_t>(rows * static_cast<size_t>(words_));
  std::vector<uint64_t> code(static_cast<size_t>(words_), 0), later = code;
  for (int64_t i = 0; i < count_; ++i) {
    load_row(codes, i, code.data());
    ++table.offsets[table.key(code.data()) + 1];
  }
  for (size_t b = 0; b < buckets; ++b) table.offsets[b + 1] += table.offsets[b];
  std::vector<uint32_t> next(table.offsets.get(), table.offsets.get() + buckets);
  for (int64_t i = 0; i < count_; ++i) {
    constexpr int64_t ahead = 24;  // each row goes to a place that no cache holds
    if (i + ahead < count_) {
      load_row(codes, i + ahead, later.data());
      const size_t slot = next[table.key(later.data())];
      __builtin_prefetch(&table.positions[slot], 1);
      if (table.rows) __builtin_prefetch(&table.rows[slot * static_cast<size_t>(words_)], 1);
    }
    load_row(codes, i, code.data());
    const size_t slot = next[table.key(code.data())]++;
    table.positions[slot] = static_cast<uint32_t>(i);
    if (table.rows) std::copy(code.begin(), code.end(), &table.rows[slot * static_cast<size_t>(words_)]);
  }
}

int64_t Mih::memory() const {
  int64_t bytes = 0;
  for (const Table& table : tables_)
    bytes += 4 * ((int64_t{1} << table.width) + 1) + count_ * (4 + (table.rows ? 8 * words_ : 0));
  for (const Patterns& patterns : patterns_) bytes += static_cast<int64_t>(4 * patterns.all.size());
  return bytes;
}

}  // namespace xmkern::hamming
