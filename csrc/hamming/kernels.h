// What is compiled once per instruction set: the inner loops of Hamming search. README.md of xmkern/ops/hamming tells
// why.
//
// Rows are codes of whole 64-bit words, [count, words], of any alignment.
#pragma once

#include <cstdint>

namespace xmkern::hamming {

inline constexpr int max_words = 64;

// The table of one word: sixteen groups of three bits, each with the parity of where its bits differ from the query's
// (2 planes: the query enters by its own parity) and the majority (8 planes), then sixteen single bits (2 planes).
inline constexpr int groups = 16, group_bits = 3, singles = 16;
inline constexpr int group_planes = 2 + 8;
inline constexpr int tabulated_planes = groups * group_planes + singles * 2;
inline constexpr int path_steps = groups * 2 + singles;

// Where in the table of a word, in 64-bit units, the planes lie that a query's word picks, in the order in which they
// are added up: two counts of `digits - 1` digits and a single bit make one of `digits` digits.
class Path {
 public:
  // out [path_steps]
  Path(uint64_t word, int plane_words, uint16_t* out) : word_(word), plane_words_(plane_words), out_(out) {
    count(6);
    bit();
  }

 private:
  void step(int plane) { *out_++ = static_cast<uint16_t>(plane * plane_words_); }

  void count(int digits) {
    if (digits == 2) {
      const int bits = static_cast<int>(word_ >> (group_bits * group_)) & 7;
      step(group_ * group_planes + (__builtin_popcount(static_cast<unsigned>(bits)) & 1));
      step(group_ * group_planes + 2 + bits);
      ++group_;
      return;
    }
    count(digits - 1);
    count(digits - 1);
    bit();
  }

  void bit() {
    const int set = static_cast<int>(word_ >> (groups * group_bits + single_)) & 1;
    step(groups * group_planes + 2 * single_ + set);
    ++single_;
  }

  uint64_t word_;
  int plane_words_;
  uint16_t* out_;
  int group_ = 0, single_ = 0;
};

// Called for a code that is nearer than the query's limit, in ascending position; returns the query's new limit.
using Accept = int32_t (*)(void* sink, int64_t query, int64_t position, int32_t distance);

struct Rows {
  const uint8_t* data;
  int64_t count;
  int words;
};

// Where the hits of a scan go. limits [queries] is read before each block and kept up to date.
struct Offer {
  int32_t* limits;
  void* sink;
  Accept accept;
};

struct Kernels {
  // Few queries: each passes over the rows by itself. queries [count, words]
  void (*scan_rows)(Rows rows, const uint64_t* queries, int64_t count, const Offer& offer);

  // Many queries: rows are cut into bit planes, `slice` rows at a time, and the planes are tabulated so that a query
  // picks, by its own bits, the planes that tell where the rows differ from it. planes [words, tabulated_planes, slice
  // / 64], aligned to 64 bytes.
  int slice;
  void (*cut)(Rows rows, uint64_t* planes);
  // paths [count, words, path_steps]: the offsets of a query's planes (see Path). The rows are
  // those that were cut, for the exact distance of the few that are near.
  void (*scan_slice)(const uint64_t* planes, Rows rows, const uint64_t* queries, const uint16_t* paths, int64_t count,
                     const Offer& offer);

  // out [rows.count]
  void (*distances)(Rows rows, const uint64_t* query, int32_t* out);
  // flags [bits] of one byte each, 0 or 1 -> out [ceil(bits / 8)]
  void (*pack)(const uint8_t* flags, int64_t bits, uint8_t* out);
};

const Kernels& kernels();

}  // namespace xmkern::hamming
