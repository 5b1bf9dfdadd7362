// Multi-index hashing: exact sub-linear Hamming search (Norouzi, Punjani, Fleet: Fast search in Hamming space with
// multi-index hashing, CVPR 2012).
//
// Codes are split into m substrings, each the key of a hash table. Two codes within distance r agree in at least one
// substring up to distance floor(r / m), so that probing the buckets near the query's own keys finds all of them.
#pragma once

#include <cstdint>
#include <vector>

#include "core/large_array.h"
#include "hamming/hamming.h"

namespace xmkern::hamming {

class Mih {
 public:
  // Indexes codes of `bits` bits, as many as 32-bit positions can name; the bits past them must be zero.
  Mih(Codes codes, int bits, int threads);

  // As hamming::range and hamming::topk over `codes`, which must begin with the indexed ones; the rest is scanned, as
  // is everything for a query that would cost more than `patience` flat scans.
  std::vector<int64_t> range(Codes queries, Codes codes, int32_t radius, Neighbours& found, double patience,
                             int threads) const;
  void topk(Codes queries, Codes codes, int64_t k, int32_t* distances, int64_t* indices, double patience,
            int threads) const;

  int64_t count() const { return count_; }
  int64_t memory() const;  // bytes

  // A substring's table. Bucket b holds [offsets[b], offsets[b + 1]) of positions and, if codes are short, of `rows`:
  // copies of the codes, so that a bucket is one cache miss and then a contiguous read.
  struct Table {
    int begin, width;  // the substring, in bits
    LargeArray<uint32_t> offsets, positions;
    LargeArray<uint64_t> rows;

    uint32_t key(const uint64_t* code) const {
      const int word = begin / 64, shift = begin % 64;
      uint64_t key = code[word] >> shift;
      if (shift + width > 64) key |= code[word + 1] << (64 - shift);
      return static_cast<uint32_t>(key & ((uint64_t{1} << width) - 1));
    }
  };

  // All patterns of `width` bits, those with fewer ones first; starts[w] is the first with w ones.
  struct Patterns {
    std::vector<uint32_t> all;
    std::vector<int64_t> starts;
    explicit Patterns(int width);
  };

 private:
  friend class MihSearch;
  const Patterns& patterns(const Table& table) const { return patterns_[static_cast<size_t>(table.width - width_)]; }
  void fill(Table& table, Codes codes) const;

  int words_, width_;  // the width of the narrowest substring; others have one bit more
  int64_t count_;
  std::vector<Table> tables_;
  std::vector<Patterns> patterns_;
};

}  // namespace xmkern::hamming
