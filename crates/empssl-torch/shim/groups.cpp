// Processes that compute together, on libtorch's own c10d; see shim.h.
#include "shim.h"

#include "group.h"
#include "guarded.h"

#define USE_C10D_GLOO
#include <ATen/core/grad_mode.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <c10/util/Logging.h>

#include <chrono>
#include <cstdlib>

using empssl::Asked;
using empssl::copy_text;
using empssl::EnginePtr;
using empssl::Group;
using empssl::group_of;
using empssl::guarded;

namespace {

using StorePtr = c10::intrusive_ptr<c10d::Store>;

StorePtr &store_of(empssl_store store) { return *static_cast<StorePtr *>(store); }

at::Tensor &tensor_of(empssl_tensor tensor) { return *static_cast<at::Tensor *>(tensor); }

// What goes wrong comes back as an error; c10d would print it besides, with its stack, and every attempt before it.
void be_quiet() {
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) {
    FLAGS_caffe2_log_level = c10::GLOG_FATAL;
  }
}

// `ask` gives what was asked for, which is handed over.
template <typename Ask> char *begun(empssl_work *out, Ask ask) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    *out = new Asked(ask());
  });
}

Asked &asked_of(empssl_work work) { return *static_cast<Asked *>(work); }

EnginePtr &engine_of(empssl_engine engine) { return *static_cast<EnginePtr *>(engine); }

} // namespace

Group::~Group() {
  if (device != nullptr) {
    // Frees what the engine holds without asking the others, who may be gone. A destructor that throws would end the
    // process.
    empssl_free(guarded([&] { device->abort(); }));
  }
}

void Group::add(EnginePtr engine, c10::DeviceType type) {
  device = std::move(engine);
  device_type = type;
}

void Group::demand_whole() {
  const std::lock_guard<std::mutex> lock(looking);
  TORCH_CHECK(why_broken.empty(), why_broken);
}

template <typename Ask> Asked Group::issued(const at::Tensor &tensor, Ask ask) {
  const bool by_device = is_by_device(tensor);
  TORCH_CHECK(by_device || tensor.is_cpu(), "this group was opened without ", tensor.device());
  const std::lock_guard<std::mutex> one_at_a_time(issuing);
  ++calls;
  bytes += tensor.nbytes();
  try {
    demand_whole();
    Asked asked{ask(by_device ? device : host), by_device};
    if (by_device) {
      const std::lock_guard<std::mutex> lock(looking);
      in_flight.push_back(asked.work);
      ++seen.asked;
    }
    return asked;
  } catch (...) {
    broken = true;
    throw;
  }
}

Asked Group::all_reduce(at::Tensor tensor, c10d::ReduceOp::RedOpType op) {
  std::vector<at::Tensor> tensors{std::move(tensor)};
  c10d::AllreduceOptions options;
  options.reduceOp = op;
  return issued(tensors[0], [&](const EnginePtr &engine) { return engine->allreduce(tensors, options); });
}

Asked Group::all_gather(at::Tensor out, at::Tensor tensor) {
  return issued(tensor, [&](const EnginePtr &engine) { return engine->_allgather_base(out, tensor); });
}

Asked Group::gather(at::Tensor out, at::Tensor tensor, int64_t root) {
  std::vector<at::Tensor> tensors{std::move(tensor)};
  std::vector<std::vector<at::Tensor>> outs;
  if (host->getRank() == root) {
    outs.push_back(out.unbind(0));
  }
  c10d::GatherOptions options;
  options.rootRank = root;
  return issued(tensors[0], [&](const EnginePtr &engine) { return engine->gather(outs, tensors, options); });
}

Asked Group::broadcast(at::Tensor tensor, int64_t root) {
  std::vector<at::Tensor> tensors{std::move(tensor)};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  return issued(tensors[0], [&](const EnginePtr &engine) { return engine->broadcast(tensors, options); });
}

void Group::wait(const Asked &asked) {
  const auto began = std::chrono::steady_clock::now();
  try {
    if (asked.by_device) {
      asked.work->synchronize();
      demand_whole();
    } else {
      asked.work->wait();
    }
  } catch (...) {
    broken = true;
    throw;
  }
  nanoseconds += (std::chrono::steady_clock::now() - began) / std::chrono::nanoseconds(1);
}

empssl_progress Group::progress() {
  const std::lock_guard<std::mutex> lock(looking);
  while (!in_flight.empty() && in_flight.front()->isCompleted()) {
    if (const auto failed = in_flight.front()->exception()) {
      std::rethrow_exception(failed);
    }
    in_flight.pop_front();
    ++seen.finished;
  }
  return seen;
}

