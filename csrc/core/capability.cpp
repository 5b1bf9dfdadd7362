#include "core/capability.h"

#include <atomic>

namespace xmkern {

namespace {

Capability detect() {
#if XMKERN_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("f16c");
  if (!avx2) return Capability::baseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (!avx512) return Capability::avx2;
  if (!__builtin_cpu_supports("avx512vpopcntdq")) return Capability::avx512;
  if (!XMKERN_EMULATE_BF16 && !__builtin_cpu_supports("avx512bf16")) return Capability::avx512_vpopcntdq;
  return Capability::avx512_bf16;
#else
  return Capability::baseline;
#endif
}

std::atomic<int> current{-1};

}  // namespace

const char* capability_name(Capability capability) {
  static const char* const names[capability_count] = {"baseline", "avx2", "avx512", "avx512_vpopcntdq", "avx512_bf16"};
  return names[static_cast<int>(capability)];
}

Capability detected_capability() {
  static const Capability detected = detect();
  return detected;
}

bool made_by_intel() {
#if XMKERN_X86
  __builtin_cpu_init();
  return __builtin_cpu_is("intel");
#else
  return false;
#endif
}

Capability current_capability() {
  const int level = current.load(std::memory_order_relaxed);
  return level < 0 ? detected_capability() : static_cast<Capability>(level);
}

bool set_current_capability(Capability capability) {
  if (capability > detected_capability()) return false;
  current.store(static_cast<int>(capability), std::memory_order_relaxed);
  return true;
}

}  // namespace xmkern
