//! The three layers that hold weights.

use std::fmt;

use tch::{Device, Kind, Tensor};

use crate::arithmetic::Compute;
use crate::config::ConvShape;
use crate::init;
use crate::scope::Scope;
use crate::script::{self, ScriptModule};

/// How BatchNorm behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Normalise by the statistics of this batch, and move the running ones.
    Train,
    /// Normalise by the statistics of this batch, and leave the running ones alone: the second look of a step at a
    /// batch whose first look moved them.
    Again,
    /// Normalise by the statistics of this part of a batch; all parts together move the running ones once.
    Part(Part),
    /// Normalise by the running statistics, and leave them alone.
    Eval,
}

/// The patches from `from` to before `to` of a batch of `of` patches, which goes through the network part by part.
///
/// Once every part of a batch was seen in order, the running statistics have moved once, towards the mean of the parts'
/// statistics, each with the weight of its patches, and the batch was counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The first patch.
    pub from: i64,
    /// The first patch of the next part.
    pub to: i64,
    /// Patches of the whole batch.
    pub of: i64,
}

impl Part {
    /// The weight of this part's statistics when they are folded into the running ones, so that the parts after it
    /// leave it exactly its share of `momentum`.
    fn weight(self, momentum: f64) -> f64 {
        let share = |patches: i64| momentum * patches as f64 / self.of as f64;
        share(self.to - self.from) / (1.0 - share(self.of - self.to))
    }
}

impl Mode {
    /// Whether the batch itself is what is normalised by.
    pub(crate) fn looks_at_the_batch(self) -> bool {
        self != Self::Eval
    }

    /// The weight of this batch in the running statistics, where they move.
    fn weight(self, momentum: f64) -> Option<f64> {
        match self {
            Self::Train => Some(momentum),
            Self::Part(part) => Some(part.weight(momentum)),
            Self::Again | Self::Eval => None,
        }
    }

    fn counts_a_batch(self) -> bool {
        matches!(self, Self::Train | Self::Part(Part { from: 0, .. }))
    }
}

/// Normalises batches of which this process has only a part, as if it had all of them.
pub trait SharedNorm: fmt::Debug + Send + Sync {
    /// `x`, `[N, channels, ...]` and this process's part of a batch, normalised over everything but the second dimension
    /// by mean and biased variance of the whole batch, then scaled and moved by gain and bias; with the graph of the
    /// derivative over all parts. `running`, where given, are the running mean and variance, which move by their share
    /// towards the mean and the unbiased variance of the whole batch.
    ///
    /// # Panics
    /// As tch's plain operators do.
    fn normalise(
        &self,
        x: &Tensor,
        gain_and_bias: [&Tensor; 2],
        running: Option<([&Tensor; 2], f64)>,
        eps: f64,
    ) -> Tensor;
}

/// What a layer must know of a forward pass besides its input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) mode: Mode,
    pub(crate) compute: Compute,
    /// Where the batch is shared with other processes.
    pub(crate) shared: Option<&'a dyn SharedNorm>,
}

/// A convolution without bias.
#[derive(Debug)]
pub(crate) struct Conv {
    weight: Tensor,
    stride: i64,
    padding: i64,
}

impl Conv {
    /// With torchvision's initial weights.
    pub(crate) fn new(scope: &mut Scope<'_>, name: &str, shape: ConvShape) -> Self {
        Self::with_weight(scope, name, shape, init::kaiming_normal_fan_out)
    }

    /// With the initial weights of a plain `nn.Conv2d`.
    pub(crate) fn new_plain(scope: &mut Scope<'_>, name: &str, shape: ConvShape) -> Self {
        let fan_in = shape.from * shape.kernel * shape.kernel;
        Self::with_weight(scope, name, shape, |size| init::default_uniform(&size, fan_in))
    }

    fn with_weight(scope: &mut Scope<'_>, name: &str, shape: ConvShape, draw: impl FnOnce([i64; 4]) -> Tensor) -> Self {
        let ConvShape { from, to, kernel, stride } = shape;
        let weight = scope.sub(name).parameter("weight", draw([to, from, kernel, kernel]));
        Self { weight, stride, padding: kernel / 2 }
    }

    /// With so many pixels of zeros around its input.
    pub(crate) fn padded(self, padding: i64) -> Self {
        Self { padding, ..self }
    }

    /// The same in TorchScript.
    pub(crate) fn script(&self) -> ScriptModule {
        let (stride, padding) = (self.stride, self.padding);
        let y = format!("torch.conv2d(x, self.weight, None, [{stride}, {stride}], [{padding}, {padding}])");
        ScriptModule {
            parameters: script::named([("weight", &self.weight)]),
            ..ScriptModule::new("Conv", script::function(&[], &y))
        }
    }

