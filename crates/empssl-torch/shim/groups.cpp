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
#include <memory>

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

// Asks for a collective and waits for it.
template <typename Ask> char *collective(empssl_group group, Ask ask) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    Group &with = *group_of(group);
    with.wait(ask(with));
  });
}

} // namespace

Group::~Group() {
  if (device != nullptr) {
    // Frees what the engine holds without asking the others, who may be gone. A destructor that throws would end the
    // process.
    empssl_free(guarded([&] { device->abort(); }));
  }
}

template <typename Ask> Asked Group::issued(const at::Tensor &tensor, Ask ask) {
  const bool by_device = device != nullptr && tensor.is_cuda();
  TORCH_CHECK(by_device || tensor.is_cpu(), "this group was opened without ", tensor.device());
  const std::lock_guard<std::mutex> one_at_a_time(issuing);
  ++calls;
  bytes += tensor.nbytes();
  return {ask(by_device ? device : host), by_device};
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

Asked Group::broadcast(at::Tensor tensor, int64_t root) {
  std::vector<at::Tensor> tensors{std::move(tensor)};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  return issued(tensors[0], [&](const EnginePtr &engine) { return engine->broadcast(tensors, options); });
}

void Group::wait(const Asked &asked) {
  const auto began = std::chrono::steady_clock::now();
  if (asked.by_device) {
    asked.work->synchronize();
  } else {
    asked.work->wait();
  }
  nanoseconds += (std::chrono::steady_clock::now() - began) / std::chrono::nanoseconds(1);
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

char *empssl_group_new(empssl_store store, const char *prefix, const char *address, int32_t is_interface, int32_t rank,
                       int32_t world, int64_t timeout_ms, empssl_group *out) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->devices.push_back(is_interface ? c10d::ProcessGroupGloo::createDeviceForInterface(address)
                                            : c10d::ProcessGroupGloo::createDeviceForHostname(address));
    auto keys = c10::make_intrusive<c10d::PrefixStore>(prefix, store_of(store));
    EnginePtr gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(keys, rank, world, options);
    *out = new c10::intrusive_ptr<Group>(c10::make_intrusive<Group>(std::move(gloo)));
  });
}

void empssl_group_add(empssl_group group, void *engine) {
  const std::unique_ptr<EnginePtr> owned(static_cast<EnginePtr *>(engine));
  group_of(group)->add(*owned);
}

void empssl_group_free(empssl_group group) {
  empssl_free(guarded([&] { delete static_cast<c10::intrusive_ptr<Group> *>(group); }));
}

char *empssl_group_all_reduce(empssl_group group, empssl_tensor tensor, int32_t largest) {
  return collective(group, [&](Group &with) {
    return with.all_reduce(tensor_of(tensor), largest ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM);
  });
}

char *empssl_group_all_gather(empssl_group group, empssl_tensor to, empssl_tensor tensor) {
  return collective(group, [&](Group &with) { return with.all_gather(tensor_of(to), tensor_of(tensor)); });
}

char *empssl_group_broadcast(empssl_group group, empssl_tensor tensor, int64_t root) {
  return collective(group, [&](Group &with) { return with.broadcast(tensor_of(tensor), root); });
}

void empssl_group_traffic(empssl_group group, empssl_traffic *out) {
  const Group &counted = *group_of(group);
  *out = {counted.calls, counted.bytes, counted.nanoseconds};
}
