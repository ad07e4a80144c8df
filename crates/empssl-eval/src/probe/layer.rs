//! A linear layer on features: its first numbers, its scores, the gradient of its loss.

use empssl_data::rng::{Purpose, Stream};
use tch::{Kind, Tensor};

use super::LAYER_PART;
use crate::error::EvalError;
use crate::features::{FeatureBank, Signature};
use crate::metrics::Accuracy;

/// A trained linear layer.
#[derive(Debug)]
pub struct FittedProbe {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    train: Signature,
}

impl FittedProbe {
    /// PyTorch's initial `Linear(h, c)`, drawn on the host so that a seed means one layer on every device.
    pub(super) fn first(seed: u64, train: &FeatureBank) -> Self {
        let (c, h) = (train.n_classes(), train.width());
        let mut stream = Stream::new(seed, Purpose::Order, 0, 0, LAYER_PART);
        let bound = 1.0 / (h as f64).sqrt();
        let mut draw = |count: i64| -> Vec<f64> { (0..count).map(|_| stream.uniform(-bound, bound)).collect() };
        let (weight, bias) = (Tensor::from_slice(&draw(c * h)).view([c, h]), Tensor::from_slice(&draw(c)));
        Self::from_layer(&weight, &bias, train)
    }

    /// A layer on the device and in the kind of the bank; always a copy.
    pub(super) fn from_layer(weight: &Tensor, bias: &Tensor, train: &FeatureBank) -> Self {
        let alike =
            |tensor: &Tensor| tensor.copy().to_device(train.features().device()).to_kind(train.features().kind());
        Self { weight: alike(weight), bias: alike(bias), train: train.signature() }
    }

    /// Weight `[c, h]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Bias `[c]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// Class scores (logits) `[images, c]` of a bank.
    ///
    /// # Errors
    /// [`EvalError::BanksDiffer`] when the bank differs from the training bank in width, classes, kind or device.
    pub fn class_scores(&self, bank: &FeatureBank) -> Result<Tensor, EvalError> {
        self.train.check(bank)?;
        Ok(self.logits(bank.features()))
    }

    /// Accuracy on a bank.
    ///
    /// # Errors
    /// As [`FittedProbe::class_scores`].
    pub fn score(&self, bank: &FeatureBank) -> Result<Accuracy, EvalError> {
        Accuracy::of(&self.class_scores(bank)?, bank.labels())
    }

    /// `[m, h]` to `[m, c]`.
    fn logits(&self, features: &Tensor) -> Tensor {
        self.bias.addmm(features, &self.weight.tr())
    }

    /// Gradient of the mean softmax cross-entropy of a batch with respect to weight and bias.
    ///
    /// With respect to the logits it is `(softmax - indicator of the label) / b`; the rest is the chain rule of one
    /// layer, written out because a step is so small that recording it for differentiation would cost more than it.
    pub(super) fn gradient(&self, features: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
        let mut residual = self.logits(features).softmax(1, None);
        let labels = labels.unsqueeze(1);
        let _ = residual.scatter_add_(1, &labels, &labels.full_like(-1.0).to_kind(residual.kind()));
        residual /= features.size()[0];
        (residual.tr().matmul(features), residual.sum_dim_intlist(0, false, None))
    }

    pub(super) fn is_finite(&self) -> bool {
        (self.weight.sum(Kind::Double) + self.bias.sum(Kind::Double)).double_value(&[]).is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::top_k;
    use crate::probe::testing::cases;
    use crate::testing::{clusters, golden_bank, integers, numbers, values};
    use empssl_golden::{Family, assert_close};

    #[test]
    fn golden_optimum_of_the_regularised_loss_has_no_gradient() {
        let Some(family) = Family::open("linear") else { return };
        for (case, tensors) in cases(&family, "optimum") {
            let train = golden_bank(&tensors, case, "train", Kind::Double);
            let layer = |name: &str| numbers(&tensors, name, Kind::Double);
            let optimum = FittedProbe::from_layer(&layer("weight"), &layer("bias"), &train);
            let (weight, bias) = optimum.gradient(train.features(), train.labels());
            let weight = weight + optimum.weight() * case["lambda"].as_f64().unwrap();
            let limit = 10.0 * case["gradient_max_abs_at_optimum"].as_f64().unwrap();
            assert_close("weight", &values(&weight), &vec![0.0; weight.numel()], limit);
            assert_close("bias", &values(&bias), &vec![0.0; bias.numel()], limit);
            let scores = optimum.class_scores(&golden_bank(&tensors, case, "test", Kind::Double)).unwrap();
            let ambiguous = case["ambiguous_test_rows"].as_array().unwrap().len() as f64 / scores.size()[0] as f64;
            let agreed = top_k(&scores, &integers(&tensors, "test_prediction"), &[1]).unwrap()[0];
            assert!(agreed >= 100.0 * (1.0 - ambiguous) - 1e-9, "predictions agree on {agreed} %");
        }
    }

    #[test]
    fn the_written_gradient_is_the_differentiated_one() {
        for (kind, tolerance) in [(Kind::Double, 1e-15), (Kind::Float, 3e-7)] {
            let train = clusters("train", 30, 0.5, kind);
            let probe = FittedProbe::first(3, &train);
            let (weight, bias) = probe.gradient(train.features(), train.labels());
            let leaf = FittedProbe::from_layer(&probe.weight, &probe.bias, &train);
            let (w, b) = (leaf.weight.set_requires_grad(true), leaf.bias.set_requires_grad(true));
            let log_likelihood = train.features().linear(&w, Some(&b)).log_softmax(1, None);
            log_likelihood.nll_loss(train.labels()).backward();
            assert_close("weight", &values(&weight), &values(&w.grad()), tolerance);
            assert_close("bias", &values(&bias), &values(&b.grad()), tolerance);
        }
    }

    #[test]
    fn the_first_layer_is_uniform_within_one_over_the_root_of_the_width() {
        let features = Tensor::zeros([1, 400], (Kind::Float, tch::Device::Cpu));
        let train = FeatureBank::new("train", &features, &Tensor::from_slice(&[0i64]), 50).unwrap();
        let first = FittedProbe::first(0, &train);
        let (weight, bound) = (values(first.weight()), 0.05);
        assert!(weight.iter().chain(&values(first.bias())).all(|value| value.abs() <= bound));
        let (mean, n) = (weight.iter().sum::<f64>() / 20_000.0, weight.len() as f64);
        let deviation = (weight.iter().map(|value| value * value).sum::<f64>() / n).sqrt();
        assert!(mean.abs() < 5.0 * bound / (3.0 * n).sqrt(), "{mean}");
        assert!((deviation / (bound / 3.0f64.sqrt()) - 1.0).abs() < 0.02, "{deviation}");
    }
}
