// See nccl.h.
#include "nccl.h"

#include "../guarded.h"

#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <chrono>

const char *empssl_nccl_build(void) { return EMPSSL_NCCL_BUILD; }

char *empssl_nccl_connect(void *store, const char *prefix, int32_t rank, int32_t world, int32_t device,
                          int64_t timeout_ms, void **engine) {
  return empssl::guarded([&] {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    auto keys = c10::make_intrusive<c10d::PrefixStore>(prefix, *static_cast<c10::intrusive_ptr<c10d::Store> *>(store));
    auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(std::move(keys), rank, world, std::move(options));
    // Otherwise the first collective would.
    nccl->eagerConnectSingleDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    *engine = new c10::intrusive_ptr<c10d::Backend>(std::move(nccl));
  });
}
