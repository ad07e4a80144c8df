//! Weights of other programs: which network a file belongs to, and that network's tensors under the official names.
//!
//! Read are the files of `torch.save` (both forms, by `empssl_pickle`, which carries nothing out) and safetensors. Known
//! are the official encoder and our own exports of it, ResNets under torchvision's names, and backbones under `backbone.`
//! among other things, as solo-learn's checkpoints of PyTorch Lightning hold them. Everything is derived from names and
//! shapes; what a network must have is there in the right shape, or the file is refused with every key at fault.

mod file;
mod shapes;

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::config::{NetworkConfig, Portion, ResNetConfig, Stem};
use crate::{ModelError, Network, state};

use file::Source;

/// A file of weights that belongs to a network we can build.
#[derive(Debug)]
pub struct Import {
    /// What the file is, in words.
    pub origin: String,
    /// The backbone.
    pub resnet: ResNetConfig,
    /// How much of a network there is.
    pub portion: Portion,
    /// h, where there is a pre-feature layer.
    pub hidden: Option<i64>,
    /// d, where there is a projector.
    pub projection: Option<i64>,
    /// The tensors of that portion under their official names, in the types they are stored in.
    pub tensors: Vec<(String, Tensor)>,
    /// Keys that no network here has and that were left out: classifiers and heads of other methods.
    pub left_out: Vec<String>,
    /// What whoever uses the weights should know, a sentence each.
    pub notes: Vec<String>,
}

/// Reads a file.
///
/// # Errors
/// [`ModelError::Read`] when it cannot be read, [`ModelError::Format`] and [`ModelError::Import`] when it is damaged,
/// names what a file of weights must not, or belongs to no network that is known here.
pub fn read(path: &Path) -> Result<Import, ModelError> {
    let source = file::read(path)?;
    recognise(source).map_err(|reason| ModelError::Import { path: path.to_owned(), reason })
}

impl Import {
    /// The stems whose weights have the shapes of these: what a recipe may choose from.
    pub fn stems(&self) -> &'static [Stem] {
        match self.resnet.stem {
            Stem::Cifar | Stem::CifarPadded => &[Stem::Cifar, Stem::CifarPadded],
            Stem::TinyImagenet | Stem::Imagenet => &[Stem::TinyImagenet, Stem::Imagenet],
        }
    }

    /// The network of the given sizes with these weights, in float32 on the CPU. What the file does not hold keeps the
    /// weights that are drawn for it from `seed`.
    ///
    /// # Errors
    /// [`ModelError::State`], which names every key that is missing, unexpected or of another shape; [`ModelError::Config`]
    /// for impossible sizes; [`ModelError::NotFinite`] when a weight is no number; [`ModelError::TooFew`] when so large a
    /// network cannot be what the file holds.
    pub fn network(&self, config: &NetworkConfig, seed: u64) -> Result<Network, ModelError> {
        config.check()?;
        let held: usize = self.tensors.iter().map(|(_, tensor)| tensor.numel()).sum();
        let needed = self.needed(config);
        // A few missing tensors are named one by one below; a network out of all proportion is not even built.
        if needed > 4 * held as i64 {
            return Err(ModelError::TooFew { needed, held });
        }
        let mut network = Network::new(config, seed, Kind::Float, Device::Cpu)?;
        network.load_portion_state_dict(self.portion, &self.tensors)?;
        let finite = |tensor: &Tensor| !tensor.is_floating_point() || tensor.isfinite().all().int64_value(&[]) != 0;
        match network.portion_state_dict(self.portion).into_iter().find(|(_, tensor)| !finite(tensor)) {
            Some((key, _)) => Err(ModelError::NotFinite { key }),
            None => Ok(network),
        }
    }

    /// How many numbers the file's portion of such a network has.
    fn needed(&self, config: &NetworkConfig) -> i64 {
        let (hidden, projection) =
            (self.hidden.map_or(0, |_| config.hidden), self.projection.map_or(0, |_| config.projection));
        NetworkConfig { hidden, projection, ..config.clone() }.n_parameters()
    }
}

/// Finds out which network the tensors belong to.
fn recognise(source: Source) -> Result<Import, String> {
    let tensors = state::without_module_prefix(&source.tensors);
    let keys = |prefix: &str| tensors.iter().any(|(key, _)| key.starts_with(prefix));
    if keys("conv1.") {
        let renamed = tensors.into_iter().map(|(key, tensor)| (format!("{BACKBONE}{key}"), tensor));
        return backbone(renamed.collect(), Names::Torchvision, &source);
    }
    if !keys(BACKBONE) {
        let some: Vec<_> = tensors.iter().take(5).map(|(key, _)| key.as_str()).collect();
        return Err(format!("it holds no ResNet: its keys begin with {}", some.join(", ")));
    }
    if keys("pre_feature.") { encoder(tensors, &source) } else { backbone(tensors, Names::Within, &source) }
}

