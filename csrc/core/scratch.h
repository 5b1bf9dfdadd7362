// Working memory of a thread, kept between calls: fresh pages from the system would cost more than a small kernel.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace xmkern {

// Memory on a cache line, valid until the thread asks again for the same use. What exceeds the limit is not kept for
// the next call.
class Scratch {
 public:
  enum Use { of_task, of_call };  // a task may run on the thread whose call it is part of

  template <Use use = of_task>
  static void* get(size_t bytes) {
    thread_local Scratch scratch;
    if (bytes > scratch.bytes_ || scratch.bytes_ > kept_bytes) scratch.allocate(bytes);
    return scratch.data_;
  }

 private:
  static constexpr size_t kept_bytes = size_t{16} << 20;

  ~Scratch() { std::free(data_); }

  void allocate(size_t bytes) {
    std::free(data_);
    bytes_ = (bytes + 64) / 64 * 64;
    data_ = std::aligned_alloc(64, bytes_);
    if (data_ != nullptr) return;
    bytes_ = 0;
    throw std::bad_alloc();
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace xmkern
