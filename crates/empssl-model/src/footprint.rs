//! How large a network is before it is built: parameters, what a patch keeps in memory while it trains, and what it
//! costs to compute.

use crate::config::{Block, NetworkConfig, ResNetConfig, Stem};

/// A convolution of the backbone, with the side of the maps it puts out for a given patch.
struct ConvSize {
    from: i64,
    to: i64,
    kernel: i64,
    side: i64,
}

/// How many numbers one patch makes in a stage of a network, and how many it multiplies, as [`crate::Network::stages`] cuts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageElements {
    /// What the stage takes.
    pub input: i64,
    /// What its convolutions and linear layers put out, before normalisation. While training, each is kept about twice,
    /// before and after its normalisation.
    pub layers: i64,
    /// The largest output of a layer.
    pub widest: i64,
    /// Multiplications, each with an addition, of its convolutions and linear layers in a forward pass.
    pub products: i64,
}

impl NetworkConfig {
    /// Trainable numbers of the whole network.
    pub fn n_parameters(&self) -> i64 {
        let convs = self
            .resnet
            .stages(1)
            .iter()
            .flat_map(|stage| &stage.convs)
            .map(|c| c.from * c.to * c.kernel * c.kernel + 2 * c.to)
            .sum::<i64>();
        let (w, h, d) = (self.resnet.width(), self.hidden, self.projection);
        // Linear and norm of the pre-feature layer, linear and norm of the projector's hidden layer, its last linear.
        convs + (w * h + 3 * h) + (h * h + 3 * h) + (h * d + d)
    }

    /// What a patch of side `side` makes of each stage.
    pub fn stage_elements(&self, side: i64) -> Vec<StageElements> {
        let stages = self.resnet.stages(side);
        let elements = |stage: &StageSize| StageElements {
            input: stage.input,
            layers: stage.convs.iter().map(ConvSize::elements).sum(),
            widest: stage.convs.iter().map(ConvSize::elements).max().unwrap_or_default(),
            products: stage.convs.iter().map(ConvSize::products).sum(),
        };
        let mut all: Vec<_> = stages.iter().map(elements).collect();
        let input = stages.last().and_then(|stage| stage.convs.last()).map_or(0, ConvSize::elements);
        let (w, h, d) = (self.resnet.width(), self.hidden, self.projection);
        let products = w * h + h * h + h * d;
        all.push(StageElements { input, layers: w + 2 * h + d, widest: h.max(d), products });
        all
    }
}

/// A stage of the backbone.
struct StageSize {
    input: i64,
    /// In order, the last being that whose sum the stage puts out.
    convs: Vec<ConvSize>,
}

impl ConvSize {
    fn elements(&self) -> i64 {
        self.to * self.side * self.side
    }

    /// Each number put out sums over the kernel and the channels.
    fn products(&self) -> i64 {
        self.elements() * self.from * self.kernel * self.kernel
    }
}

impl ResNetConfig {
    /// Stem and residual stages, for patches of side `side`.
    fn stages(&self, side: i64) -> Vec<StageSize> {
        let input = 3 * side * side;
        let (kernel, side) = match self.stem {
            Stem::Cifar => (3, side),
            Stem::CifarPadded => (3, side + 2),
            Stem::TinyImagenet | Stem::Imagenet => (7, halved(side)),
        };
        let conv = ConvSize { from: 3, to: self.base_width, kernel, side };
        let mut side = if self.stem.pools() { halved(side) } else { side };
        let mut from = self.base_width;
        let mut stages = vec![StageSize { input, convs: vec![conv] }];
        for index in 0..self.layers.len() {
            stages.push(StageSize { input: from * side * side, convs: self.convs(index, &mut from, &mut side) });
        }
        stages
    }

