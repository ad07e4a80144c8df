//! The floating-point operations that a step cannot do without.

use empssl_model::NetworkConfig;

use super::PHASES;
use crate::config::MemoryMode;

/// Floating-point operations of one step, a multiplication and an addition counting as two.
///
/// Counted are the network's convolutions and linear layers, once forward and twice on the way back (the patches need no
/// gradient, so the first convolution only once), once more for what a memory mode runs again; and the objective: with m
/// the smaller and k the larger of b and d, Gram matrix and gradient of `2 m m k` each and `m m m` for factor and inverse,
/// per patch. Normalisation, activations, pooling, LARS and the conversion of the patches are left out: they move memory
/// rather than compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOperations {
    /// The network's first pass.
    pub forward: f64,
    /// What is run once more.
    pub recompute: f64,
    /// The objective and its gradient.
    pub loss: f64,
    /// The way back.
    pub backward: f64,
}

impl StepOperations {
    /// The operations of a step of n patches of side `side` of each of b images.
    pub fn count(network: &NetworkConfig, side: usize, memory: MemoryMode, n: usize, b: usize) -> Self {
        let stages: Vec<f64> =
            network.stage_elements(side as i64).iter().map(|stage| 2.0 * stage.products as f64).collect();
        let (all, first, last) = (stages.iter().sum::<f64>(), stages[0], stages[stages.len() - 1]);
        let recompute = match memory {
            MemoryMode::Whole => 0.0,
            MemoryMode::ByStage => all - last,
            MemoryMode::ByPatches(_) => all,
        };
        let patches = (n * b) as f64;
        // The first stage is one convolution.
        let backward = 2.0 * all - first;
        let loss = n as f64 * objective(b as f64, network.projection as f64);
        Self { forward: all * patches, recompute: recompute * patches, loss, backward: backward * patches }
    }

    /// Those of each of the [`PHASES`]; 0 where only memory is moved.
    pub fn each(&self) -> [f64; PHASES.len()] {
        PHASES.map(|phase| match phase {
            "forward" => self.forward,
            "recompute" => self.recompute,
            "loss" => self.loss,
            "backward" => self.backward,
            _ => 0.0,
        })
    }

    /// Those of the step.
    pub fn total(&self) -> f64 {
        self.forward + self.recompute + self.loss + self.backward
    }
}

fn objective(b: f64, d: f64) -> f64 {
    let (m, k) = (b.min(d), b.max(d));
    4.0 * m * m * k + m * m * m
}

#[cfg(test)]
mod tests {
    use empssl_model::{ResNetConfig, Stem};

    use super::*;

    fn paper(memory: MemoryMode) -> StepOperations {
        let network = NetworkConfig::paper(ResNetConfig::resnet18(Stem::Cifar));
        StepOperations::count(&network, 32, memory, 20, 100)
    }

    #[test]
    fn a_step_of_the_paper_counts_what_pytorch_counts() {
        // torch.utils.flop_counter.FlopCounterMode over one patch, heads included: 1,156,972,544 forward and 2,310,406,144
        // back.
        let counted = paper(MemoryMode::Whole);
        assert_eq!((counted.forward, counted.backward), (2000.0 * 1_156_972_544.0, 2000.0 * 2_310_406_144.0));
        assert_eq!(counted.loss, 20.0 * (4.0 * 100.0 * 100.0 * 1024.0 + 1e6));
        assert_eq!(counted.recompute, 0.0);
    }

    #[test]
    fn what_is_run_again_is_counted_again() {
        let (whole, stage, patches) =
            (paper(MemoryMode::Whole), paper(MemoryMode::ByStage), paper(MemoryMode::ByPatches(5)));
        let heads = 2.0 * 2000.0 * (512.0 * 4096.0 + 4096.0 * 4096.0 + 4096.0 * 1024.0);
        assert_eq!((stage.recompute, patches.recompute), (whole.forward - heads, whole.forward));
        assert_eq!(patches.total(), whole.total() + whole.forward);
        assert_eq!(stage.each().iter().sum::<f64>(), stage.total());
    }

    #[test]
    fn the_objective_works_on_the_smaller_side() {
        assert_eq!(objective(512.0, 128.0), objective(128.0, 512.0));
    }
}
