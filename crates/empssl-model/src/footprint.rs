//! How large a network is before it is built: parameters, what a patch keeps in memory while it trains, and what it
//! costs to compute.

use crate::config::{BlockShape, ConvShape, NetworkConfig, ResNetConfig, Stem};

/// A convolution of the backbone, with the side of the maps it puts out for a given patch.
struct ConvSize {
    shape: ConvShape,
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
            .map(|ConvSize { shape, .. }| shape.to * (shape.from * shape.kernel * shape.kernel + 2))
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
        self.shape.to * self.side * self.side
    }

    /// Each number put out sums over the kernel and the channels.
    fn products(&self) -> i64 {
        self.elements() * self.shape.from * self.shape.kernel * self.shape.kernel
    }
}

impl ResNetConfig {
    /// Stem and residual stages, for patches of side `side`.
    fn stages(&self, side: i64) -> Vec<StageSize> {
        let (input, stem) = (3 * side * side, self.stem_conv());
        let wider = if self.stem == Stem::CifarPadded { 2 } else { 0 };
        let mut side = strided(side, stem.stride) + wider;
        let mut stages = vec![StageSize { input, convs: vec![ConvSize { shape: stem, side }] }];
        side = if self.stem.pools() { strided(side, 2) } else { side };
        let mut from = stem.to;
        for blocks in self.blocks() {
            let (input, mut convs) = (from * side * side, Vec::new());
            for BlockShape { convs: inner, shortcut } in blocks {
                convs.extend(shortcut.map(|shape| ConvSize { shape, side: strided(side, shape.stride) }));
                for shape in inner {
                    side = strided(side, shape.stride);
                    convs.push(ConvSize { shape, side });
                    from = shape.to;
                }
            }
            stages.push(StageSize { input, convs });
        }
        stages
    }
}

/// The side after a convolution or pooling with the padding that ResNets use.
fn strided(side: i64, stride: i64) -> i64 {
    (side + stride - 1) / stride
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
