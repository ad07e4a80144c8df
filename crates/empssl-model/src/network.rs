//! Encoder and projector as one network.

use std::fmt;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::arithmetic::{Arithmetic, Compute};
use crate::config::{NetworkConfig, Portion};
use crate::layers::{BatchNorm, Linear, Mode, Pass, SharedNorm};
use crate::resnet::{self, ResNet};
use crate::scope::{Registry, Scope};
use crate::script::{self, ScriptModule};
use crate::{ModelError, init, state};

/// What one forward pass gives for `N` patches.
#[derive(Debug)]
pub struct Embedding {
    /// The pooled output of the backbone, `[N, width]`.
    pub backbone: Tensor,
    /// The output of the pre-feature layer, `[N, h]`, which is evaluated; the reference's `z_pre`.
    pub features: Tensor,
    /// The output of the projector with rows of length 1, `[N, d]`, which is trained on; the reference's `z`.
    pub projections: Tensor,
}

/// Backbone, pre-feature layer and projector; the reference's `encoder` (tsb0601/EMP-SSL `model/model.py:33-53`).
pub struct Network {
    config: NetworkConfig,
    registry: Registry,
    compute: Compute,
    shared: Option<Arc<dyn SharedNorm>>,
    resnet: ResNet,
    pre_feature: Hidden,
    projector: Projector,
}

impl Network {
    /// Builds a network with fresh weights: the same ones for the same `seed`, whatever the type, the device and what
    /// other threads draw. libtorch's global generator is seeded for it.
    ///
    /// # Errors
    /// [`ModelError::Config`] when a size is not positive, [`ModelError::Kind`] unless `kind` is float32 or float64.
    pub fn new(config: &NetworkConfig, seed: u64, kind: Kind, device: Device) -> Result<Self, ModelError> {
        config.check()?;
        if !matches!(kind, Kind::Float | Kind::Double) {
            return Err(ModelError::Kind { found: kind });
        }
        let _drawing = init::seeded(seed);
        let mut registry = Registry::new(kind, device);
        let mut root = registry.root();
        let resnet = ResNet::new(root.sub("backbone"), &config.resnet);
        let pre_feature = Hidden::new(&mut root.sub("pre_feature"), config.resnet.width(), config.hidden);
        let projector = Projector::new(root.sub("projection"), config);
        let (config, compute) = (config.clone(), Compute::PLAIN);
        Ok(Self { config, registry, compute, shared: None, resnet, pre_feature, projector })
    }

    /// Computes in another way from now on; the parameters stay as they are.
    ///
    /// # Errors
    /// [`ModelError::Bf16`] when bf16 products are asked of weights that are not float32.
    pub fn set_arithmetic(&mut self, arithmetic: Arithmetic) -> Result<(), ModelError> {
        self.compute = arithmetic.resolve(self.kind(), self.device())?;
        Ok(())
    }

    /// From now on, BatchNorm looks at batches of which this process has only a part; `None` for whole ones again.
    pub fn set_shared_norm(&mut self, shared: Option<Arc<dyn SharedNorm>>) {
        self.shared = shared;
    }

