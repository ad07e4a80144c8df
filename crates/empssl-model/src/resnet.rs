//! The residual backbone, in stages that can be run one by one.
//!
//! torchvision's ResNet "v1.5" (the stride of a bottleneck sits on its 3x3 convolution) without classifier; names and
//! order of names are torchvision's.

use tch::{Kind, Tensor};

use crate::config::{BlockShape, ResNetConfig, Stem};
use crate::layers::{BatchNorm, Conv, Pass};
use crate::scope::Scope;
use crate::script::{self, ScriptModule};

/// A residual network: [`Self::stem`], then each of [`Self::stages`], then [`Self::pool`].
#[derive(Debug)]
pub(crate) struct ResNet {
    conv: Conv,
    norm: BatchNorm,
    max_pool: bool,
    stages: [Stage; 4],
}

/// One of the four residual stages, torchvision's `layer1` to `layer4`.
#[derive(Debug)]
pub(crate) struct Stage {
    blocks: Vec<Residual>,
}

impl ResNet {
    pub(crate) fn new(mut scope: Scope<'_>, config: &ResNetConfig) -> Self {
        let conv = stem_conv(&mut scope, config);
        let norm = BatchNorm::new(scope.sub("bn1"), config.base_width);
        let mut number = 0;
        let stages = config.blocks().map(|blocks| {
            number += 1;
            Stage::new(scope.sub(format!("layer{number}")), blocks)
        });
        Self { conv, norm, max_pool: config.stem.pools(), stages }
    }

    /// `[N, 3, s, s]` to `[N, w, s, s]` (CIFAR stem), two pixels more (padded) or `[N, w, s/4, s/4]`, with w the base width.
    pub(crate) fn stem(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        let x = pass.compute.arranged(pass.compute.on_grid(x.shallow_clone()));
        let x = self.norm.forward_relu(&self.conv.forward(&x, pass), pass);
        if self.max_pool { x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false) } else { x }
    }

    /// The residual stages in order; each takes what the one before it gave.
    pub(crate) fn stages(&self) -> &[Stage; 4] {
        &self.stages
    }

    /// The same in TorchScript.
    pub(crate) fn script(&self) -> ScriptModule {
        let mut lines = vec!["x = torch.relu(self.bn1.forward(self.conv1.forward(x)))".to_owned()];
        if self.max_pool {
            lines.push("x = torch.max_pool2d(x, [3, 3], [2, 2], [1, 1])".to_owned());
        }
        lines.extend((1..=4).map(|i| format!("x = self.layer{i}.forward(x)")));
        let stages = self.stages.iter().zip(1..).map(|(stage, i)| (format!("layer{i}"), stage.script()));
        let stem = [("conv1".to_owned(), self.conv.script()), ("bn1".to_owned(), self.norm.script())];
        let source = script::function(&lines, "torch.mean(x, [2, 3])");
        ScriptModule { children: stem.into_iter().chain(stages).collect(), ..ScriptModule::new("ResNet", source) }
    }

    /// The mean over all positions: `[N, channels, y, x]` to `[N, channels]`.
    pub(crate) fn pool(x: &Tensor, pass: Pass<'_>) -> Tensor {
        pass.compute.on_grid(x.mean_dim([2i64, 3].as_slice(), false, None::<Kind>))
    }
}

fn stem_conv(scope: &mut Scope<'_>, config: &ResNetConfig) -> Conv {
    let shape = config.stem_conv();
    match config.stem {
        // The reference replaces torchvision's convolution by a new one, after torchvision's initialisation.
        Stem::Cifar => Conv::new_plain(scope, "conv1", shape),
        Stem::CifarPadded => Conv::new_plain(scope, "conv1", shape).padded(2),
        Stem::TinyImagenet | Stem::Imagenet => Conv::new(scope, "conv1", shape),
    }
}

impl Stage {
    fn new(mut scope: Scope<'_>, blocks: Vec<BlockShape>) -> Self {
        let blocks = blocks.into_iter().enumerate();
        Self { blocks: blocks.map(|(index, block)| Residual::new(scope.sub(index), block)).collect() }
    }

    fn script(&self) -> ScriptModule {
        script::sequential(self.blocks.iter().map(Residual::script).collect())
    }

    /// `[N, channels, y, x]` to the stage's channels; every stage but the first halves y and x.
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        self.blocks.iter().fold(x.shallow_clone(), |x, block| block.forward(&x, pass))
    }
}

/// A residual block: convolutions, each with its norm, beside a shortcut.
#[derive(Debug)]
struct Residual {
    layers: Vec<(Conv, BatchNorm)>,
    /// Where the shape changes: a strided 1x1 convolution and its norm.
    downsample: Option<(Conv, BatchNorm)>,
}

impl Residual {
    fn new(mut scope: Scope<'_>, block: BlockShape) -> Self {
        let layers = (1..).zip(block.convs).map(|(i, shape)| {
            let conv = Conv::new(&mut scope, &format!("conv{i}"), shape);
            (conv, BatchNorm::new(scope.sub(format!("bn{i}")), shape.to))
        });
        let layers = layers.collect();
        let downsample = block.shortcut.map(|shape| {
            let mut scope = scope.sub("downsample");
            (Conv::new(&mut scope, "0", shape), BatchNorm::new(scope.sub(1), shape.to))
        });
        Self { layers, downsample }
    }

    fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        let last = self.layers.len() - 1;
        let mut out = x.shallow_clone();
        for (i, (conv, norm)) in self.layers.iter().enumerate() {
            out = norm.forward(&conv.forward(&out, pass), pass);
            if i < last {
                out = out.relu_();
            }
        }
        let sum = match &self.downsample {
            Some((conv, norm)) => out.g_add_(&norm.forward(&conv.forward(x, pass), pass)),
            None => out.g_add_(x),
        };
        pass.compute.on_grid(sum).relu_()
    }

    fn script(&self) -> ScriptModule {
        let last = self.layers.len();
        let mut lines = vec!["y = x".to_owned()];
        let mut children = Vec::new();
        for (i, (conv, norm)) in (1..).zip(&self.layers) {
            let y = format!("self.bn{i}.forward(self.conv{i}.forward(y))");
            lines.push(if i < last { format!("y = torch.relu({y})") } else { format!("y = {y}") });
            children.push((format!("conv{i}"), conv.script()));
            children.push((format!("bn{i}"), norm.script()));
        }
        let shortcut = if let Some((conv, norm)) = &self.downsample {
            children.push(("downsample".to_owned(), script::sequential(vec![conv.script(), norm.script()])));
            "self.downsample.forward(x)"
        } else {
            "x"
        };
        let source = script::function(&lines, &format!("torch.relu(y + {shortcut})"));
        ScriptModule { children, ..ScriptModule::new("Block", source) }
    }
}