void Group::break_off(const std::string &reason) {
  {
    const std::lock_guard<std::mutex> lock(looking);
    if (why_broken.empty()) {
      why_broken = reason;
    }
  }
  // Before a device goes on with numbers that are not what was asked for.
  broken = true;
  if (device != nullptr) {
    device->abort();
  }
}

char *empssl_store_open(const char *host, uint16_t port, int32_t serves, int64_t timeout_ms, empssl_store *out) {
  return guarded([&] {
    be_quiet();
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serves != 0;
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    *out = new StorePtr(c10::make_intrusive<c10d::TCPStore>(host, options));
  });
}

char *empssl_store_set(empssl_store store, const char *key, const char *value) {
  return guarded([&] { store_of(store)->set(key, std::string(value)); });
}

char *empssl_store_get(empssl_store store, const char *key, int64_t timeout_ms, char **value) {
  return guarded([&] {
    store_of(store)->wait({key}, std::chrono::milliseconds(timeout_ms));
    *value = copy_text(store_of(store)->get_to_str(key).c_str());
  });
}

void empssl_store_free(empssl_store store) {
  // A destructor that throws would end the process.
  empssl_free(guarded([&] { delete static_cast<StorePtr *>(store); }));
}

char *empssl_engine_gloo(empssl_store store, const char *prefix, const char *address, int32_t is_interface,
                         int32_t rank, int32_t world, int64_t timeout_ms, empssl_engine *out) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->devices.push_back(is_interface ? c10d::ProcessGroupGloo::createDeviceForInterface(address)
                                            : c10d::ProcessGroupGloo::createDeviceForHostname(address));
    auto keys = c10::make_intrusive<c10d::PrefixStore>(prefix, store_of(store));
    *out = new EnginePtr(c10::make_intrusive<c10d::ProcessGroupGloo>(keys, rank, world, options));
  });
}

void empssl_engine_free(empssl_engine engine) {
  empssl_free(guarded([&] { delete static_cast<EnginePtr *>(engine); }));
}

char *empssl_group_new(empssl_engine host, empssl_engine device, int32_t device_type, empssl_group *out) {
  return guarded([&] {
    auto group = c10::make_intrusive<Group>(engine_of(host));
    if (device != nullptr) {
      group->add(engine_of(device), static_cast<c10::DeviceType>(device_type));
    }
    *out = new c10::intrusive_ptr<Group>(std::move(group));
  });
}

void empssl_group_free(empssl_group group) {
  empssl_free(guarded([&] { delete static_cast<c10::intrusive_ptr<Group> *>(group); }));
}

char *empssl_group_all_reduce(empssl_group group, empssl_tensor tensor, int32_t largest, empssl_work *out) {
  return begun(out, [&] {
    return group_of(group)->all_reduce(tensor_of(tensor), largest ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM);
  });
}

char *empssl_group_all_gather(empssl_group group, empssl_tensor to, empssl_tensor tensor, empssl_work *out) {
  return begun(out, [&] { return group_of(group)->all_gather(tensor_of(to), tensor_of(tensor)); });
}

char *empssl_group_gather(empssl_group group, empssl_tensor to, empssl_tensor tensor, int64_t root, empssl_work *out) {
  return begun(out, [&] { return group_of(group)->gather(tensor_of(to), tensor_of(tensor), root); });
}

char *empssl_group_broadcast(empssl_group group, empssl_tensor tensor, int64_t root, empssl_work *out) {
  return begun(out, [&] { return group_of(group)->broadcast(tensor_of(tensor), root); });
}

char *empssl_work_wait(empssl_group group, empssl_work work) {
  return guarded([&] { group_of(group)->wait(asked_of(work)); });
}

int32_t empssl_work_is_complete(empssl_work work) { return asked_of(work).work->isCompleted() ? 1 : 0; }

void empssl_work_free(empssl_work work) { delete static_cast<Asked *>(work); }

char *empssl_group_progress(empssl_group group, empssl_progress *out) {
  return guarded([&] { *out = group_of(group)->progress(); });
}

char *empssl_group_break_off(empssl_group group, const char *reason) {
  return guarded([&] { group_of(group)->break_off(reason); });
}

int32_t empssl_group_is_broken(empssl_group group) { return group_of(group)->broken ? 1 : 0; }

void empssl_group_traffic(empssl_group group, empssl_traffic *out) {
  const Group &counted = *group_of(group);
  *out = {counted.calls, counted.bytes, counted.nanoseconds};
}
