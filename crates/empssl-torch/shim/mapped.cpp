// See shim.h. Tensors on memory that somebody else owns.
#include "shim.h"

#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <memory>

using empssl::guarded;

char *empssl_owned_bytes(void *bytes, size_t length, void *owner, void (*release)(void *), empssl_tensor *out) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    // However this ends, the last copy of the pointer gives the owner back, and does so once.
    const std::shared_ptr<void> held(owner, release);
    const auto deleter = [held](void *) {};
    const auto options = at::TensorOptions().dtype(at::kByte);
    *out = new at::Tensor(at::from_blob(bytes, {static_cast<int64_t>(length)}, deleter, options));
  });
}
