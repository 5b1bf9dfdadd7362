// Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "hamming/kernels.h"

#include "hamming/lanes.h"

namespace xmkern::XMKERN_CAPABILITY {

using hamming::Accept;
using hamming::block;
using hamming::Tile;

namespace {

// Distances of one register of codes, whose first plane starts at `codes`. Words = 0: the count is known at run time.
template <int Words>
inline Lanes distance(const uint64_t* codes, int64_t stride, const uint64_t* query, int words) {
  Lanes sum = Lanes::popcount(Lanes::load(codes) ^ Lanes::all(query[0]));
  const int count = Words ? Words : words;
  for (int w = 1; w < count; ++w) sum = sum + Lanes::popcount(Lanes::load(codes + w * stride) ^ Lanes::all(query[w]));
  return sum;
}

template <int Words>
void block_distances(const Tile& tile, int64_t start, const uint64_t* query, uint64_t* out) {
  for (int i = 0; i < block; i += Lanes::width)
    distance<Words>(tile.planes + start + i, tile.stride, query, tile.words).store(out + i);
}

// The rare case: at least one code of the block is near enough.
template <int Words>
int32_t offer_block(const Tile& tile, int64_t start, const uint64_t* query, int64_t index, int32_t limit, void* sink,
                    Accept accept) {
  alignas(64) uint64_t near[block];
  block_distances<Words>(tile, start, query, near);
  const int64_t end = tile.count - start < block ? tile.count - start : block;
  for (int64_t i = 0; i < end; ++i) {
    const int32_t d = static_cast<int32_t>(near[i]);
    if (d < limit) limit = accept(sink, index, start + i, d);
  }
  return limit;
}

// `Queries` at a time share each load of the codes. Only the smallest distance of a block is kept, and a block is
// looked at again when that beats the limit: after the first few blocks this hardly ever happens.
template <int Words, int Queries>
void scan_group(const Tile& tile, const uint64_t* queries, int64_t first, int32_t* limits, void* sink, Accept accept) {
  const int words = Words ? Words : tile.words;
  for (int64_t start = 0; start < tile.count; start += block) {
    Lanes nearest[Queries];
    for (int q = 0; q < Queries; ++q) nearest[q] = Lanes::all(~0ull);
    for (int i = 0; i < block; i += Lanes::width) {
      const uint64_t* codes = tile.planes + start + i;
      if constexpr (Words == 0) {
        Lanes sum[Queries];
        for (int q = 0; q < Queries; ++q) sum[q] = Lanes::all(0);
        for (int w = 0; w < words; ++w) {
          const Lanes word = Lanes::load(codes + w * tile.stride);
          for (int q = 0; q < Queries; ++q)
            sum[q] = sum[q] + Lanes::popcount(word ^ Lanes::all(queries[q * words + w]));
        }
        for (int q = 0; q < Queries; ++q) nearest[q] = Lanes::min(nearest[q], sum[q]);
      } else {
        for (int q = 0; q < Queries; ++q)
          nearest[q] = Lanes::min(nearest[q], distance<Words>(codes, tile.stride, queries + q * words, words));
      }
    }
    for (int q = 0; q < Queries; ++q) {
      const int32_t limit = limits[first + q];
      if (Lanes::any_less(nearest[q], Lanes::all(static_cast<uint64_t>(limit))))
        limits[first + q] = offer_block<Words>(tile, start, queries + q * words, first + q, limit, sink, accept);
    }
  }
}

template <int Words>
void scan_words(const Tile& tile, const uint64_t* queries, int64_t count, int32_t* limits, void* sink, Accept accept) {
  constexpr int group = 4;
  const int words = tile.words;
  int64_t q = 0;
  for (; q + group <= count; q += group) scan_group<Words, group>(tile, queries + q * words, q, limits, sink, accept);
  for (; q < count; ++q) scan_group<Words, 1>(tile, queries + q * words, q, limits, sink, accept);
}

void scan(const Tile& tile, const uint64_t* queries, int64_t count, int32_t* limits, void* sink, Accept accept) {
  switch (tile.words) {
    case 1:
      return scan_words<1>(tile, queries, count, limits, sink, accept);
    case 2:
      return scan_words<2>(tile, queries, count, limits, sink, accept);
    case 4:
      return scan_words<4>(tile, queries, count, limits, sink, accept);
    default:
      return scan_words<0>(tile, queries, count, limits, sink, accept);
  }
}

void distances(const Tile& tile, const uint64_t* query, int32_t* out) {
  alignas(64) uint64_t near[block];
  for (int64_t start = 0; start < tile.count; start += block) {
    if (tile.words == 1)
      block_distances<1>(tile, start, query, near);
    else
      block_distances<0>(tile, start, query, near);
    const int64_t end = tile.count - start < block ? tile.count - start : block;
    for (int64_t i = 0; i < end; ++i) out[start + i] = static_cast<int32_t>(near[i]);
  }
}

void transpose(const uint8_t* codes, int64_t count, int64_t bytes, uint64_t* planes, int64_t stride) {
  const int64_t whole = bytes / 8, words = (bytes + 7) / 8, rest = bytes % 8;
  for (int64_t w = 0; w < words; ++w)
    for (int64_t i = count; i < stride; ++i) planes[w * stride + i] = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* code = codes + i * bytes;
    for (int64_t w = 0; w < whole; ++w) __builtin_memcpy(planes + w * stride + i, code + 8 * w, 8);
    if (rest) {
      uint64_t last = 0;
      for (int64_t b = 0; b < rest; ++b) last |= static_cast<uint64_t>(code[8 * whole + b]) << (8 * b);
      planes[whole * stride + i] = last;
    }
  }
}

void pack(const uint8_t* flags, int64_t bits, uint8_t* out) {
  int64_t i = 0;
#if defined(__AVX512BW__)
  for (; i + 64 <= bits; i += 64) {
    const uint64_t word = _mm512_test_epi8_mask(_mm512_loadu_si512(flags + i), _mm512_loadu_si512(flags + i));
    __builtin_memcpy(out + i / 8, &word, 8);
  }
#endif
  for (; i + 8 <= bits; i += 8) {
    // Eight bytes of 0 or 1 meet in the top byte of the product, the first of them lowest.
    uint64_t bytes;
    __builtin_memcpy(&bytes, flags + i, 8);
    out[i / 8] = static_cast<uint8_t>((bytes * 0x0102040810204080ull) >> 56);
  }
  if (i < bits) {
    uint8_t last = 0;
    for (int64_t b = 0; i + b < bits; ++b) last = static_cast<uint8_t>(last | (flags[i + b] << b));
    out[i / 8] = last;
  }
}

}  // namespace

extern const hamming::Kernels hamming_kernels;
const hamming::Kernels hamming_kernels = {scan, distances, transpose, pack};

}  // namespace xmkern::XMKERN_CAPABILITY