    /// All three outputs for patches `[N, 3, s, s]`, patch-major, of the network's type and on its device.
    ///
    /// # Panics
    /// When [`Self::check_input`] refuses the patches.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Embedding {
        let pass = self.pass(mode);
        let backbone = self.backbone(x, pass);
        let features = self.pre_feature.forward(&backbone, pass);
        let projections = self.projector.forward(&features, pass);
        // A copy only where the grid stores another type than the weights have.
        let [backbone, features] = [backbone, features].map(|x| x.to_kind(self.kind()));
        Embedding { backbone, features, projections }
    }

    /// The features alone, `[N, h]`, without the cost of the projector.
    ///
    /// # Panics
    /// When [`Self::check_input`] refuses the patches.
    pub fn encode(&self, x: &Tensor, mode: Mode) -> Tensor {
        let pass = self.pass(mode);
        self.pre_feature.forward(&self.backbone(x, pass), pass).to_kind(self.kind())
    }

    /// The pooled output of the backbone alone, `[N, width]`.
    ///
    /// # Panics
    /// When [`Self::check_input`] refuses the patches.
    pub fn encode_backbone(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.backbone(x, self.pass(mode)).to_kind(self.kind())
    }

    /// The way from patches to projections in stages: each takes what the one before it gave, the first takes patches
    /// as [`Self::forward`] does, the last gives [`Embedding::projections`].
    ///
    /// Run one after the other they are the forward pass; run again from an input that was kept, a stage gives the same
    /// numbers again, with [`Mode::Again`] also in training.
    pub fn stages(&self) -> [Stage<'_>; 6] {
        let [first, second, third, fourth] = self.resnet.stages().each_ref().map(Place::Residual);
        let places = [Place::Stem, first, second, third, fourth, Place::Heads];
        places.map(|place| Stage { network: self, place })
    }

    fn backbone(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        let x = self.stem(x, pass);
        ResNet::pool(&self.resnet.stages().iter().fold(x, |x, stage| stage.forward(&x, pass)), pass)
    }

    fn stem(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        if let Err(refusal) = self.check_input(x, pass.mode) {
            panic!("{refusal}");
        }
        self.resnet.stem(x, pass)
    }

    fn heads(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        self.projector.forward(&self.pre_feature.forward(&ResNet::pool(x, pass), pass), pass)
    }

    fn pass(&self, mode: Mode) -> Pass<'_> {
        Pass { mode, compute: self.compute, shared: self.shared.as_deref() }
    }

    /// Checks what [`Self::forward`] asks of its input.
    ///
    /// # Errors
    /// [`ModelError::Input`] unless `x` is `[N, 3, s, s]`, not empty, of the network's type and on its device, and in any
    /// mode but [`Mode::Eval`] has at least two patches, where it is a whole batch: the heads' BatchNorm knows no variance
    /// of one.
    pub fn check_input(&self, x: &Tensor, mode: Mode) -> Result<(), ModelError> {
        let least = if mode.looks_at_the_batch() && self.shared.is_none() { 2 } else { 1 };
        let size = x.size();
        let fits = matches!(size[..], [n, 3, height, width] if n >= least && height > 0 && width > 0);
        let (kind, device) = (self.registry.kind(), self.registry.device());
        if fits && x.kind() == kind && x.device() == device {
            return Ok(());
        }
        Err(ModelError::Input {
            expected: format!("{kind:?} patches [N, 3, s, s] on {device:?} with N of {least} or more"),
            found: format!("{:?} {size:?} on {:?}", x.kind(), x.device()),
        })
    }

    /// The configuration this network was built from.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// The type that activations are kept in: the weights', or bf16 where bf16 products store it.
    pub fn activation_kind(&self) -> Kind {
        self.compute.activation_kind(self.kind())
    }

    /// The type of its weights.
    pub fn kind(&self) -> Kind {
        self.registry.kind()
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.registry.device()
    }

    /// The trainable tensors by their official names (`backbone.conv1.weight`, `pre_feature.0.weight`,
    /// `projection.3.bias`, ...), in the order in which PyTorch's optimizers see them.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        self.registry.parameters()
    }

    /// Parameters and buffers by their official names, in PyTorch's `state_dict` order.
    ///
    /// The tensors carry no graph but share their memory with the network: they change as it trains.
    pub fn state_dict(&self) -> Vec<(String, Tensor)> {
        state::detached(self.registry.state())
    }

    /// The part of [`Self::state_dict`] that belongs to the backbone, under torchvision's names (`conv1.weight`, ...).
    pub fn backbone_state_dict(&self) -> Vec<(String, Tensor)> {
        state::detached(&state::backbone_part(self.registry.state()))
    }

    /// The part of [`Self::state_dict`] that belongs to a portion of the network, under the official names.
    pub fn portion_state_dict(&self, portion: Portion) -> Vec<(String, Tensor)> {
        state::detached(&self.portion(portion))
    }

    /// Copies weights into a portion of the network, as strictly as [`Self::load_state_dict`] does; the rest stays.
    ///
    /// # Errors
    /// [`ModelError::State`], which names every key at fault.
    pub fn load_portion_state_dict(&mut self, portion: Portion, given: &[(String, Tensor)]) -> Result<(), ModelError> {
        state::load(&self.portion(portion), given)
    }

    fn portion(&self, portion: Portion) -> state::State {
        let state = self.registry.state().iter().filter(|(name, _)| portion.holds(name));
        state.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }

    /// Copies weights into the network, where it lives and in the type it has.
    ///
    /// Strict, and all or nothing: when one key is missing, unexpected, repeated or of another form, none is copied.
    /// Floating-point numbers of any width are converted to the network's own. A `module.` in front of every key, which
    /// PyTorch's `DataParallel` puts there, is dropped.
    ///
    /// # Errors
    /// [`ModelError::State`], which names every key at fault.
    pub fn load_state_dict(&mut self, given: &[(String, Tensor)]) -> Result<(), ModelError> {
        state::load(self.registry.state(), &state::without_module_prefix(given))
    }

    /// A part of the network as a TorchScript module.
    ///
    /// `forward` takes patches `[N, 3, s, s]` of its own type from -1 to 1 and gives the pooled output of the backbone
    /// `[N, width]`, the encoder's features `[N, h]`, or of the full network features and projections `[N, d]` as a pair.
    /// `prepare` makes such patches from pixels of 0 to 255. Parameters and buffers carry the names of
    /// [`Self::backbone_state_dict`] in the first case and of [`Self::state_dict`] in the others, and share their memory
    /// with the network.
    pub fn script(&self, portion: Portion) -> ScriptModule {
        let backbone = self.resnet.script();
        if portion == Portion::Backbone {
            return ScriptModule { source: backbone.source.clone() + &script::prepare("conv1"), ..backbone };
        }
        let mut children =
            vec![("backbone".to_owned(), backbone), ("pre_feature".to_owned(), self.pre_feature.script())];
        let features = "self.pre_feature.forward(self.backbone.forward(x))";
        let forward = if portion == Portion::Full {
            children.push(("projection".to_owned(), self.projector.script()));
            let lines = [format!("features = {features}")];
            script::method(
                "forward",
                "x: Tensor",
                "Tuple[Tensor, Tensor]",
                &lines,
                "features, self.projection.forward(features)",
            )
        } else {
            script::function(&[], features)
        };
        let class = if portion == Portion::Full { "Network" } else { "Encoder" };
        ScriptModule { children, ..ScriptModule::new(class, forward + &script::prepare("backbone.conv1")) }
    }
}

