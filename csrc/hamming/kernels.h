// What is compiled once per instruction set: the inner loops of Hamming search. README.md of xmkern/ops/hamming tells
// why.
//
// Rows are codes of whole 64-bit words, [count, words], of any alignment.
#pragma once

#include <cstdint>

namespace xmkern::hamming {

inline constexpr int max_words = 64;

// The bits in which a query and a code differ are counted two at a time: a full adder of both and of the running parity
// gives the next parity and a carry, worth two. Bits enter by `code XOR query`, so that the carry of a pair depends on
// the query by three bits alone: its own two and its own running parity. For each pair of a word the eight carries are
// tabulated.
inline constexpr int pairs = 32, carries = 8;
inline constexpr int word_planes = pairs * carries;

// Where the carries of a query lie, if its parity starts so: eight times the number of each pair's carry.
// path [words, pairs]
inline void trace(const uint64_t* query, int words, unsigned parity, uint8_t* path) {
  for (int w = 0; w < words; ++w) {
    for (int j = 0; j < pairs; ++j) {
      const unsigned pair = query[w] >> (2 * j) & 3;
      *path++ = static_cast<uint8_t>(8 * (pair | parity << 2));
      parity ^= (pair ^ pair >> 1) & 1;
    }
  }
}

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
  // picks, by its own bits, the planes that tell where the rows differ from it. planes [words, word_planes, slice /
  // 64], aligned to 64 bytes.
  int slice;
  void (*cut)(Rows rows, uint64_t* planes);
  // paths [2, count, words, pairs]: see trace; the parity starts at 0 for an even limit, at 1 for an odd one. The rows
  // are those that were cut, for the exact distance of the few that are near.
  void (*scan_slice)(const uint64_t* planes, Rows rows, const uint64_t* queries, const uint8_t* paths, int64_t count,
                     const Offer& offer);

  // out [rows.count]
  void (*distances)(Rows rows, const uint64_t* query, int32_t* out);
  // flags [bits] of one byte each, 0 for False -> out [ceil(bits / 8)]
  void (*pack)(const uint8_t* flags, int64_t bits, uint8_t* out);
};

const Kernels& kernels();

}  // namespace xmkern::hamming
