// Which instruction sets this processor has, and which one the kernels are told to use.
//
// Every kernel source is compiled once per capability, inside a namespace of the capability's name
// (the macro XMKERN_CAPABILITY). A family keeps the compiled variants in a KernelTable and picks at run time.
// Kernel sources include no standard-library header that defines inline code: two copies of one inline function
// compiled for different instruction sets would be merged by the linker, and the wrong one might survive.
#pragma once

namespace xmkern {

// Ordered: each level has all that the levels before it have.
enum class Capability : int { baseline, avx2, avx512, avx512_vpopcntdq, avx512_bf16 };
inline constexpr int capability_count = 5;

const char* capability_name(Capability capability);

// The highest capability that this processor and operating system can run.
Capability detected_capability();

// The capability in force: the detected one unless set lower.
Capability current_capability();

// Whether Intel made it: MKL, torch's BLAS, uses AVX-512 to the full on no other processor.
bool made_by_intel();

// Returns false, and changes nothing, if the processor lacks the capability.
bool set_current_capability(Capability capability);

// The variants of one family's kernels, indexed by capability; absent ones are null, baseline never is.
template <class Kernels>
struct KernelTable {
  const Kernels* variants[capability_count];

  const Kernels& pick() const {
    int level = static_cast<int>(current_capability());
    while (variants[level] == nullptr) --level;
    return *variants[level];
  }
};

template <class Kernels>
constexpr KernelTable<Kernels> kernel_table(const Kernels* baseline, const Kernels* avx2, const Kernels* avx512,
                                            Capability last, const Kernels* own) {
  KernelTable<Kernels> table{{baseline, avx2, avx512}};
  table.variants[static_cast<int>(last)] = own;
  return table;
}

}  // namespace xmkern

// In namespace xmkern: declares kernels `name` of a type, as CMakeLists.txt has them compiled for baseline, avx2,
// avx512 and one level more, `last` (avx512 itself: none more), and defines the table of them. Without XMKERN_AVX512
// avx2 is the last.
#define XMKERN_VARIANT(level, Kernels, name) \
  namespace level {                          \
  extern const Kernels name;                 \
  }
#if XMKERN_AVX512
#define XMKERN_KERNELS(table, Kernels, name, last) \
  XMKERN_VARIANT(baseline, Kernels, name)          \
  XMKERN_VARIANT(avx2, Kernels, name)              \
  XMKERN_VARIANT(avx512, Kernels, name)            \
  XMKERN_VARIANT(last, Kernels, name)              \
  constexpr KernelTable<Kernels> table =           \
      kernel_table<Kernels>(&baseline::name, &avx2::name, &avx512::name, Capability::last, &last::name);
#elif XMKERN_X86
#define XMKERN_KERNELS(table, Kernels, name, last) \
  XMKERN_VARIANT(baseline, Kernels, name)          \
  XMKERN_VARIANT(avx2, Kernels, name)              \
  constexpr KernelTable<Kernels> table = {{&baseline::name, &avx2::name}};
#else
#define XMKERN_KERNELS(table, Kernels, name, last) \
  XMKERN_VARIANT(baseline, Kernels, name)          \
  constexpr KernelTable<Kernels> table = {{&baseline::name}};
#endif
