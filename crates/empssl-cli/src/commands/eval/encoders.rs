//! The encoders that are compared, as evaluation sees them, and what tells one from another.

use empssl_data::Fingerprint;
use empssl_eval::{FEATURES, FeatureExtractor};
use empssl_model::{Embedding, Mode, Network, Portion};
use empssl_torch::safetensors::bytes_of;
use tch::Tensor;

use crate::error::CliError;

/// The outputs of a network besides [`FEATURES`], the pre-feature that is scored, as published.
pub(crate) const BACKBONE: &str = "backbone";
pub(crate) const PROJECTION: &str = "projection";

/// A network in evaluation mode, and how much of it there is: of a backbone alone its own output is scored.
pub(crate) struct NetworkFeatures<'a>(pub(crate) &'a Network, pub(crate) Portion);

impl FeatureExtractor for NetworkFeatures<'_> {
    fn outputs(&self) -> Vec<&str> {
        match self.1 {
            Portion::Full => vec![FEATURES, BACKBONE, PROJECTION],
            Portion::Encoder | Portion::Backbone => vec![FEATURES, BACKBONE],
        }
    }

    fn extract(&self, patches: &Tensor, wanted: &[&str]) -> Vec<Tensor> {
        if self.1 == Portion::Backbone {
            let backbone = self.0.encode_backbone(patches, Mode::Eval);
            return wanted.iter().map(|_| backbone.shallow_clone()).collect();
        }
        if wanted == [FEATURES] {
            return vec![self.0.encode(patches, Mode::Eval)];
        }
        let Embedding { backbone, features, projections } = self.0.forward(patches, Mode::Eval);
        let output = |name: &&str| match *name {
            BACKBONE => backbone.shallow_clone(),
            PROJECTION => projections.shallow_clone(),
            _ => features.shallow_clone(),
        };
        wanted.iter().map(output).collect()
    }
}

/// A sum over names, sizes and numbers of all weights and statistics: equal for equal networks, wherever they are.
pub(crate) fn checksum(network: &Network) -> Result<String, CliError> {
    let mut fingerprint = Fingerprint::default();
    for (name, tensor) in network.state_dict() {
        fingerprint.text(&format!("{name} {:?} {:?}", tensor.kind(), tensor.size()));
        let unreadable = |error| CliError::Run(format!("cannot read the weight `{name}`: {error}"));
        fingerprint.bytes(&bytes_of(&tensor).map_err(unreadable)?);
    }
    Ok(format!("{:016x}", fingerprint.finish()))
}

#[cfg(test)]
mod tests {
    use empssl_model::{NetworkConfig, ResNetConfig, Stem};
    use tch::{Device, Kind};

    use super::*;

    fn network() -> Network {
        let resnet = ResNetConfig { base_width: 2, layers: [1, 1, 1, 1], ..ResNetConfig::resnet18(Stem::Cifar) };
        Network::new(&NetworkConfig { resnet, hidden: 6, projection: 4 }, 1, Kind::Float, Device::Cpu).unwrap()
    }

    #[test]
    fn every_output_is_the_networks_own_and_in_the_order_asked_for() {
        let _guard = tch::no_grad_guard();
        let (network, patches) = (network(), Tensor::ones([3, 3, 8, 8], (Kind::Float, Device::Cpu)));
        let encoder = NetworkFeatures(&network, Portion::Full);
        assert_eq!(encoder.outputs(), ["features", "backbone", "projection"]);
        let expected = network.forward(&patches, Mode::Eval);
        let given = encoder.extract(&patches, &[PROJECTION, FEATURES, BACKBONE]);
        assert!(
            given[0].equal(&expected.projections)
                && given[1].equal(&expected.features)
                && given[2].equal(&expected.backbone)
        );
        assert!(encoder.extract(&patches, &[FEATURES])[0].equal(&expected.features));
        let alone = NetworkFeatures(&network, Portion::Backbone);
        assert_eq!(alone.outputs(), ["features", "backbone"]);
        assert!(alone.extract(&patches, &[FEATURES])[0].equal(&expected.backbone));
    }

    #[test]
    fn a_checksum_is_of_every_weight_and_statistic() {
        let mut network = network();
        let before = checksum(&network).unwrap();
        assert_eq!((before.len(), &checksum(&network).unwrap()), (16, &before));
        let state = network.state_dict();
        network.load_state_dict(&state).unwrap();
        assert_eq!(checksum(&network).unwrap(), before);
        for (name, tensor) in state {
            let last = tensor.view([-1]).narrow(0, tensor.numel() as i64 - 1, 1);
            let kept = last.copy();
            let _ = last.shallow_clone().fill_(77.0);
            assert_ne!(checksum(&network).unwrap(), before, "{name}");
            last.shallow_clone().copy_(&kept);
        }
        assert_eq!(checksum(&network).unwrap(), before);
    }
}
