// See shim.h. Only headers that libtorch_cpu and libc10 satisfy are included, so one binary serves CPU and GPU.
#include "shim.h"

#include "guarded.h"
#include "libtorch.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <dlfcn.h>

#include <malloc.h>

#include <climits>
#include <cstdlib>

using empssl::copy_text;
using empssl::guarded;

namespace {

c10::DeviceAllocator *cuda_allocator(int64_t index) {
  // Makes sure that the device's context and allocator exist before they are asked for statistics.
  at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
  TORCH_CHECK(index >= 0 && index < at::detail::getCUDAHooks().deviceCount(), "there is no CUDA device ", index);
  return c10::getDeviceAllocator(c10::DeviceType::CUDA);
}

constexpr size_t kAggregate = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

} // namespace

void empssl_free(char *text) { std::free(text); }

const char *empssl_libtorch_version(void) { return EMPSSL_LIBTORCH; }

char *empssl_libtorch_path(void) {
  Dl_info info{};
  if (dladdr(reinterpret_cast<void *>(&at::globalContext), &info) == 0 || info.dli_fname == nullptr) {
    return nullptr;
  }
  return copy_text(info.dli_fname);
}

char *empssl_device_synchronize(int64_t index) {
  return guarded([&] {
    TORCH_CHECK(index >= 0 && index < at::detail::getCUDAHooks().deviceCount(), "there is no CUDA device ", index);
    at::detail::getCUDAHooks().deviceSynchronize(static_cast<c10::DeviceIndex>(index));
  });
}

int32_t empssl_get_gradients(void) { return c10::GradMode::is_enabled() ? 1 : 0; }

void empssl_set_gradients(int32_t on) { c10::GradMode::set_enabled(on != 0); }

char *empssl_backward(const void *output, const void *gradient) {
  return guarded([&] {
    const auto &y = *static_cast<const at::Tensor *>(output);
    const auto &g = *static_cast<const at::Tensor *>(gradient);
    torch::autograd::backward({y}, {g});
  });
}

char *empssl_set_tf32(int32_t convolutions, int32_t products) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuDNN(convolutions != 0);
    at::globalContext().setAllowTF32CuBLAS(products != 0);
  });
}

char *empssl_get_tf32(int32_t *convolutions, int32_t *products) {
  return guarded([&] {
    *convolutions = at::globalContext().allowTF32CuDNN() ? 1 : 0;
    *products = at::globalContext().allowTF32CuBLAS() ? 1 : 0;
  });
}

char *empssl_set_deterministic(int32_t on) {
  return guarded([&] {
    if (on != 0) {
      // cuBLAS reads this when its first handle is made; without it libtorch refuses deterministic products.
      setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
    }
    at::globalContext().setDeterministicAlgorithms(on != 0, /*warn_only=*/false);
    // NaN-filling of fresh memory would cost a pass over every buffer and changes no result of ours.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    at::globalContext().setDeterministicCuDNN(on != 0);
    at::globalContext().setBenchmarkCuDNN(on == 0);
  });
}

char *empssl_get_device_memory(int64_t index, empssl_device_memory *out) {
  return guarded([&] {
    const auto device = static_cast<c10::DeviceIndex>(index);
    auto *allocator = cuda_allocator(index);
    const auto stats = allocator->getDeviceStats(device);
    const auto memory = allocator->getMemoryInfo(device);
    out->allocated = static_cast<uint64_t>(stats.allocated_bytes[kAggregate].current);
    out->peak = static_cast<uint64_t>(stats.allocated_bytes[kAggregate].peak);
    out->reserved = static_cast<uint64_t>(stats.reserved_bytes[kAggregate].current);
    out->free = memory.first;
    out->total = memory.second;
  });
}

char *empssl_reset_peak_device_memory(int64_t index) {
  return guarded([&] { cuda_allocator(index)->resetPeakStats(static_cast<c10::DeviceIndex>(index)); });
}

int32_t empssl_keep_freed_memory(void) {
#ifdef __GLIBC__
  // No block gets a map of its own, whatever its size, and a negative threshold never gives the heap's top back.
  const int one_heap = mallopt(M_MMAP_MAX, 0);
  const int kept = mallopt(M_TRIM_THRESHOLD, -1);
  return one_heap == 1 && kept == 1 ? 1 : 0;
#else
  return 0;
#endif
}
