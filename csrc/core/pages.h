// Fresh memory of the system: its first write costs a page fault each 4 KB, or, on huge pages, each 2 MB.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace xmkern {

// Asks for huge pages where memory lies that is written soon, in whole huge pages, so that they begin and end outside:
// advice, which changes nothing but speed, and nothing at all where there are pages already.
inline void ask_for_huge_pages([[maybe_unused]] uintptr_t address, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  const uintptr_t begin = address / page * page, end = (address + bytes + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace xmkern
