// Page-locked memory, a second stream of a CUDA device, and copies on it; see shim.h.
//
// Everything goes through c10's device-generic classes, behind which CUDA's part of libtorch registers itself when it is
// loaded. Without it they throw, and that is the caller's error.
#include "shim.h"

#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>

using empssl::guarded;

namespace {

constexpr auto kCuda = c10::DeviceType::CUDA;

c10::Stream stream_of(empssl_stream stream) {
  const c10::Device device(kCuda, static_cast<c10::DeviceIndex>(stream.device));
  return c10::Stream(c10::Stream::UNSAFE, device, stream.id);
}

const c10::Event &event_of(const void *event) { return *static_cast<const c10::Event *>(event); }

} // namespace

char *empssl_pinned(size_t bytes, empssl_tensor *out) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    const auto options = at::TensorOptions().dtype(at::kByte).pinned_memory(true);
    auto tensor = std::make_unique<at::Tensor>(at::empty({static_cast<int64_t>(bytes)}, options));
    tensor->zero_();
    *out = tensor.release();
  });
}

char *empssl_device_make_current(int64_t index) {
  return guarded([&] {
    const c10::impl::VirtualGuardImpl guard(kCuda);
    TORCH_CHECK(index >= 0 && index < guard.deviceCount(), "there is no CUDA device ", index);
    guard.setDevice(c10::Device(kCuda, static_cast<c10::DeviceIndex>(index)));
  });
}

char *empssl_stream_from_pool(int64_t index, empssl_stream *out) {
  return guarded([&] {
    at::globalContext().lazyInitDevice(kCuda);
    const c10::impl::VirtualGuardImpl guard(kCuda);
    TORCH_CHECK(index >= 0 && index < guard.deviceCount(), "there is no CUDA device ", index);
    const c10::Device device(kCuda, static_cast<c10::DeviceIndex>(index));
    *out = {index, guard.getStreamFromGlobalPool(device).id()};
  });
}

char *empssl_upload(const void *bytes, const int64_t *sizes, size_t n_sizes, empssl_stream stream, empssl_tensor *out,
                    void **done) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    const c10::Stream on = stream_of(stream);
    // Memory that is allocated while the stream is current belongs to it, so nothing older can be writing there.
    const c10::StreamGuard current(on);
    const at::IntArrayRef shape(sizes, n_sizes);
    const auto from = at::from_blob(const_cast<void *>(bytes), shape, at::TensorOptions().dtype(at::kByte));
    auto to = std::make_unique<at::Tensor>(at::empty(shape, from.options().device(on.device())));
    auto event = std::make_unique<c10::Event>(kCuda);
    try {
      to->copy_(from, /*non_blocking=*/true);
      event->record(on);
    } catch (...) {
      // An error says that nobody reads the bytes any more.
      on.synchronize();
      throw;
    }
    *out = to.release();
    *done = event.release();
  });
}

char *empssl_event_query(const void *event, int32_t *is_complete) {
  return guarded([&] { *is_complete = event_of(event).query() ? 1 : 0; });
}

char *empssl_event_wait(const void *event) {
  return guarded([&] { event_of(event).synchronize(); });
}

char *empssl_event_admit(const void *event, empssl_tensor tensor) {
  return guarded([&] {
    const auto &arrived = *static_cast<const at::Tensor *>(tensor);
    const c10::impl::VirtualGuardImpl guard(kCuda);
    const c10::Stream current = guard.getStream(arrived.device());
    event_of(event).block(current);
    // The memory belongs to the stream of the copy, which must not get it back before this one is through with it.
    guard.recordDataPtrOnStream(arrived.storage().data_ptr(), current);
  });
}

void empssl_event_free(void *event) { delete static_cast<c10::Event *>(event); }
