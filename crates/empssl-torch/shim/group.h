// What the files of the shim that speak to other processes share.
#pragma once

#include "shim.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <atomic>
#include <mutex>

namespace empssl {

using EnginePtr = c10::intrusive_ptr<c10d::Backend>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// A collective that was asked for.
struct Asked {
  WorkPtr work;
  // Whether its device waits for it, not the host.
  bool by_device = false;
};

// The processes of a run, as one of them sees them. Nodes of autograd graphs keep it alive.
struct Group : torch::CustomClassHolder {
  explicit Group(EnginePtr engine) : host(std::move(engine)) {}
  ~Group() override;

  // From now on tensors of GPUs go by another engine.
  void add(EnginePtr engine) { device = std::move(engine); }

  // Each asks for a collective and returns without waiting. All ranks ask for the same ones in the same order.
  Asked all_reduce(at::Tensor tensor, c10d::ReduceOp::RedOpType op);
  // `out` is contiguous and holds the world's tensors one after the other.
  Asked all_gather(at::Tensor out, at::Tensor tensor);
  Asked broadcast(at::Tensor tensor, int64_t root);
  // Waits for one, or lets the device's current stream wait for it; throws what went wrong.
  void wait(const Asked &asked);

  int64_t world() const { return host->getSize(); }

  std::atomic<uint64_t> calls{0};
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint64_t> nanoseconds{0};

 private:
  template <typename Ask> Asked issued(const at::Tensor &tensor, Ask ask);

  const EnginePtr host;
  EnginePtr device;

  // Collectives are matched by their order, so no two threads ask at once.
  std::mutex issuing;
};

inline c10::intrusive_ptr<Group> &group_of(empssl_group group) {
  return *static_cast<c10::intrusive_ptr<Group> *>(group);
}

} // namespace empssl
