//! The best of several rates on the test images, for baselines that must not be beaten by a badly chosen rate.

use super::sgd::{LinearProbe, LinearProbeConfig};
use crate::error::EvalError;
use crate::features::FeatureBank;
use crate::metrics::Accuracy;

/// What [`best_of_rates`] found.
#[derive(Debug)]
pub struct BestOfRates {
    /// The rate that won.
    pub lr: f64,
    /// Its accuracy on the test bank.
    pub accuracy: Accuracy,
}

/// The rates among which a linear probe on raw pixels is chosen: pixels are far larger than an encoder's features, so
/// the published rate alone would be an unfair rival.
pub const PIXEL_RATES: [f64; 3] = [0.03, 0.003, 0.0003];

/// Fits one probe for each rate, all else equal, and keeps the one with the best top-1 on the **test** bank; of equal
/// ones the first listed.
///
/// Choosing on the test images favours the result.
/// That is wanted for a baseline such as raw pixels, which must not be beaten by a badly chosen rate, and would be
/// wrong for the encoder under test: that one gets [`LinearProbe::fit`] at the published rate.
///
/// # Errors
/// [`EvalError::Setting`] when there is no rate or one is out of range; as [`LinearProbe::fit`] and
/// [`super::FittedProbe::score`].
pub fn best_of_rates(
    config: &LinearProbeConfig,
    rates: &[f64],
    seed: u64,
    train: &FeatureBank,
    test: &FeatureBank,
) -> Result<BestOfRates, EvalError> {
    train.signature().check(test)?;
    let mut best: Option<BestOfRates> = None;
    for &lr in rates {
        let config = LinearProbeConfig { lr, ..config.clone() };
        let accuracy = LinearProbe::new(&config, seed)?.fit(train)?.score(test)?;
        if best.as_ref().is_none_or(|best| accuracy.top1 > best.accuracy.top1) {
            best = Some(BestOfRates { lr, accuracy });
        }
    }
    best.ok_or(EvalError::Setting { key: "rates".to_owned(), expected: "at least one rate", found: "none".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bank, clusters, refusal};
    use tch::Kind;

    fn config(epochs: usize) -> LinearProbeConfig {
        LinearProbeConfig { batch_size: 8, epochs, ..LinearProbeConfig::published() }
    }

    #[test]
    fn the_best_of_several_rates_is_the_best_on_the_test_bank() {
        let (train, test) = (clusters("train", 44, 0.4, Kind::Double), clusters("test", 21, 0.6, Kind::Double));
        let tops = [1e-6, 0.03, 0.031].map(|lr| {
            let probe = LinearProbe::new(&LinearProbeConfig { lr, ..config(20) }, 0).unwrap();
            probe.fit(&train).unwrap().score(&test).unwrap().top1
        });
        assert!(tops[0] < tops[1] && tops[1] == tops[2], "the example does not separate the rates: {tops:?}");
        let best = best_of_rates(&config(20), &[1e-6, 0.03, 0.031], 0, &train, &test).unwrap();
        assert_eq!((best.lr, best.accuracy.top1), (0.03, tops[1]));
        let message = refusal(best_of_rates(&config(20), &[], 0, &train, &test));
        assert_eq!(message, "`rates` must be at least one rate, found none");
    }

    #[test]
    fn refuses_a_test_bank_of_another_width() {
        let train = clusters("train", 8, 0.1, Kind::Double);
        let test = bank("test", &[[1.0]], &[0], 4);
        let message = refusal(best_of_rates(&config(1), &PIXEL_RATES, 0, &train, &test));
        assert!(message.starts_with("the bank `test` has 1 features"), "{message}");
    }
}
