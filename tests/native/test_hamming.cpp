// The native kernels against a plain loop, for the sanitizers: every capability, awkward sizes, exactly sized memory.
#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include "core/capability.h"
#include "hamming/hamming.h"
#include "hamming/mih.h"

using namespace xmkern;
using hamming::Codes;

namespace {

int checks = 0;

void expect(bool held, const char* what, int64_t bytes, int64_t queries, int64_t codes) {
  ++checks;
  if (held) return;
  std::printf("FAILED: %s at %s, %lld bytes, %lld queries, %lld codes\n", what, capability_name(current_capability()),
              static_cast<long long>(bytes), static_cast<long long>(queries), static_cast<long long>(codes));
  std::exit(1);
}

// Memory of exactly the size, so that a read past the end is seen.
std::unique_ptr<uint8_t[]> random_bytes(int64_t count, std::mt19937& random) {
  auto bytes = std::make_unique<uint8_t[]>(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(random());
  return bytes;
}

using Ranked = std::vector<std::pair<int32_t, int64_t>>;

Ranked ranked(Codes queries, int64_t query, Codes codes) {
  Ranked all;
  for (int64_t i = 0; i < codes.count; ++i) {
    int32_t distance = 0;
    for (int64_t b = 0; b < codes.bytes; ++b)
      distance +=
          std::popcount(static_cast<uint8_t>(queries.data[query * codes.bytes + b] ^ codes.data[i * codes.bytes + b]));
    all.emplace_back(distance, i);
  }
  std::sort(all.begin(), all.end());
  return all;
}

void check(int64_t bytes, int64_t query_count, int64_t code_count, int threads, std::mt19937& random) {
  const auto query_bytes = random_bytes(query_count * bytes, random),
             code_bytes = random_bytes(code_count * bytes, random);
  const Codes queries{query_bytes.get(), query_count, bytes}, codes{code_bytes.get(), code_count, bytes};
  const auto expect_here = [&](bool held, const char* what) { expect(held, what, bytes, query_count, code_count); };

  std::vector<int32_t> all(static_cast<size_t>(query_count * code_count));
  hamming::distances(queries, codes, all.data(), threads);
  constexpr int64_t k = 7;
  std::vector<int32_t> near(static_cast<size_t>(query_count * k));
  std::vector<int64_t> which(static_cast<size_t>(query_count * k));
  hamming::topk(queries, codes, k, near.data(), which.data(), threads);
  const int32_t radius = static_cast<int32_t>(4 * bytes - 1);
  hamming::Neighbours found;
  const std::vector<int64_t> lims = hamming::range(queries, codes, radius, found, threads);

  // Hashing over all but the last few codes, which it has to scan.
  const hamming::Mih tables({code_bytes.get(), code_count - code_count / 8, bytes}, static_cast<int>(8 * bytes),
                            threads);
  hamming::Neighbours hashed;
  expect_here(tables.range(queries, codes, radius, hashed, 1e9, threads) == lims, "hashed range length");
  expect_here(hashed.distances == found.distances && hashed.indices == found.indices, "hashed range");
  std::vector<int32_t> hashed_near(near.size());
  std::vector<int64_t> hashed_which(which.size());
  tables.topk(queries, codes, k, hashed_near.data(), hashed_which.data(), 1e9, threads);
  expect_here(hashed_near == near && hashed_which == which, "hashed nearest");

  for (int64_t q = 0; q < query_count; ++q) {
    Ranked expected = ranked(queries, q, codes);
    for (const auto& [distance, i] : expected)
      expect_here(all[static_cast<size_t>(q * code_count + i)] == distance, "distance");
    size_t out = static_cast<size_t>(lims[static_cast<size_t>(q)]);
    for (const auto& [distance, i] : expected) {
      if (distance > radius) break;
      expect_here(found.distances[out] == distance && found.indices[out] == i, "range");
      ++out;
    }
    expect_here(static_cast<int64_t>(out) == lims[static_cast<size_t>(q) + 1], "range length");
    expected.resize(k, {-1, -1});
    for (int64_t i = 0; i < k; ++i) {
      const size_t at = static_cast<size_t>(q * k + i);
      expect_here(std::make_pair(near[at], which[at]) == expected[static_cast<size_t>(i)], "nearest");
    }
  }
}

void check_pack(int64_t rows, int64_t bits, std::mt19937& random) {
  auto flags = random_bytes(rows * bits, random);
  for (int64_t i = 0; i < rows * bits; ++i)  // half of them False; of True, any byte
    if (random() % 2) flags[static_cast<size_t>(i)] = 0;
  const int64_t bytes = (bits + 7) / 8;
  std::vector<uint8_t> out(static_cast<size_t>(rows * bytes), 0xff);
  hamming::pack(flags.get(), rows, bits, out.data(), 2);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t b = 0; b < 8 * bytes; ++b) {
      const int bit = out[static_cast<size_t>(r * bytes + b / 8)] >> (b % 8) & 1;
      expect(bit == (b < bits && flags[static_cast<size_t>(r * bits + b)] != 0), "pack", bytes, rows, bits);
    }
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(detected_capability()); ++level) {
    set_current_capability(static_cast<Capability>(level));
    std::mt19937 random(1);
    for (int64_t bytes : {1, 7, 8, 9, 16, 24, 32, 33, 64, 512})
      for (int64_t queries : {0, 1, 13, 19})
        for (int64_t codes : {0, 1, 257, 700}) check(bytes, queries, codes, 2, random);
    check(8, 2, 33000, 3, random);
    check(8, 13, 33000, 3, random);
    for (int64_t bits : {1, 7, 8, 63, 64, 65, 200}) check_pack(3, bits, random);
  }
  std::printf("%d checks passed on %d capabilities\n", checks, static_cast<int>(detected_capability()) + 1);
  return 0;
}
