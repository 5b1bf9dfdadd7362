// Compiled once per instruction set (see core/capability.h): no standard-library code in here.
#include "hamming/kernels.h"

#include "hamming/lanes.h"

namespace xmkern::XMKERN_CAPABILITY {

using hamming::Offer;
using hamming::Rows;

namespace {

// ---- few queries: popcounts ------------------------------------------------------------------------------------

constexpr int block = 256;

void offer_rows(Rows rows, int64_t start, int64_t end, const uint64_t* query, int64_t index, const Offer& offer) {
  int32_t limit = offer.limits[index];
  for (int64_t i = start; i < end; ++i) {
    const int32_t d = row_distance(rows.data + i * 8 * rows.words, query, rows.words);
    if (d < limit) limit = offer.accept(offer.sink, index, i, d);
  }
  offer.limits[index] = limit;
}

#if defined(__AVX2__)

// A query of 1, 2 or 4 words; `near` gives the distances of the next `width` codes, in any order.
template <int Words>
struct Query {
  Counts pattern;
  explicit Query(const uint64_t* query) : pattern(Counts::repeat(query, Words)) {}
  Counts part(const uint8_t* p) const { return Counts::popcount(Counts::load(p) ^ pattern); }
  Counts near(const uint8_t* rows) const {
    constexpr int step = 8 * Counts::width;
    if constexpr (Words == 1) {
      return part(rows);
    } else if constexpr (Words == 2) {
      return Counts::pairs(part(rows), part(rows + step));
    } else {
      return Counts::halves(Counts::pairs(part(rows), part(rows + step)),
                            Counts::pairs(part(rows + 2 * step), part(rows + 3 * step)));
    }
  }
};

// Only the smallest distance of a block is kept, and a block is looked at again when that beats the limit: after the
// first few blocks this hardly ever happens.
template <int Words>
void scan_short_rows(Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  const Query<Words> wanted(query);
  const int64_t whole = rows.count / block * block;
  for (int64_t start = 0; start < whole; start += block) {
    Counts nearest = Counts::all(0x7fffffff);
    for (int64_t i = start; i < start + block; i += Counts::width) {
      const uint8_t* codes = rows.data + i * 8 * Words;
      __builtin_prefetch(codes + 4096);
      nearest = Counts::min(nearest, wanted.near(codes));
    }
    if (Counts::any_less(nearest, Counts::all(static_cast<uint64_t>(offer.limits[index]))))
      offer_rows(rows, start, start + block, query, index, offer);
  }
  offer_rows(rows, whole, rows.count, query, index, offer);
}

void scan_long_rows(Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  int32_t limit = offer.limits[index];
  for (int64_t i = 0; i < rows.count; ++i) {
    const uint8_t* row = rows.data + i * 8 * rows.words;
    Counts sum = Counts::all(0);
    for (int w = 0; w < rows.words; w += Counts::width)
      sum =
          sum + Counts::popcount(Counts::load(row + 8 * w) ^ Counts::load(reinterpret_cast<const uint8_t*>(query + w)));
    const int32_t d = static_cast<int32_t>(sum.sum());
    if (d < limit) limit = offer.accept(offer.sink, index, i, d);
  }
  offer.limits[index] = limit;
}

void scan_one(Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  if (rows.words == 1) return scan_short_rows<1>(rows, query, index, offer);
  if (rows.words == 2) return scan_short_rows<2>(rows, query, index, offer);
  if (rows.words == 4) return scan_short_rows<4>(rows, query, index, offer);
  if (rows.words % Counts::width == 0) return scan_long_rows(rows, query, index, offer);
  offer_rows(rows, 0, rows.count, query, index, offer);
}

#else

void scan_one(Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  offer_rows(rows, 0, rows.count, query, index, offer);
}

#endif

void scan_rows(Rows rows, const uint64_t* queries, int64_t count, const Offer& offer) {
  for (int64_t q = 0; q < count; ++q) scan_one(rows, queries + q * rows.words, q, offer);
}

// ---- many queries: bit planes ----------------------------------------------------------------------------------

constexpr int slice = 64 * plane_lanes;

// Three steps of the transposition of 64 x 64 bits in each lane (Hacker's Delight, section 7-3), on eight rows that are
// `Stride` apart. After the steps of strides 8 and 1, bit i of row j is bit j of row i.
template <int Stride>
inline __attribute__((always_inline)) void transpose(Plane rows[8]) {
#pragma GCC unroll 3
  for (int half = 4; half > 0; half /= 2) {
    const int shift = half * Stride;
    const uint64_t mask = ~0ull / ((1ull << shift) + 1);  // the lower `shift` of every 2 * shift bits
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      if (i & half) continue;
      const Plane swapped = ((rows[i] >> shift) ^ rows[i + half]) & mask;
      rows[i] ^= swapped << shift;
      rows[i + half] ^= swapped;
    }
  }
}

// Splits neighbouring codes of `Words` words into a register for each word.
template <int Words>
inline void deinterleave(const Plane* codes, Plane* words) {
  if constexpr (Words == 1) {
    words[0] = codes[0];
  } else {
    Plane even[Words / 2], odd[Words / 2], of_even[Words / 2], of_odd[Words / 2];
    for (int i = 0; i < Words / 2; ++i) {
      even[i] = even_lanes(codes[2 * i], codes[2 * i + 1]);
      odd[i] = odd_lanes(codes[2 * i], codes[2 * i + 1]);
    }
    deinterleave<Words / 2>(even, of_even);
    deinterleave<Words / 2>(odd, of_odd);
    for (int i = 0; i < Words / 2; ++i) {
      words[2 * i] = of_even[i];
      words[2 * i + 1] = of_odd[i];
    }
  }
}

// Fills the matrices to transpose, bits [words, 64]: lane b of row i is a word of code i * plane_lanes + b, so that
// neighbouring codes share a register.
template <int Words>
void gather_whole(const uint8_t* codes, Plane* bits) {
  for (int i = 0; i < 64; ++i) {
    Plane in[Words], words[Words];
    __builtin_memcpy(in, codes + i * static_cast<int64_t>(sizeof(in)), sizeof(in));
    deinterleave<Words>(in, words);
    for (int w = 0; w < Words; ++w) bits[64 * w + i] = words[w];
  }
}

void gather(Rows rows, Plane* bits) {
  if (rows.count == slice) {
    if (rows.words == 1) return gather_whole<1>(rows.data, bits);
    if (rows.words == 2) return gather_whole<2>(rows.data, bits);
    if (rows.words == 4) return gather_whole<4>(rows.data, bits);
    if (rows.words == 8) return gather_whole<8>(rows.data, bits);
  }
  for (int w = 0; w < rows.words; ++w) {
    if (rows.count < slice) __builtin_memset(bits + 64 * w, 0, 64 * sizeof(Plane));
    for (int64_t i = 0; i < rows.count; ++i)
      bits[64 * w + i / plane_lanes][i % plane_lanes] = word_at(rows.data + (i * rows.words + w) * 8);
  }
}

// The carries of eight bits; `parity` is that of the bits before, and becomes that of the bits up to here.
inline __attribute__((always_inline)) void tabulate(const Plane bits[8], Plane& parity, Plane* out) {
  using hamming::carries;
  for (int i = 0; i < 8; i += 2, out += carries) {
    const Plane a = bits[i], b = bits[i + 1];
    out[0] = majority(a, b, parity);
    out[1] = majority(~a, b, parity);
    out[2] = majority(a, ~b, parity);
    out[3] = majority(~a, ~b, parity);
    for (int j = 0; j < carries / 2; ++j) out[carries - 1 - j] = ~out[j];
    parity ^= a ^ b;
  }
}

void cut(Rows rows, uint64_t* planes) {
  Plane bits[64 * hamming::max_words];
  gather(rows, bits);
  Plane parity = {}, *out = reinterpret_cast<Plane*>(planes);
  for (Plane* word = bits; word < bits + 64 * rows.words; word += 64) {
    for (int i = 0; i < 8; ++i) {
      Plane eight[8];
      for (int j = 0; j < 8; ++j) eight[j] = word[i + 8 * j];
      transpose<8>(eight);
      for (int j = 0; j < 8; ++j) word[i + 8 * j] = eight[j];
    }
    for (int i = 0; i < 64; i += 8, out += 4 * hamming::carries) {
      Plane eight[8];
      for (int j = 0; j < 8; ++j) eight[j] = word[i + j];
      transpose<1>(eight);
      tabulate(eight, parity, out);
    }
  }
}

// The carries that a query picks. Eight steps of its path are read at a time: the loads of planes keep the load unit
// busy, and shifts cost nothing beside them.
struct Carries {
  const Plane* table;
  const uint8_t* path;
  uint64_t eight = 0;
  int pair = 0;