/// How a file names the tensors of a backbone.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    /// As torchvision does.
    Torchvision,
    /// With `backbone.` in front, among those of other parts.
    Within,
}

/// What the backbone's keys begin with in a whole network.
const BACKBONE: &str = "backbone.";

/// The official encoder, with or without its projector; strict in all keys.
fn encoder(tensors: state::State, source: &Source) -> Result<Import, String> {
    let shapes = shapes::Shapes::of(&tensors);
    let resnet = shapes.resnet(BACKBONE)?;
    let hidden = Some(shapes.rows("pre_feature.0.weight")?);
    let has_projector = tensors.iter().any(|(key, _)| key.starts_with("projection."));
    let projection = has_projector.then(|| shapes.rows("projection.3.weight")).transpose()?;
    let (portion, origin) = match projection {
        Some(_) => (Portion::Full, "an EMP-SSL network"),
        None => (Portion::Encoder, "an EMP-SSL encoder without its projector"),
    };
    let import = Import {
        origin: origin.to_owned(),
        resnet,
        portion,
        hidden,
        projection,
        tensors,
        left_out: Vec::new(),
        notes: Vec::new(),
    };
    Ok(import.completed(source))
}

/// A backbone, whose classifier and other heads are left out.
fn backbone(tensors: state::State, names: Names, source: &Source) -> Result<Import, String> {
    let is_ours = |key: &str| key.strip_prefix(BACKBONE).is_some_and(|key| !matches!(key, "fc.weight" | "fc.bias"));
    let (tensors, others): (state::State, state::State) = tensors.into_iter().partition(|(key, _)| is_ours(key));
    let name = |key: String| match names {
        Names::Torchvision => key.trim_start_matches(BACKBONE).to_owned(),
        Names::Within => key,
    };
    let left_out = others.into_iter().map(|(key, _)| name(key)).collect();
    let mut resnet = shapes::Shapes::of(&tensors).resnet(BACKBONE)?;
    let mut notes = vec![
        "the file has no pre-feature layer and no projector, so the backbone's pooled output is what is scored"
            .to_owned(),
    ];
    match resnet.stem {
        Stem::Cifar if source.is_lightning() => {
            resnet.stem = Stem::CifarPadded;
            notes.push(
                "solo-learn's CIFAR stem pads by 2, so 32-pixel patches become maps of 34 x 34; the stem is set to \
                 `cifar-padded`, and `network.stem=cifar` is for weights of other programs that pad by 1"
                    .to_owned(),
            );
        }
        Stem::Imagenet if names == Names::Torchvision => notes.push(
            "torchvision's own weights expect pixels less ImageNet's mean, divided by its deviation; they get \
             x / 127.5 - 1 here, which scores lower than what they can do"
                .to_owned(),
        ),
        _ => {}
    }
    let (hidden, projection, origin) = (None, None, origin(names, source).to_owned());
    let import = Import { origin, resnet, portion: Portion::Backbone, hidden, projection, tensors, left_out, notes };
    Ok(import.completed(source))
}

/// What a file with a backbone is, in words.
fn origin(names: Names, source: &Source) -> &'static str {
    match names {
        Names::Torchvision => "a ResNet under torchvision's names",
        Names::Within if source.is_lightning() => "a backbone among other things of PyTorch Lightning",
        Names::Within => "a backbone among other things",
    }
}

impl Import {
    /// Adds the counters that PyTorch before 0.4.1 did not keep, and what the file itself tells.
    fn completed(mut self, source: &Source) -> Self {
        if let Some(stem) = source.stem.filter(|stem| self.stems().contains(stem)) {
            self.resnet.stem = stem;
        }
        const COUNTER: &str = "num_batches_tracked";
        let norms = self.tensors.iter().filter_map(|(key, _)| key.strip_suffix("running_var").map(str::to_owned));
        let norms: Vec<String> = norms.collect();
        if !norms.is_empty() && !self.tensors.iter().any(|(key, _)| key.ends_with(COUNTER)) {
            let zero = || Tensor::zeros([], (Kind::Int64, Device::Cpu));
            self.tensors.extend(norms.into_iter().map(|norm| (format!("{norm}{COUNTER}"), zero())));
            self.notes
                .push(format!("the file has no `{COUNTER}`, as none before PyTorch 0.4.1; the counters begin at 0"));
        }
        if self.tensors.iter().any(|(_, tensor)| tensor.kind() == Kind::Double) {
            self.notes.push("its float64 numbers are rounded to float32".to_owned());
        }
        if !source.foreign.is_empty() {
            self.notes.push(format!(
                "beside the weights are objects of {}, which were left alone; nothing of them was carried out",
                source.foreign.join(", ")
            ));
        }
        self
    }
}

#[cfg(test)]
mod tests;
