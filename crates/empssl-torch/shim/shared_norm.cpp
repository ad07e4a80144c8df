// Batch normalisation of a batch that several processes share; see shim.h.
//
// Every process knows the mean and the variance of its own part; from those of all it makes, each for itself and alike,
// those of the whole (Chan, Golub and LeVeque's way, in float64, where no difference of large numbers occurs). On the
// way back the sums over the batch that the derivative contains are summed over the processes.
#include "shim.h"

#include "group.h"
#include "guarded.h"

#include <ATen/AccumulateType.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/batch_norm_update_stats.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

using empssl::Group;
using empssl::group_of;
using empssl::guarded;

namespace {

using GroupPtr = c10::intrusive_ptr<Group>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Of the whole batch, [channels] but for the count, in float64.
struct Statistics {
  at::Tensor mean;
  // Divided by the count, not by one less.
  at::Tensor variance;
  // Numbers a channel, [1].
  at::Tensor count;
};

Statistics statistics(Group &group, const at::Tensor &x) {
  const auto channels = x.size(1);
  const auto count = static_cast<double>(x.numel() / channels);
  const auto [own_mean, own_variance] = at::batch_norm_update_stats(x, {}, {}, 0);
  const auto mean = own_mean.to(at::kDouble);
  const auto own =
      at::cat({mean, own_variance.to(at::kDouble), at::full({1}, count, mean.options())}).contiguous();
  auto all = at::empty({group.world() * own.numel()}, own.options());
  group.wait(group.all_gather(all, own));
  all = all.view({group.world(), own.numel()});
  const auto means = all.narrow(1, 0, channels);
  const auto variances = all.narrow(1, channels, channels);
  const auto counts = all.narrow(1, 2 * channels, 1);
  const auto whole = counts.sum(0);
  const auto shares = counts / whole;
  const auto mean_of_all = (means * shares).sum(0);
  return {mean_of_all, ((variances + (means - mean_of_all).square()) * shares).sum(0), whole};
}

// One number a channel, to go with `like`, whose channels are its second dimension.
at::Tensor beside(const at::Tensor &channels, const at::Tensor &like) {
  std::vector<int64_t> shape(like.dim(), 1);
  shape[1] = -1;
  return channels.to(like.scalar_type()).view(shape);
}

struct SharedNorm : torch::autograd::Function<SharedNorm> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &x, const at::Tensor &weight,
                            const at::Tensor &bias, const at::Tensor &mean, const at::Tensor &variance,
                            const at::Tensor &count, double eps, const GroupPtr &group) {
    context->save_for_backward({x, weight, mean, variance, count});
    context->saved_data["eps"] = eps;
    context->saved_data["group"] = c10::IValue::make_capsule(group);
    const auto kind = weight.scalar_type();
    // Given statistics are what the running ones are in evaluation.
    return std::get<0>(
        at::native_batch_norm(x, weight, bias, mean.to(kind), variance.to(kind), /*training=*/false, 0, eps));
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &mean = saved[2], &variance = saved[3], &count = saved[4];
    const auto &dy = gradients[0];
    const auto eps = context->saved_data["eps"].toDouble();
    const auto group = c10::static_intrusive_pointer_cast<Group>(context->saved_data["group"].toCapsule());
    const auto kind = weight.scalar_type();
    const auto inverse = (variance + eps).rsqrt();
    // sum(dy * xhat) and sum(dy) of this process, which are its share in the gradients of gain and bias. CUDA's kernel
    // wants the saved statistics too, and takes them in place of the running ones.
    const auto [_, dw, db] =
        at::native_batch_norm_backward(dy, x, weight, mean.to(kind), variance.to(kind), mean.to(kind),
                                       inverse.to(kind), /*train=*/false, eps, {false, true, true});
    auto sums = at::cat({db, dw}).to(at::kDouble);
    group->wait(group->all_reduce(sums, c10d::ReduceOp::SUM));
    if (!context->needs_input_grad(0)) {
      return {at::Tensor(), dw, db, {}, {}, {}, {}, {}};
    }
    // dx = gain / deviation * (dy - mean(dy) - xhat * mean(dy * xhat)), the means over the whole batch.
    const auto means = (sums / count).chunk(2);
    const auto scale = weight.to(at::kDouble) * inverse;
    const auto wide = x.to(kind);
    auto dx = at::addcmul(beside(-scale * means[0], wide), wide - beside(mean, wide),
                          beside(-scale * means[1] * inverse, wide));
    dx.addcmul_(dy.to(kind), beside(scale, wide));
    return {dx.to(x.scalar_type()), dw, db, {}, {}, {}, {}, {}};
  }
};

// The running statistics after one more batch, whose variance is divided by one less than its count.
void move(const Statistics &of, at::Tensor &mean, at::Tensor &variance, double weight) {
  mean.lerp_(of.mean.to(mean.scalar_type()), weight);
  const auto unbiased = of.variance * (of.count / (of.count - 1));
  variance.lerp_(unbiased.to(variance.scalar_type()), weight);
}

} // namespace

char *empssl_group_batch_norm(empssl_group group, empssl_tensor x, empssl_tensor weight, empssl_tensor bias,
                              empssl_tensor running_mean, empssl_tensor running_variance, double momentum, double eps,
                              empssl_tensor *out) {
  return guarded([&] {
    const auto tensor = [](empssl_tensor pointer) -> at::Tensor & { return *static_cast<at::Tensor *>(pointer); };
    // Before anything is sent, and because the kernels below would read beyond the end.
    TORCH_CHECK(tensor(x).dim() >= 2 && tensor(x).numel() > 0, "a batch of shape ", tensor(x).sizes(),
                " cannot be normalised");
    const auto channels = tensor(x).size(1);
    for (const auto of_channels : {weight, bias, running_mean, running_variance}) {
      TORCH_CHECK(of_channels == nullptr || tensor(of_channels).sizes() == at::IntArrayRef{channels}, "expected ",
                  channels, " numbers, one for each channel, found ", tensor(of_channels).sizes());
    }
    Statistics of;
    {
      const at::NoGradGuard no_grad;
      of = statistics(*group_of(group), tensor(x).detach());
      if (running_mean != nullptr && running_variance != nullptr) {
        move(of, tensor(running_mean), tensor(running_variance), momentum);
      }
    }
    *out = new at::Tensor(SharedNorm::apply(tensor(x), tensor(weight), tensor(bias), of.mean, of.variance, of.count,
                                            eps, group_of(group)));
  });
}
