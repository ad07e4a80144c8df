// Operators over lists of tensors; see shim.h.
#include "shim.h"

#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/stack.h>

#include <vector>

using empssl::guarded;

namespace {

at::Tensor &tensor(empssl_tensor pointer) { return *static_cast<at::Tensor *>(pointer); }

std::vector<at::Tensor> list(const empssl_tensor *pointers, size_t n) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    tensors.push_back(tensor(pointers[i]));
  }
  return tensors;
}

// `body` without recording gradients, errors as text.
template <typename Body> char *computed(Body body) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    body();
  });
}

} // namespace

char *empssl_lists_norms(const empssl_tensor *tensors, size_t n, empssl_tensor *out) {
  return computed([&] { *out = new at::Tensor(at::stack(at::_foreach_norm(list(tensors, n), 2, at::kDouble))); });
}

char *empssl_lists_copy(const empssl_tensor *to, const empssl_tensor *from, size_t n) {
  return computed([&] { at::_foreach_copy_(list(to, n), list(from, n)); });
}

char *empssl_lists_add(const empssl_tensor *to, const empssl_tensor *terms, size_t n, double factor) {
  return computed([&] { at::_foreach_add_(list(to, n), list(terms, n), factor); });
}

char *empssl_lists_sgd(const empssl_tensor *parameters, const empssl_tensor *gradients, const empssl_tensor *buffers,
                       size_t n, double lr, double momentum, int32_t nesterov) {
  return computed([&] {
    // Without momentum libtorch wants no buffers. A first step with buffers of zeros is like every other.
    at::_fused_sgd_(list(parameters, n), list(gradients, n), list(buffers, momentum == 0 ? 0 : n), /*weight_decay=*/0,
                    momentum, lr, /*dampening=*/0, nesterov != 0, /*maximize=*/false, /*is_first_step=*/false);
  });
}

void empssl_drop_gradient(empssl_tensor parameter) { tensor(parameter).mutable_grad().reset(); }