/// What a network takes for patches as they are cut: bytes `[n, b, 3, s, s]` to numbers `x / 127.5 - 1` of `kind`,
/// `[n * b, 3, s, s]` (tsb0601/EMP-SSL `dataset/aug.py`: ToTensor, then Normalize with mean and deviation 0.5).
pub fn network_input(patches: &Tensor, kind: Kind) -> Tensor {
    patches.flatten(0, 1).to_kind(kind) / 127.5 - 1.0
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, device) = (self.kind(), self.device());
        f.debug_struct("Network").field("config", &self.config).field("kind", &kind).field("device", &device).finish()
    }
}

/// One of the parts that a network's forward pass runs through.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    network: &'a Network,
    place: Place<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Stem,
    Residual(&'a resnet::Stage),
    /// Pool, pre-feature layer and projector.
    Heads,
}

impl Stage<'_> {
    /// What the stage makes of what the one before it gave, which it leaves as it was.
    ///
    /// # Panics
    /// In the first stage, when [`Network::check_input`] refuses the patches.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let (network, pass) = (self.network, self.network.pass(mode));
        match self.place {
            Place::Stem => network.stem(x, pass),
            Place::Residual(stage) => stage.forward(x, pass),
            Place::Heads => network.heads(x, pass),
        }
    }
}

