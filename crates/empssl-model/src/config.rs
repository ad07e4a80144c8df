//! How large a network is, checked before it is built.

use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::ModelError;

/// What comes before the residual stages (tsb0601/EMP-SSL `model/model.py:9-31`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stem {
    /// A 3x3 convolution of stride 1 and no pooling: 32-pixel patches keep their size (`resnet18-cifar`).
    Cifar,
    /// The same with two pixels of padding instead of one, as solo-learn has it (`solo/methods/base.py`): maps two pixels
    /// wider than the patch, under the same weights.
    CifarPadded,
    /// The ImageNet stem; the reference's `resnet18-tinyimagenet` replaces only the average pool, by an equal one.
    TinyImagenet,
    /// A 7x7 convolution of stride 2, then 3x3 max-pooling of stride 2 (`resnet18-imagenet`).
    Imagenet,
}

impl Stem {
    /// As recipes and the metadata of weights files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar => "cifar",
            Self::CifarPadded => "cifar-padded",
            Self::TinyImagenet => "tiny-imagenet",
            Self::Imagenet => "imagenet",
        }
    }

    /// Whether a max-pooling of stride 2 follows the convolution.
    pub fn pools(self) -> bool {
        match self {
            Self::Cifar | Self::CifarPadded => false,
            Self::TinyImagenet | Self::Imagenet => true,
        }
    }
}

/// How much of a network: what is exported, and what an imported file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Portion {
    /// The ResNet.
    Backbone,
    /// The ResNet and the pre-feature layer, which gives the features.
    Encoder,
    /// Both and the projector.
    Full,
}

impl Portion {
    /// Whether a tensor of this official name belongs to it.
    pub(crate) fn holds(self, name: &str) -> bool {
        match self {
            Self::Backbone => name.starts_with("backbone."),
            Self::Encoder => !name.starts_with("projection."),
            Self::Full => true,
        }
    }
}

/// The residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Block {
    /// Two 3x3 convolutions: ResNet-18 and -34.
    Basic,
    /// 1x1, 3x3 and 1x1 convolutions, the last with four times the channels, the stride on the 3x3: ResNet-50.
    Bottleneck,
}

impl Block {
    /// Channels that a block of `planes` inner channels puts out, as a multiple of `planes`.
    fn expansion(self) -> i64 {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }
}

/// The shape of a convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) kernel: i64,
    pub(crate) stride: i64,
}

/// The convolutions of a residual block.
pub(crate) struct BlockShape {
    /// One after the other.
    pub(crate) convs: Vec<ConvShape>,
    /// That of the shortcut, where the block changes the shape.
    pub(crate) shortcut: Option<ConvShape>,
}

impl BlockShape {
    fn new(block: Block, from: i64, planes: i64, stride: i64) -> Self {
        let out = planes * block.expansion();
        let conv = |from, to, kernel, stride| ConvShape { from, to, kernel, stride };
        let convs = match block {
            Block::Basic => vec![conv(from, planes, 3, stride), conv(planes, planes, 3, 1)],
            Block::Bottleneck => {
                vec![conv(from, planes, 1, 1), conv(planes, planes, 3, stride), conv(planes, out, 1, 1)]
            }
        };
        let shortcut = (stride != 1 || from != out).then(|| conv(from, out, 1, stride));
        Self { convs, shortcut }
    }
}

/// The backbones that recipes name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// [`ResNetConfig::resnet18`]
    Resnet18,
    /// [`ResNetConfig::resnet34`]
    Resnet34,
    /// [`ResNetConfig::resnet50`]
    Resnet50,
}

/// A residual network without its classifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResNetConfig {
    /// The block that the stages are made of.
    pub block: Block,
    /// Blocks in each of the four stages.
    pub layers: [i64; 4],
    /// Channels of the stem and of the first stage; each later stage doubles them. 64 in the published networks.
    pub base_width: i64,
    /// What comes before the stages.
    pub stem: Stem,
}

impl ResNetConfig {
    /// ResNet-18: 512 channels out.
    pub fn resnet18(stem: Stem) -> Self {
        Self { block: Block::Basic, layers: [2, 2, 2, 2], base_width: 64, stem }
    }

    /// ResNet-34: 512 channels out.
    pub fn resnet34(stem: Stem) -> Self {
        Self { layers: [3, 4, 6, 3], ..Self::resnet18(stem) }
    }

    /// ResNet-50: 2048 channels out.
    pub fn resnet50(stem: Stem) -> Self {
        Self { block: Block::Bottleneck, ..Self::resnet34(stem) }
    }

    /// The network of this name.
    pub fn of(backbone: Backbone, stem: Stem) -> Self {
        match backbone {
            Backbone::Resnet18 => Self::resnet18(stem),
            Backbone::Resnet34 => Self::resnet34(stem),
            Backbone::Resnet50 => Self::resnet50(stem),
        }
    }

    /// The name of these blocks, whatever their width; `None` for a network that recipes cannot name.
    pub fn backbone(&self) -> Option<Backbone> {
        let all = [Backbone::Resnet18, Backbone::Resnet34, Backbone::Resnet50];
        let is = |backbone: &Backbone| {
            let Self { block, layers, .. } = Self::of(*backbone, self.stem);
            (block, layers) == (self.block, self.layers)
        };
        all.into_iter().find(is)
    }

    /// The width of the pooled output.
    pub fn width(&self) -> i64 {
        self.base_width * 8 * self.block.expansion()
    }

