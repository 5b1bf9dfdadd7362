// Uninitialised memory for tables that are read at random: on huge pages where the system has them, because on small
// ones each read would also miss in the processor's page table cache.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace xmkern {

template <class T>
class LargeArray {
 public:
  LargeArray() = default;
  explicit LargeArray(size_t count) {
    constexpr size_t page = size_t{1} << 21;
    const size_t bytes = count * sizeof(T);
    const size_t alignment = bytes < page ? 64 : page;
    const size_t whole = (bytes + alignment) / alignment * alignment;  // never zero
    data_.reset(static_cast<T*>(std::aligned_alloc(alignment, whole)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == page) madvise(data_.get(), whole, MADV_HUGEPAGE);
#endif
  }

  T* get() const { return data_.get(); }
  T& operator[](size_t i) const { return data_.get()[i]; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace xmkern
