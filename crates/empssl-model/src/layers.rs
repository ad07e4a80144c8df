//! The three layers that hold weights.

use tch::Tensor;

use crate::init;
use crate::scope::Scope;

/// How BatchNorm behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Normalise by the statistics of this batch, and move the running ones.
    Train,
    /// Normalise by the running statistics, and leave them alone.
    Eval,
}

/// A convolution without bias.
#[derive(Debug)]
pub(crate) struct Conv {
    weight: Tensor,
    stride: i64,
    padding: i64,
}

/// The shape of a convolution.
#[derive(Clone, Copy)]
pub(crate) struct ConvShape {
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) kernel: i64,
    pub(crate) stride: i64,
}

impl ConvShape {
    fn weight(self) -> [i64; 4] {
        [self.to, self.from, self.kernel, self.kernel]
    }
}

impl Conv {
    /// With torchvision's initial weights.
    pub(crate) fn new(scope: &mut Scope<'_>, name: &str, shape: ConvShape) -> Self {
        Self::with_weight(scope, name, shape, init::kaiming_normal_fan_out(shape.weight()))
    }

    /// With the initial weights of a plain `nn.Conv2d`.
    pub(crate) fn new_plain(scope: &mut Scope<'_>, name: &str, shape: ConvShape) -> Self {
        let fan_in = shape.from * shape.kernel * shape.kernel;
        Self::with_weight(scope, name, shape, init::default_uniform(&shape.weight(), fan_in))
    }

    fn with_weight(scope: &mut Scope<'_>, name: &str, shape: ConvShape, drawn: Tensor) -> Self {
        let weight = scope.sub(name).parameter("weight", drawn);
        Self { weight, stride: shape.stride, padding: shape.kernel / 2 }
    }

    /// `[N, from, y, x]` to `[N, to, y / stride, x / stride]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.conv2d(&self.weight, None::<&Tensor>, [self.stride; 2], [self.padding; 2], [1, 1], 1)
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

    /// Shape-preserving.
    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let training = mode == Mode::Train;
        if training {
            let _ = self.num_batches_tracked.shallow_clone().g_add_scalar_(1);
        }
        x.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            training,
            Self::MOMENTUM,
            Self::EPS,
            true,
        )
    }

    /// Followed by a ReLU in place.
    pub(crate) fn forward_relu(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.forward(x, mode).relu_()
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

    /// `[N, from]` to `[N, to]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}