    /// The convolution of the stem.
    pub(crate) fn stem_conv(&self) -> ConvShape {
        let (kernel, stride) = match self.stem {
            Stem::Cifar | Stem::CifarPadded => (3, 1),
            Stem::TinyImagenet | Stem::Imagenet => (7, 2),
        };
        ConvShape { from: 3, to: self.base_width, kernel, stride }
    }

    /// The blocks of each stage.
    pub(crate) fn blocks(&self) -> [Vec<BlockShape>; 4] {
        let mut from = self.base_width;
        std::array::from_fn(|stage| {
            let planes = self.base_width << stage;
            let block = |index| {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let block = BlockShape::new(self.block, from, planes, stride);
                from = planes * self.block.expansion();
                block
            };
            (0..self.layers[stage]).map(block).collect()
        })
    }

    fn check(&self) -> Result<(), ModelError> {
        check_positive("base_width", self.base_width)?;
        self.layers.iter().try_for_each(|&blocks| check_positive("layers", blocks))
    }
}

/// The whole network; serialized as the section `[network]` of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Section")]
pub struct NetworkConfig {
    /// The backbone.
    pub resnet: ResNetConfig,
    /// h: the width of the pre-feature layer, which is evaluated, and of the projector's hidden layer. Published: 4096.
    pub hidden: i64,
    /// d: the width of the projections. Published: 1024.
    pub projection: i64,
}

impl NetworkConfig {
    /// The published heads on a backbone of choice.
    pub fn paper(resnet: ResNetConfig) -> Self {
        Self { resnet, hidden: 4096, projection: 1024 }
    }

    /// Refuses sizes that are not positive.
    ///
    /// # Errors
    /// [`ModelError::Config`], which names the first.
    pub fn check(&self) -> Result<(), ModelError> {
        self.resnet.check()?;
        check_positive("hidden", self.hidden)?;
        check_positive("projection", self.projection)
    }
}

/// How a recipe spells a network.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    backbone: Backbone,
    stem: Stem,
    base_width: i64,
    hidden: i64,
    projection: i64,
}

impl From<Section> for NetworkConfig {
    fn from(Section { backbone, stem, base_width, hidden, projection }: Section) -> Self {
        Self { resnet: ResNetConfig { base_width, ..ResNetConfig::of(backbone, stem) }, hidden, projection }
    }
}

impl Serialize for NetworkConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ResNetConfig { layers, stem, base_width, .. } = self.resnet;
        let Some(backbone) = self.resnet.backbone() else {
            return Err(S::Error::custom(format!("recipes have no name for a ResNet with {layers:?} blocks")));
        };
        Section { backbone, stem, base_width, hidden: self.hidden, projection: self.projection }.serialize(serializer)
    }
}

fn check_positive(key: &'static str, found: i64) -> Result<(), ModelError> {
    if found > 0 { Ok(()) } else { Err(ModelError::Config { key, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_the_published_networks() {
        assert_eq!(ResNetConfig::resnet18(Stem::Cifar).width(), 512);
        assert_eq!(ResNetConfig::resnet34(Stem::Imagenet).width(), 512);
        assert_eq!(ResNetConfig::resnet50(Stem::Imagenet).width(), 2048);
    }

    #[test]
    fn stems_are_read_by_their_names() {
        for stem in [Stem::Cifar, Stem::CifarPadded, Stem::TinyImagenet, Stem::Imagenet] {
            assert_eq!(serde_json::from_value::<Stem>(stem.name().into()).unwrap(), stem);
        }
    }

    #[test]
    fn a_network_is_spelled_as_in_recipes() {
        for (backbone, resnet) in [
            ("resnet18", ResNetConfig::resnet18(Stem::Cifar)),
            ("resnet34", ResNetConfig::resnet34(Stem::CifarPadded)),
            ("resnet50", ResNetConfig::resnet50(Stem::TinyImagenet)),
        ] {
            let stem = resnet.stem.name();
            let config = NetworkConfig { resnet: ResNetConfig { base_width: 8, ..resnet }, hidden: 5, projection: 3 };
            let spelled = serde_json::json!({
                "backbone": backbone, "stem": stem, "base_width": 8, "hidden": 5, "projection": 3
            });
            assert_eq!(serde_json::to_value(&config).unwrap(), spelled);
            assert_eq!(serde_json::from_value::<NetworkConfig>(spelled).unwrap(), config);
            let other = ResNetConfig { layers: [1, 1, 1, 1], ..config.resnet.clone() };
            let error = serde_json::to_value(NetworkConfig { resnet: other, ..config }).unwrap_err().to_string();
            assert_eq!(error, "recipes have no name for a ResNet with [1, 1, 1, 1] blocks");
        }
    }

    #[test]
    fn sizes_must_be_positive() {
        let good = NetworkConfig::paper(ResNetConfig::resnet18(Stem::Cifar));
        assert_eq!(good.check().map_err(|e| e.to_string()), Ok(()));
        let mut bad = [good.clone(), good.clone(), good.clone(), good];
        bad[0].resnet.base_width = 0;
        bad[1].resnet.layers[2] = 0;
        bad[2].hidden = -1;
        bad[3].projection = 0;
        let messages = bad.map(|config| config.check().unwrap_err().to_string());
        for (message, key) in messages.iter().zip(["base_width", "layers", "hidden", "projection"]) {
            assert!(message.contains(key) && message.contains("at least 1"), "{message}");
        }
    }
}