    /// `[N, from, y, x]` to `[N, to, y / stride, x / stride]`.
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        let weight = pass.compute.arranged(pass.compute.operand(&self.weight));
        let convolve =
            |x: &Tensor, stride| x.conv2d(&weight, None::<&Tensor>, [stride; 2], [self.padding; 2], [1, 1], 1);
        let y = match self.skips_pixels_of_narrow_maps(x, pass.compute) {
            true => convolve(&x.slice(2, None, None, self.stride).slice(3, None, None, self.stride), 1),
            false => convolve(x, self.stride),
        };
        pass.compute.on_grid(y)
    }

    /// Whether the pixels that are read must be taken out first, which gives the same convolution.
    ///
    /// On a CPU with AVX-512, the backward pass of libtorch 2.11.0 (oneDNN) writes past its memory when a 1 x 1 kernel
    /// strides over channels-last maps of up to 8 channels.
    fn skips_pixels_of_narrow_maps(&self, x: &Tensor, compute: Compute) -> bool {
        let skips = self.stride > 1 && self.padding == 0;
        skips && compute.is_channels_last() && x.device() == Device::Cpu && x.size()[1] < 16
    }
}

/// Batch normalisation over all dimensions but the second, as in PyTorch: the batch is normalised by its biased
/// variance, the running variance follows the unbiased one.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
}

impl BatchNorm {
    const EPS: f64 = 1e-5;
    /// Weight of the newest batch in the running statistics.
    const MOMENTUM: f64 = 0.1;

    /// Gain 1, bias 0, running mean 0 and variance 1.
    pub(crate) fn new(mut scope: Scope<'_>, channels: i64) -> Self {
        Self {
            weight: scope.parameter("weight", init::ones(channels)),
            bias: scope.parameter("bias", init::zeros(channels)),
            running_mean: scope.buffer("running_mean", init::zeros(channels)),
            running_var: scope.buffer("running_var", init::ones(channels)),
            num_batches_tracked: scope.counter("num_batches_tracked"),
        }
    }

    /// The same in TorchScript, which learns the running statistics in training as PyTorch's own layer does.
    pub(crate) fn script(&self) -> ScriptModule {
        let lines = ["if self.training:", "    _ = self.num_batches_tracked.add_(1)"].map(str::to_owned);
        let y = format!(
            "torch.batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var, self.training, {:?}, {:?}, \
             True)",
            Self::MOMENTUM,
            Self::EPS
        );
        let running = [("running_mean", &self.running_mean), ("running_var", &self.running_var)];
        let counter = [("num_batches_tracked", &self.num_batches_tracked)];
        ScriptModule {
            parameters: script::named([("weight", &self.weight), ("bias", &self.bias)]),
            buffers: script::named(running).into_iter().chain(script::named(counter)).collect(),
            ..ScriptModule::new("BatchNorm", script::function(&lines, &y))
        }
    }

    /// Shape-preserving.
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        if pass.mode.counts_a_batch() {
            let _ = self.num_batches_tracked.shallow_clone().g_add_scalar_(1);
        }
        let weight = pass.mode.weight(Self::MOMENTUM);
        if let (Some(shared), true) = (pass.shared, pass.mode.looks_at_the_batch()) {
            let running = weight.map(|weight| ([&self.running_mean, &self.running_var], weight));
            let y = shared.normalise(x, [&self.weight, &self.bias], running, Self::EPS);
            return pass.compute.on_grid(y);
        }
        let reads_running = weight.is_some() || !pass.mode.looks_at_the_batch();
        let y = x.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            reads_running.then_some(&self.running_mean),
            reads_running.then_some(&self.running_var),
            pass.mode.looks_at_the_batch(),
            weight.unwrap_or_default(),
            Self::EPS,
            true,
        );
        pass.compute.on_grid(y)
    }

    /// Followed by a ReLU in place.
    pub(crate) fn forward_relu(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        self.forward(x, pass).relu_()
    }
}

/// A fully connected layer with bias.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// With PyTorch's default initial weights.
    pub(crate) fn new(mut scope: Scope<'_>, from: i64, to: i64) -> Self {
        Self {
            weight: scope.parameter("weight", init::default_uniform(&[to, from], from)),
            bias: scope.parameter("bias", init::default_uniform(&[to], from)),
        }
    }

    /// The same in TorchScript.
    pub(crate) fn script(&self) -> ScriptModule {
        ScriptModule {
            parameters: script::named([("weight", &self.weight), ("bias", &self.bias)]),
            ..ScriptModule::new("Linear", script::function(&[], "torch.linear(x, self.weight, self.bias)"))
        }
    }

    /// `[N, from]` to `[N, to]`.
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        let [weight, bias] = [&self.weight, &self.bias].map(|parameter| pass.compute.operand(parameter));
        pass.compute.on_grid(x.linear(&weight, Some(&bias)))
    }

    /// The type of its parameters.
    pub(crate) fn kind(&self) -> Kind {
        self.weight.kind()
    }
}
