// What the files of the shim that speak to other processes share.
#pragma once

#include "shim.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <atomic>
#include <mutex>

namespace empssl {

// The processes of a run, as one of them sees them. Nodes of autograd graphs keep it alive.
struct Group : torch::CustomClassHolder {
  explicit Group(c10::intrusive_ptr<c10d::Backend> engine) : backend(std::move(engine)) {}

  // Each asks for a collective and returns without waiting. All ranks ask for the same ones in the same order.
  c10::intrusive_ptr<c10d::Work> all_reduce(at::Tensor tensor, c10d::ReduceOp::RedOpType op);
  // `out` is contiguous and holds the world's tensors one after the other.
  c10::intrusive_ptr<c10d::Work> all_gather(at::Tensor out, at::Tensor tensor);
  // As all_gather, on rank `root` alone; what the others give for `out` is left alone.
  c10::intrusive_ptr<c10d::Work> gather(at::Tensor out, at::Tensor tensor, int64_t root);
  c10::intrusive_ptr<c10d::Work> broadcast(at::Tensor tensor, int64_t root);
  // Waits for one; throws what went wrong, and remembers that something did.
  void wait(c10d::Work &work);

  int64_t world() const { return backend->getSize(); }

  const c10::intrusive_ptr<c10d::Backend> backend;
  std::atomic<uint64_t> calls{0};
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint64_t> nanoseconds{0};
  std::atomic<bool> broken{false};

 private:
  template <typename Ask> c10::intrusive_ptr<c10d::Work> issued(const at::Tensor &tensor, Ask ask);

  // Collectives are matched by their order, so no two threads ask at once.
  std::mutex issuing;
};

inline c10::intrusive_ptr<Group> &group_of(empssl_group group) {
  return *static_cast<c10::intrusive_ptr<Group> *>(group);
}

} // namespace empssl