    /// The convolutions of a residual stage that takes `from` channels of side `side`, which become what it puts out.
    fn convs(&self, index: usize, from: &mut i64, side: &mut i64) -> Vec<ConvSize> {
        let planes = self.base_width << index;
        let out = planes * self.block.expansion();
        let mut convs = Vec::new();
        for block in 0..self.layers[index] {
            let strided = block == 0 && index > 0;
            let inner = if strided { halved(*side) } else { *side };
            if strided || *from != out {
                convs.push(ConvSize { from: *from, to: out, kernel: 1, side: inner });
            }
            convs.extend(self.block.convs(*from, planes, *side, inner));
            (*from, *side) = (out, inner);
        }
        convs
    }
}

impl Block {
    /// The convolutions of one block, which turns maps of side `before` into maps of side `after`.
    fn convs(self, from: i64, planes: i64, before: i64, after: i64) -> Vec<ConvSize> {
        let conv = |from, to, kernel, side| ConvSize { from, to, kernel, side };
        match self {
            Block::Basic => vec![conv(from, planes, 3, after), conv(planes, planes, 3, after)],
            Block::Bottleneck => {
                vec![conv(from, planes, 1, before), conv(planes, planes, 3, after), conv(planes, 4 * planes, 1, after)]
            }
        }
    }
}

/// The side after a stride of 2 with the padding that ResNets use.
fn halved(side: i64) -> i64 {
    (side + 1) / 2
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::{Mode, Network};

    fn n_parameters_of(network: &Network) -> i64 {
        network.parameters().iter().map(|(_, tensor)| tensor.numel() as i64).sum()
    }

    #[test]
    fn parameters_are_counted_as_the_built_network_has_them() {
        for stem in [Stem::Cifar, Stem::CifarPadded, Stem::TinyImagenet, Stem::Imagenet] {
            for resnet in [ResNetConfig::resnet18(stem), ResNetConfig::resnet34(stem), ResNetConfig::resnet50(stem)] {
                let resnet = ResNetConfig { base_width: 4, ..resnet };
                let config = NetworkConfig { resnet, hidden: 24, projection: 10 };
                let network = Network::new(&config, 1, Kind::Float, Device::Cpu).unwrap();
                assert_eq!(config.n_parameters(), n_parameters_of(&network), "{config:?}");
            }
        }
    }

    #[test]
    fn the_published_network_has_the_published_size() {
        let config = NetworkConfig::paper(ResNetConfig::resnet18(Stem::Cifar));
        assert_eq!(config.n_parameters(), 34_263_104);
        let stages = config.stage_elements(32);
        let map = 64 * 32 * 32;
        assert_eq!(
            stages.iter().map(|stage| stage.input).collect::<Vec<_>>(),
            [3072, map, map, map / 2, map / 4, map / 8]
        );
        // The stem; then four layers a stage, and from the second on a shortcut with a convolution of its own.
        let layers = [map, 4 * map, 5 * map / 2, 5 * map / 4, 5 * map / 8, 512 + 2 * 4096 + 1024];
        assert_eq!(stages.iter().map(|stage| stage.layers).collect::<Vec<_>>(), layers);
        assert_eq!(stages.iter().map(|stage| stage.widest).max(), Some(map));
    }

    #[test]
    fn stages_take_what_the_built_network_gives_them() {
        for (stem, side) in [(Stem::Cifar, 9), (Stem::CifarPadded, 9), (Stem::Imagenet, 33)] {
            let resnet = ResNetConfig { base_width: 4, layers: [1, 1, 2, 1], ..ResNetConfig::resnet50(stem) };
            let config = NetworkConfig { resnet, hidden: 24, projection: 10 };
            let network = Network::new(&config, 1, Kind::Float, Device::Cpu).unwrap();
            let mut x = Tensor::ones([2, 3, side, side], (Kind::Float, Device::Cpu));
            for (stage, elements) in network.stages().iter().zip(config.stage_elements(side)) {
                assert_eq!(elements.input, x.numel() as i64 / 2, "{config:?}");
                x = stage.forward(&x, Mode::Eval);
            }
            assert_eq!(x.size(), [2, 10]);
        }
    }
}
