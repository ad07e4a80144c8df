// Gradients that are summed over processes while the backward pass goes on; see shim.h.
#include "shim.h"

#include "group.h"
#include "guarded.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>

using empssl::Asked;
using empssl::Group;
using empssl::group_of;
using empssl::guarded;

namespace {

// Parameters whose gradients travel together.
struct Bucket {
  std::vector<size_t> members;
  // Gradients that the backward pass in hand has still to give.
  size_t missing = 0;
  at::Tensor flat;
  Asked sum;
};

class Buckets {
 public:
  Buckets(c10::intrusive_ptr<Group> processes, std::vector<at::Tensor> given, size_t bytes)
      : group(std::move(processes)), parameters(std::move(given)), places(parameters.size()) {
    // The last parameters get their gradients first.
    size_t filled = 0;
    for (size_t i = parameters.size(); i-- > 0;) {
      if (buckets.empty() || filled >= bytes) {
        buckets.emplace_back();
        filled = 0;
      }
      filled += parameters[i].nbytes();
      places[i] = buckets.size() - 1;
      buckets.back().members.push_back(i);
    }
    for (size_t i = 0; i < parameters.size(); ++i) {
      watch(i);
    }
  }

  ~Buckets() {
    for (const auto &[node, key] : hooks) {
      node->del_post_hook(key);
    }
  }

  // From now on every gradient that arrives is the last of its parameter in this step.
  void arm() {
    for (auto &bucket : buckets) {
      bucket.missing = bucket.members.size();
      bucket.flat.reset();
      bucket.sum = {};
    }
    sent = 0;
    is_armed = true;
  }

  // Sends what is left, waits for all and puts the sums where the gradients were.
  void finish() {
    is_armed = false;
    while (sent < buckets.size()) {
      send(buckets[sent++]);
    }
    for (auto &bucket : buckets) {
      group->wait(bucket.sum);
      hand_out(bucket);
    }
  }

 private:
  void watch(size_t index) {
    auto node = torch::autograd::impl::grad_accumulator(parameters[index]);
    TORCH_CHECK(node != nullptr, "parameter ", index, " is no leaf that requires a gradient");
    auto hook = [this, index](const torch::autograd::variable_list &outputs, const torch::autograd::variable_list &) {
      arrived(index);
      return outputs;
    };
    const auto key = node->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(hook));
    hooks.emplace_back(std::move(node), key);
  }

  void arrived(size_t index) {
    auto &bucket = buckets[places[index]];
    if (!is_armed || bucket.missing == 0) {
      return;
    }
    --bucket.missing;
    // In one order on every rank, whichever bucket is full first.
    while (sent < buckets.size() && buckets[sent].missing == 0) {
      send(buckets[sent++]);
    }
  }

  void send(Bucket &bucket) {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> pieces;
    for (const auto index : bucket.members) {
      const auto &parameter = parameters[index];
      const auto &gradient = parameter.grad();
      pieces.push_back(gradient.defined() ? gradient.flatten() : at::zeros({parameter.numel()}, parameter.options()));
    }
    bucket.flat = at::cat(pieces);
    bucket.sum = group->all_reduce(bucket.flat, c10d::ReduceOp::SUM);
  }

  void hand_out(Bucket &bucket) {
    const at::NoGradGuard no_grad;
    int64_t from = 0;
    for (const auto index : bucket.members) {
      auto &parameter = parameters[index];
      const auto sum = bucket.flat.narrow(0, from, parameter.numel()).view_as(parameter);
      if (parameter.grad().defined()) {
        parameter.mutable_grad().copy_(sum);
      } else {
        parameter.mutable_grad() = sum.clone();
      }
      from += parameter.numel();
    }
    bucket.flat.reset();
    bucket.sum = {};
  }

  const c10::intrusive_ptr<Group> group;
  std::vector<at::Tensor> parameters;
  std::vector<Bucket> buckets;
  // The bucket of each parameter.
  std::vector<size_t> places;
  std::vector<std::pair<std::shared_ptr<torch::autograd::Node>, uintptr_t>> hooks;
  size_t sent = 0;
  bool is_armed = false;
};

Buckets &buckets_of(empssl_buckets buckets) { return *static_cast<Buckets *>(buckets); }

} // namespace

char *empssl_buckets_new(empssl_group group, const empssl_tensor *parameters, size_t n, size_t bytes,
                         empssl_buckets *out) {
  return guarded([&] {
    std::vector<at::Tensor> given;
    for (size_t i = 0; i < n; ++i) {
      given.push_back(*static_cast<at::Tensor *>(parameters[i]));
    }
    *out = new Buckets(group_of(group), std::move(given), bytes);
  });
}

void empssl_buckets_arm(empssl_buckets buckets) { buckets_of(buckets).arm(); }

char *empssl_buckets_finish(empssl_buckets buckets) {
  return guarded([&] { buckets_of(buckets).finish(); });
}

void empssl_buckets_free(empssl_buckets buckets) { delete static_cast<Buckets *>(buckets); }
