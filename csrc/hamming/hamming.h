// Hamming search over packed binary codes: row-major bytes, least significant bit first. See
// xmkern/ops/hamming/README.md.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace xmkern::hamming {

struct Codes {
  const uint8_t* data;  // [count, bytes]
  int64_t count;
  int64_t bytes;  // at most 512 (4096 bits)
};

// Copies a row to whole 64-bit words; bytes of the last word past the row stay as they are.
inline void load_row(Codes codes, int64_t row, uint64_t* words) {
  std::memcpy(words, codes.data + row * codes.bytes, static_cast<size_t>(codes.bytes));
}

// out [a.count, b.count]
void distances(Codes a, Codes b, int32_t* out, int threads);

// distances, indices [queries.count, k], each row ordered by (distance, index); missing neighbours are -1, -1.
void topk(Codes queries, Codes codes, int64_t k, int32_t* distances, int64_t* indices, int threads);

struct Neighbours {
  std::vector<int32_t> distances;
  std::vector<int64_t> indices;
};

// All codes with distance <= radius. Query q's lie at [lims[q], lims[q + 1]) of `found`, ordered by (distance, index).
std::vector<int64_t> range(Codes queries, Codes codes, int32_t radius, Neighbours& found, int threads);

// flags [rows, bits], one byte each, 0 for False  ->  out [rows, ceil(bits / 8)]
void pack(const uint8_t* flags, int64_t rows, int64_t bits, uint8_t* out, int threads);

}  // namespace xmkern::hamming
