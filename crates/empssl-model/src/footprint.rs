//! How large a network is before it is built: parameters, and what a patch keeps in memory while it trains.

use crate::config::{Block, NetworkConfig, ResNetConfig, Stem};

/// A convolution of the backbone, with the side of the maps it puts out for a given patch.
struct ConvSize {
    from: i64,
    to: i64,
    kernel: i64,
    side: i64,
}

impl NetworkConfig {
    /// Trainable numbers of the whole network.
    pub fn n_parameters(&self) -> i64 {
        let convs = self.resnet.convs(1).iter().map(|c| c.from * c.to * c.kernel * c.kernel + 2 * c.to).sum::<i64>();
        let (w, h, d) = (self.resnet.width(), self.hidden, self.projection);
        // Linear and norm of the pre-feature layer, linear and norm of the projector's hidden layer, its last linear.
        convs + (w * h + 3 * h) + (h * h + 3 * h) + (h * d + d)
    }

    /// Numbers that the layers put out for one patch of side `side` before normalisation: the convolutions and the
    /// linear layers. While training, each is kept about twice, before and after its normalisation.
    pub fn activation_elements(&self, side: i64) -> i64 {
        let maps: i64 = self.resnet.convs(side).iter().map(|c| c.to * c.side * c.side).sum();
        maps + self.resnet.width() + 2 * self.hidden + self.projection
    }
}

impl ResNetConfig {
    /// The convolutions in order, for patches of side `side`.
    fn convs(&self, side: i64) -> Vec<ConvSize> {
        let (kernel, side) = match self.stem {
            Stem::Cifar => (3, side),
            Stem::TinyImagenet | Stem::Imagenet => (7, halved(side)),
        };
        let mut convs = vec![ConvSize { from: 3, to: self.base_width, kernel, side }];
        let mut side = if self.stem == Stem::Cifar { side } else { halved(side) };
        let mut from = self.base_width;
        for (index, &blocks) in self.layers.iter().enumerate() {
            let planes = self.base_width << index;
            let out = planes * self.block.expansion();
            for block in 0..blocks {
                let strided = block == 0 && index > 0;
                let inner = if strided { halved(side) } else { side };
                convs.extend(self.block.convs(from, planes, side, inner));
                if strided || from != out {
                    convs.push(ConvSize { from, to: out, kernel: 1, side: inner });
                }
                (from, side) = (out, inner);
            }
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
    use tch::{Device, Kind};

    use super::*;
    use crate::Network;

    fn n_parameters_of(network: &Network) -> i64 {
        network.parameters().iter().map(|(_, tensor)| tensor.numel() as i64).sum()
    }

    #[test]
    fn parameters_are_counted_as_the_built_network_has_them() {
        for stem in [Stem::Cifar, Stem::TinyImagenet, Stem::Imagenet] {
            for resnet in [ResNetConfig::resnet18(stem), ResNetConfig::resnet34(stem), ResNetConfig::resnet50(stem)] {
                let resnet = ResNetConfig { base_width: 4, ..resnet };
                let config = NetworkConfig { resnet, hidden: 24, projection: 10 };
                let network = Network::new(&config, Kind::Float, Device::Cpu).unwrap();
                assert_eq!(config.n_parameters(), n_parameters_of(&network), "{config:?}");
            }
        }
    }

    #[test]
    fn the_published_network_has_the_published_size() {
        let config = NetworkConfig::paper(ResNetConfig::resnet18(Stem::Cifar));
        assert_eq!(config.n_parameters(), 34_263_104);
        // 614,400 numbers of feature maps on 32-pixel patches, then the heads' vectors.
        assert_eq!(config.activation_elements(32), 614_400 + 512 + 2 * 4096 + 1024);
    }
}
