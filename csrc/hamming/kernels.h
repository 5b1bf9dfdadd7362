// What is compiled once per instruction set: the inner loops of Hamming search.
//
// They work on a tile of codes held word-major, planes [words, stride] of 64-bit words, so that one vector register
// holds the same word of neighbouring codes and the popcounts of a code add up without a horizontal step.
#pragma once

#include <cstdint>

namespace xmkern::hamming {

// Codes are scanned in blocks of this many; tiles are padded to whole blocks.
inline constexpr int block = 256;
inline constexpr int max_words = 64;

struct Tile {
  const uint64_t* planes;  // [words, stride]
  int64_t stride;          // a multiple of `block`, at least `count`
  int64_t count;           // codes that are real; the rest is padding
  int words;
};

// Called for a code that is nearer than the query's limit, in ascending position; returns the query's new limit.
using Accept = int32_t (*)(void* sink, int64_t query, int64_t position, int32_t distance);

struct Kernels {
  // Offers every code of the tile with distance < limits[query] to `accept`, for each of the queries [count, words].
  void (*scan)(const Tile& tile, const uint64_t* queries, int64_t count, int32_t* limits, void* sink, Accept accept);
  // out [tile.count]: the distances of one query [words] to the codes of a tile.
  void (*distances)(const Tile& tile, const uint64_t* query, int32_t* out);
  // codes [count, bytes] -> planes [ceil(bytes / 8), stride], padded with zero bits.
  void (*transpose)(const uint8_t* codes, int64_t count, int64_t bytes, uint64_t* planes, int64_t stride);
  // flags [bits] of one byte each, 0 or 1 -> out [ceil(bits / 8)]
  void (*pack)(const uint8_t* flags, int64_t bits, uint8_t* out);
};

const Kernels& kernels();

}  // namespace xmkern::hamming
