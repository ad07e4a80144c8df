// What the files of the shim that speak to other processes share.
#pragma once

#include "shim.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <atomic>
#include <deque>
#include <mutex>
#include <string>

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

  // From now on tensors on devices of this type go by another engine, whose collectives are looked after.
  void add(EnginePtr engine, c10::DeviceType type);

  // Each asks for a collective and returns without waiting. All ranks ask for the same ones in the same order.
  Asked all_reduce(at::Tensor tensor, c10d::ReduceOp::RedOpType op);
  // `out` is contiguous and holds the world's tensors one after the other.
  Asked all_gather(at::Tensor out, at::Tensor tensor);
  // As all_gather, on rank `root` alone; what the others give for `out` is left alone.
  Asked gather(at::Tensor out, at::Tensor tensor, int64_t root);
  Asked broadcast(at::Tensor tensor, int64_t root);
  // Waits for one, or lets the device's current stream wait for it; throws what went wrong, and remembers that something
  // did.
  void wait(const Asked &asked);

  // What devices have been asked for and what they have finished so far; throws what went wrong there.
  empssl_progress progress();
  // No collective succeeds from now on, for this reason, and no device waits for one any longer.
  void break_off(const std::string &reason);

  int64_t world() const { return host->getSize(); }

  std::atomic<uint64_t> calls{0};
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint64_t> nanoseconds{0};
  std::atomic<bool> broken{false};

 private:
  template <typename Ask> Asked issued(const at::Tensor &tensor, Ask ask);
  bool is_by_device(const at::Tensor &tensor) const { return device != nullptr && tensor.device().type() == device_type; }
  void demand_whole();

  const EnginePtr host;
  EnginePtr device;
  c10::DeviceType device_type = c10::DeviceType::CUDA;

  // Collectives are matched by their order, so no two threads ask at once.
  std::mutex issuing;

  // Guards what follows. A device works off its collectives in the order in which they were asked for.
  std::mutex looking;
  std::deque<WorkPtr> in_flight;
  empssl_progress seen{};
  std::string why_broken;
};

inline c10::intrusive_ptr<Group> &group_of(empssl_group group) {
  return *static_cast<c10::intrusive_ptr<Group> *>(group);
}

} // namespace empssl