  inline __attribute__((always_inline)) Plane next() {
    if (pair % 8 == 0) eight = word_at(path + pair);
    const uint8_t* here = reinterpret_cast<const uint8_t*>(table + pair++ * hamming::carries);
    const uint64_t offset = (eight & 255) * plane_lanes;
    eight >>= 8;
    return *reinterpret_cast<const Plane*>(here + offset);
  }
};

// The sum of the next 2^Digits - 1 carries as a binary number of digit planes: two numbers of one digit less and one
// more carry make a full number, by one full adder a digit.
template <int Digits>
inline __attribute__((always_inline)) void sum_carries(Carries& from, Plane* digits) {
  if constexpr (Digits == 1) {
    digits[0] = from.next();
  } else {
    Plane other[Digits - 1];
    sum_carries<Digits - 1>(from, digits);
    sum_carries<Digits - 1>(from, other);
    Plane carry = from.next();
    for (int d = 0; d < Digits - 1; ++d) carry = add_bits(digits[d], other[d], carry, digits[d]);
    digits[Digits - 1] = carry;
  }
}

// Offers the rows that are not in `far`, among those that the slice really has: bit i of lane b is row
// i * plane_lanes + b.
void offer_near(Plane far, Rows rows, const uint64_t* query, int64_t index, const Offer& offer) {
  uint64_t beyond[plane_lanes], everywhere = ~0ull;
  __builtin_memcpy(beyond, &far, sizeof(beyond));
  for (int b = 0; b < plane_lanes; ++b) everywhere &= beyond[b];
  int32_t limit = offer.limits[index];
  for (uint64_t left = ~everywhere; left != 0; left &= left - 1) {
    const int bit = __builtin_ctzll(left);
    unsigned near = 0;  // one bit a lane: mostly there is one, and no branch could guess which
    for (int b = 0; b < plane_lanes; ++b) near |= static_cast<unsigned>(~beyond[b] >> bit & 1) << b;
    for (; near != 0; near &= near - 1) {
      const int64_t i = static_cast<int64_t>(bit) * plane_lanes + __builtin_ctz(near);
      if (i >= rows.count) break;
      const int32_t d = row_distance(rows.data + i * 8 * rows.words, query, rows.words);
      if (d < limit) limit = offer.accept(offer.sink, index, i, d);
    }
  }
  offer.limits[index] = limit;
}

inline bool all_set(Plane a) {
#if defined(__AVX512F__)
  return _mm512_cmpneq_epi64_mask((__m512i)a, _mm512_set1_epi64(-1)) == 0;
#else
  uint64_t all = ~0ull;
  for (int b = 0; b < plane_lanes; ++b) all &= a[b];
  return all == ~0ull;
#endif
}

// A distance is twice the carries and the last parity: it is below an even limit where there are fewer carries than
// half of that. An odd limit is made even by a parity that starts at 1, which is another path. The tables of long codes
// come from the second-level cache, which keeps up.
//
// Words are summed in blocks whose carries but one make a number of `Block` digits; the total of them has `Digits`.
template <int Block, int Digits>
void scan_planes(const uint64_t* planes, Rows rows, const uint64_t* queries, const uint8_t* paths, int64_t count,
                 const Offer& offer) {
  constexpr int block_pairs = 1 << Block;
  const int64_t bytes = rows.count * rows.words * 8, all_pairs = int64_t{rows.words} * hamming::pairs;
  for (int64_t q = 0; q < count; ++q) {
    // Meanwhile the next slice comes from memory.
    for (int64_t i = 64 * q; i < bytes; i += 64 * count) __builtin_prefetch(rows.data + bytes + i, 0, 2);
    const int32_t limit = offer.limits[q];
    const Plane* table = reinterpret_cast<const Plane*>(planes);
    const uint8_t* path = paths + ((limit & 1) * count + q) * all_pairs;
    Carries first{table, path};
    Plane total[Digits] = {};
    sum_carries<Block>(first, total);
    const Plane left = first.next();
    for (int64_t pair = block_pairs; pair < all_pairs; pair += block_pairs) {
      Carries from{table + pair * hamming::carries, path + pair};
      Plane sum[Block];
      sum_carries<Block>(from, sum);
      Plane carry = from.next();
      for (int d = 0; d < Block; ++d) carry = add_bits(total[d], sum[d], carry, total[d]);
      for (int d = Block; d < Digits; ++d) {
        const Plane digit = total[d];
        total[d] = digit ^ carry;
        carry &= digit;
      }
    }
    // With this added, too many carries overflow.
    const uint32_t rest = (1u << Digits) - static_cast<uint32_t>((limit + 1) / 2);
    Plane far = left;
    for (int d = 0; d < Digits; ++d) far = majority(total[d], Plane{} - uint64_t{rest >> d & 1}, far);
    if (!all_set(far)) offer_near(far, rows, queries + q * rows.words, q, offer);
  }
}

void scan_slice(const uint64_t* planes, Rows rows, const uint64_t* queries, const uint8_t* paths, int64_t count,
                const Offer& offer) {
  // Digits enough for the 32 carries of each word.
  if (rows.words == 1) return scan_planes<5, 6>(planes, rows, queries, paths, count, offer);
  if (rows.words == 2) return scan_planes<6, 7>(planes, rows, queries, paths, count, offer);
  if (rows.words == 4) return scan_planes<7, 8>(planes, rows, queries, paths, count, offer);
  return scan_planes<5, 12>(planes, rows, queries, paths, count, offer);
}

// ---- the rest --------------------------------------------------------------------------------------------------

template <int Words>
void fixed_distances(Rows rows, const uint64_t* query, int32_t* out) {
  for (int64_t i = 0; i < rows.count; ++i) out[i] = row_distance(rows.data + i * 8 * Words, query, Words);
}

void distances(Rows rows, const uint64_t* query, int32_t* out) {
  if (rows.words == 1) return fixed_distances<1>(rows, query, out);
  if (rows.words == 2) return fixed_distances<2>(rows, query, out);
  if (rows.words == 4) return fixed_distances<4>(rows, query, out);
  for (int64_t i = 0; i < rows.count; ++i) out[i] = row_distance(rows.data + i * 8 * rows.words, query, rows.words);
}

void pack(const uint8_t* flags, int64_t bits, uint8_t* out) {
  int64_t i = 0;
#if defined(__AVX512BW__)
  for (; i + 64 <= bits; i += 64) {
    const __m512i bytes = _mm512_loadu_si512(flags + i);
    const uint64_t word = _mm512_test_epi8_mask(bytes, bytes);
    __builtin_memcpy(out + i / 8, &word, 8);
  }
#elif defined(__SSE2__)
  for (; i + 16 <= bits; i += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(flags + i));
    const int zeros = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128()));
    const uint16_t word = static_cast<uint16_t>(~zeros);
    __builtin_memcpy(out + i / 8, &word, 2);
  }
#endif
  // Any byte but 0 is True. Eight bytes of 0 or 1 meet in the top byte of the product, the first of them lowest.
  constexpr uint64_t low_bits = 0x7f7f7f7f7f7f7f7full;
  for (; i + 8 <= bits; i += 8) {
    const uint64_t bytes = word_at(flags + i), tops = ((bytes & low_bits) + low_bits) | bytes;
    out[i / 8] = static_cast<uint8_t>(((tops >> 7 & 0x0101010101010101ull) * 0x0102040810204080ull) >> 56);
  }
  if (i < bits) {
    uint8_t last = 0;
    for (int64_t b = 0; i + b < bits; ++b) last = static_cast<uint8_t>(last | ((flags[i + b] != 0) << b));
    out[i / 8] = last;
  }
}

}  // namespace

extern const hamming::Kernels hamming_kernels;
const hamming::Kernels hamming_kernels = {scan_rows, slice, cut, scan_slice, distances, pack};

}  // namespace xmkern::XMKERN_CAPABILITY