/// A linear layer, its norm and a ReLU: layers 0, 1 and 2 of a `Sequential`.
struct Hidden {
    linear: Linear,
    norm: BatchNorm,
}

impl Hidden {
    fn new(scope: &mut Scope<'_>, from: i64, to: i64) -> Self {
        Self { linear: Linear::new(scope.sub(0), from, to), norm: BatchNorm::new(scope.sub(1), to) }
    }

    fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        self.norm.forward_relu(&self.linear.forward(x, pass), pass)
    }

    fn script(&self) -> ScriptModule {
        let lines = [format!("x = {}", Self::CALL)];
        let children = vec![("0".to_owned(), self.linear.script()), ("1".to_owned(), self.norm.script())];
        ScriptModule { children, ..ScriptModule::new("Hidden", script::function(&lines, "x")) }
    }

    /// How TorchScript calls the three layers, which lie in the module itself.
    const CALL: &str = r#"torch.relu(getattr(self, "1").forward(getattr(self, "0").forward(x)))"#;
}

/// From features to projections of length 1.
struct Projector {
    hidden: Hidden,
    last: Linear,
}

impl Projector {
    /// The smallest length that a projection is divided by, as in `F.normalize`.
    const MIN_NORM: f64 = 1e-12;

    fn new(mut scope: Scope<'_>, config: &NetworkConfig) -> Self {
        Self {
            hidden: Hidden::new(&mut scope, config.hidden, config.hidden),
            last: Linear::new(scope.sub(3), config.hidden, config.projection),
        }
    }

    fn forward(&self, features: &Tensor, pass: Pass<'_>) -> Tensor {
        let z = self.last.forward(&self.hidden.forward(features, pass), pass).to_kind(self.last.kind());
        let length = z.norm_scalaropt_dim(2, [1i64].as_slice(), true).clamp_min(Self::MIN_NORM);
        z / length
    }

