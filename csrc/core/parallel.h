// A parallel loop over independent tasks, on the OpenMP runtime that torch has loaded.
//
// Results must not depend on the number of threads: split the work by size alone, and give each task its own output.
#pragma once

#include <cstdint>
#include <exception>

namespace xmkern {

template <class Body>
void parallel_for(int64_t tasks, int threads, Body&& body) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  // An exception may not leave an OpenMP region: the first is carried across.
  std::exception_ptr failure = nullptr;
  [[maybe_unused]] const int team = static_cast<int>(tasks < threads ? tasks : threads);
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
  for (int64_t task = 0; task < tasks; ++task) {
    try {
      body(task);
    } catch (...) {
#pragma omp critical(xmkern_parallel_failure)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace xmkern