    fn script(&self) -> ScriptModule {
        let hidden = self.hidden.script();
        let lines = [format!("x = {}", Hidden::CALL), r#"z = getattr(self, "3").forward(x)"#.to_owned()];
        let result = format!("z / torch.clamp_min(torch.norm(z, 2, [1], True), {:?})", Self::MIN_NORM);
        let children = hidden.children.into_iter().chain([("3".to_owned(), self.last.script())]).collect();
        ScriptModule { children, ..ScriptModule::new("Projector", script::function(&lines, &result)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ResNetConfig, Stem};

    fn network() -> Network {
        let resnet = ResNetConfig { base_width: 4, layers: [1, 1, 1, 1], ..ResNetConfig::resnet18(Stem::Cifar) };
        Network::new(&NetworkConfig { resnet, hidden: 16, projection: 8 }, 1, Kind::Float, Device::Cpu).unwrap()
    }

    /// Gives the network weights of -1, 0 and 1, three an output that are not 0, biases of 0, and norms that change nothing.
    fn make_exact(network: &Network) {
        for (name, tensor) in network.state_dict() {
            let (outputs, numbers) = (tensor.size().first().copied().unwrap_or(0) as usize, tensor.numel());
            let mut values = vec![0.0f32; numbers];
            if name.ends_with("running_var") {
                values.fill(1.0 - 1e-5); // 1 with the norm's epsilon
            } else if tensor.dim() >= 2 {
                let fan_in = numbers / outputs;
                for (output, weights) in values.chunks_mut(fan_in).enumerate() {
                    for j in 0..3 {
                        weights[(7 * output + 5 * j) % fan_in] = if (output + j) % 5 == 0 { -1.0 } else { 1.0 };
                    }
                }
            } else if !name.ends_with("bias") {
                continue;
            }
            tensor.shallow_clone().copy_(&Tensor::from_slice(&values).view_as(&tensor));
        }
    }

    /// What CUDA does, in bf16 tensors, can be done on a CPU too: it is one arithmetic but for the order of sums, which
    /// does not matter where every sum is exact. Here it is: the patches are whole numbers of at most 2, so the largest
    /// sum is at most 2 * 3 in the stem, 3 * 3 + 1 times as much after the first residual block, 3 * 3 + 3 times as much
    /// after each of the other three, and 3 times as much after each of the three linear layers, 2,799,360 in all; and the
    /// mean over four positions makes quarters of the whole numbers, which float32 holds up to 2^22.
    #[test]
    fn stored_and_rounded_bf16_agree_to_the_bit_where_sums_are_exact() {
        let patches =
            (Tensor::arange(6 * 3 * 16 * 16, (Kind::Float, Device::Cpu)) * 37.0).remainder(61.0).remainder(3.0);
        let patches = patches.view([6, 3, 16, 16]);
        for layout in [crate::Layout::Contiguous, crate::Layout::ChannelsLast] {
            let outputs = Compute::every_grid(layout).map(|compute| {
                let mut network = network();
                make_exact(&network);
                network.compute = compute;
                let embedding = tch::no_grad(|| network.forward(&patches, Mode::Eval));
                [embedding.backbone, embedding.features, embedding.projections]
            });
            let [own, rounded, stored] = &outputs;
            assert_eq!(rounded, stored, "{layout:?}");
            for (own, rounded) in own.iter().zip(rounded) {
                assert_ne!(own, rounded, "{layout:?}: the rounding shows");
            }
        }
    }

    /// The norm in training, which is never exact: both ways round the numbers of float64 to bf16, to within what
    /// float32 loses in sums of m terms, m 2^-24 of the terms in whatever order, for the mean and for the variance.
    #[test]
    fn a_batch_is_normalised_alike_by_stored_and_rounded_bf16() {
        let x = (Tensor::arange(6 * 4 * 16 * 16, (Kind::Float, Device::Cpu)) * 0.37).sin().view([6, 4, 16, 16]);
        let norm_of = |x: &Tensor, compute: Compute, kind| {
            let mut registry = Registry::new(kind, Device::Cpu);
            let norm = BatchNorm::new(registry.root().sub("norm"), 4);
            norm.forward(x, Pass { mode: Mode::Train, compute, shared: None }).to_kind(Kind::Double)
        };
        let [_, rounded, stored] = Compute::every_grid(crate::Layout::Contiguous);
        let truth = norm_of(&rounded.on_grid(x.shallow_clone()).to_kind(Kind::Double), Compute::PLAIN, Kind::Double);
        let terms = (6 * 16 * 16) as f64;
        let allowed = truth.abs() * 2f64.powi(-8) + (truth.abs() + 1.0) * (4.0 * terms * 2f64.powi(-24));
        for compute in [rounded, stored] {
            let y = norm_of(&compute.on_grid(x.shallow_clone()), compute, Kind::Float);
            let most = ((y - &truth).abs() / &allowed).max().double_value(&[]);
            assert!(most <= 1.0, "{compute:?}: {most} of what is allowed");
        }
    }

    #[test]
    fn gradients_and_statistics_are_float32_in_every_arithmetic() {
        let x = (Tensor::arange(6 * 3 * 16 * 16, (Kind::Float, Device::Cpu)) * 0.37).sin().view([6, 3, 16, 16]);
        for compute in Compute::every_grid(crate::Layout::Contiguous) {
            let mut network = network();
            network.compute = compute;
            let embedding = network.forward(&x, Mode::Train);
            assert_eq!((embedding.features.kind(), embedding.backbone.kind()), (Kind::Float, Kind::Float));
            (embedding.projections * Tensor::arange(8, (Kind::Float, Device::Cpu))).sum(Kind::Float).backward();
            for (name, parameter) in network.parameters() {
                assert_eq!(parameter.grad().kind(), Kind::Float, "{name}");
            }
            let statistics = network.state_dict();
            assert!(statistics.iter().all(|(_, tensor)| matches!(tensor.kind(), Kind::Float | Kind::Int64)));
        }
    }
}
