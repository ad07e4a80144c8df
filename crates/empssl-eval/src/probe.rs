//! Linear probe: softmax regression on frozen features by stochastic gradient descent.

use std::f64::consts::PI;

use empssl_data::rng::{Purpose, Stream};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::EvalError;
use crate::features::FeatureBank;
use crate::metrics::Accuracy;

/// Parts of the seed's random stream, so that layer and order share no number with each other or the image loader.
const ORDER_PART: u32 = 1;
const LAYER_PART: u32 = 2;

/// Settings of [`LinearProbe`]; every key must be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearProbeConfig {
    /// Rate of the first epoch; it falls to zero along a cosine, stepped once an epoch.
    pub lr: f64,
    /// Share of the momentum buffer that survives a step, in `[0, 1)`.
    pub momentum: f64,
    /// Weight decay, on weight and bias.
    pub weight_decay: f64,
    /// Images in one step; the incomplete last batch of an epoch is dropped.
    pub batch_size: i64,
    /// Passes over the training bank.
    pub epochs: usize,
}

impl LinearProbeConfig {
    /// The reference's evaluation (tsb0601/EMP-SSL `func.py:181-236`, with the rate of `evaluate.py:30`).
    pub fn published() -> Self {
        Self { lr: 0.03, momentum: 0.9, weight_decay: 5e-5, batch_size: 100, epochs: 100 }
    }

    fn check(&self) -> Result<(), EvalError> {
        EvalError::check(self.lr > 0.0 && self.lr.is_finite(), "lr", "positive and finite", self.lr)?;
        let fraction = (0.0..1.0).contains(&self.momentum);
        EvalError::check(fraction, "momentum", "at least 0 and below 1", self.momentum)?;
        let decays = self.weight_decay >= 0.0 && self.weight_decay.is_finite();
        EvalError::check(decays, "weight_decay", "at least 0 and finite", self.weight_decay)?;
        EvalError::check(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)?;
        EvalError::check(self.epochs >= 1, "epochs", "at least 1", self.epochs)
    }

    /// The rate of `epoch`, counted from 0.
    fn lr_of(&self, epoch: usize) -> f64 {
        self.lr / 2.0 * (1.0 + (PI * epoch as f64 / self.epochs as f64).cos())
    }
}

/// A linear layer with bias, trained on the softmax cross-entropy of frozen features (tsb0601/EMP-SSL `func.py`,
/// `linear`).
///
/// The first layer is PyTorch's, uniform in `±1/sqrt(h)` for weight and bias, and rows are shuffled anew every epoch;
/// both depend on the seed alone, not on the device.
/// The probe of the last epoch is the result: there is no choice of epochs, and so none on the test images.
#[derive(Clone, Debug)]
pub struct LinearProbe {
    config: LinearProbeConfig,
    seed: u64,
}

impl LinearProbe {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`EvalError::Setting`] for a setting out of range.
    pub fn new(config: &LinearProbeConfig, seed: u64) -> Result<Self, EvalError> {
        config.check()?;
        Ok(Self { config: config.clone(), seed })
    }

    /// Trains on a bank.
    ///
    /// # Errors
    /// [`EvalError::SmallerThanBatch`] when the bank does not fill one batch; [`EvalError::Diverged`].
    pub fn fit(&self, train: &FeatureBank) -> Result<FittedProbe, EvalError> {
        self.fit_observed(train, &mut |_, _| {})
    }

    /// Trains on a bank and scores the probe on a test bank after every epoch; the last score is the result.
    ///
    /// # Errors
    /// As [`LinearProbe::fit`] and [`FittedProbe::score`].
    pub fn fit_with_curve(
        &self,
        train: &FeatureBank,
        test: &FeatureBank,
    ) -> Result<(FittedProbe, Vec<Accuracy>), EvalError> {
        train.check_test(test)?;
        let mut curve = Vec::with_capacity(self.config.epochs);
        let fitted = self.fit_observed(train, &mut |_, probe| curve.push(probe.score(test)))?;
        Ok((fitted, curve.into_iter().collect::<Result<_, _>>()?))
    }

    /// Trains on a bank and shows the probe to `observer` after every epoch, counted from 1.
    ///
    /// # Errors
    /// As [`LinearProbe::fit`].
    pub fn fit_observed(
        &self,
        train: &FeatureBank,
        observer: &mut dyn FnMut(usize, &FittedProbe),
    ) -> Result<FittedProbe, EvalError> {
        let mut order = |epoch: usize| {
            let mut rows: Vec<i64> = (0..train.n_images()).collect();
            Stream::new(self.seed, Purpose::Order, epoch as u64, 0, ORDER_PART).shuffle(&mut rows);
            rows
        };
        self.descend(FittedProbe::first(self.seed, train), train, &mut order, observer)
    }

    /// The training itself, from a given layer and along given orders of the rows.
    fn descend(
        &self,
        first: FittedProbe,
        train: &FeatureBank,
        order: &mut dyn FnMut(usize) -> Vec<i64>,
        observer: &mut dyn FnMut(usize, &FittedProbe),
    ) -> Result<FittedProbe, EvalError> {
        let batch_size = self.config.batch_size;
        let n_batches = train.n_images() / batch_size;
        if n_batches == 0 {
            let (bank, n_images) = (train.name().to_owned(), train.n_images());
            return Err(EvalError::SmallerThanBatch { bank, n_images, batch_size });
        }
        let _guard = tch::no_grad_guard();
        let mut descent = Descent::new(first, &self.config);
        for epoch in 0..self.config.epochs {
            let rows = Tensor::from_slice(&order(epoch)).to_device(train.features().device());
            for batch in 0..n_batches {
                let rows = rows.narrow(0, batch * batch_size, batch_size);
                let (features, labels) =
                    (train.features().index_select(0, &rows), train.labels().index_select(0, &rows));
                descent.step(self.config.lr_of(epoch), &features, &labels);
            }
            if !descent.probe.is_finite() {
                return Err(EvalError::Diverged { epoch: epoch + 1, lr: self.config.lr });
            }
            observer(epoch + 1, &descent.probe);
        }
        Ok(descent.probe)
    }
}

/// A trained linear layer.
#[derive(Debug)]
pub struct FittedProbe {
    weight: Tensor,
    bias: Tensor,
    train: String,
    signature: String,
}

impl FittedProbe {
    /// PyTorch's initial `Linear(h, c)`, drawn on the host so that a seed means one layer on every device.
    fn first(seed: u64, train: &FeatureBank) -> Self {
        let (c, h) = (train.n_classes(), train.width());
        let mut stream = Stream::new(seed, Purpose::Order, 0, 0, LAYER_PART);
        let bound = 1.0 / (h as f64).sqrt();
        let mut draw = |count: i64| -> Vec<f64> { (0..count).map(|_| stream.uniform(-bound, bound)).collect() };
        let (weight, bias) = (Tensor::from_slice(&draw(c * h)).view([c, h]), Tensor::from_slice(&draw(c)));
        Self::from_layer(&weight, &bias, train)
    }

    /// A layer on the device and in the kind of the bank; always a copy.
    fn from_layer(weight: &Tensor, bias: &Tensor, train: &FeatureBank) -> Self {
        let alike =
            |tensor: &Tensor| tensor.copy().to_device(train.features().device()).to_kind(train.features().kind());
        let (train_name, signature) = (train.name().to_owned(), train.signature());
        Self { weight: alike(weight), bias: alike(bias), train: train_name, signature }
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
        if self.signature == bank.signature() {
            return Ok(self.logits(bank.features()));
        }
        let (train, test) = (self.train.clone(), bank.name().to_owned());
        Err(EvalError::BanksDiffer { train, test, expected: self.signature.clone(), found: bank.signature() })
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
    fn gradient(&self, features: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
        let mut residual = self.logits(features).softmax(1, None);
        let labels = labels.unsqueeze(1);
        let _ = residual.scatter_add_(1, &labels, &labels.full_like(-1.0).to_kind(residual.kind()));
        residual /= features.size()[0];
        (residual.tr().matmul(features), residual.sum_dim_intlist(0, false, None))
    }

    fn is_finite(&self) -> bool {
        (self.weight.sum(Kind::Double) + self.bias.sum(Kind::Double)).double_value(&[]).is_finite()
    }
}

/// Stochastic gradient descent with momentum and weight decay, without nesterov.
struct Descent<'a> {
    config: &'a LinearProbeConfig,
    probe: FittedProbe,
    /// Zero before the first step, which PyTorch's `buffer = gradient` equals.
    weight_buffer: Tensor,
    bias_buffer: Tensor,
}

impl<'a> Descent<'a> {
    fn new(probe: FittedProbe, config: &'a LinearProbeConfig) -> Self {
        let (weight_buffer, bias_buffer) = (probe.weight.zeros_like(), probe.bias.zeros_like());
        Self { config, probe, weight_buffer, bias_buffer }
    }

    fn step(&mut self, lr: f64, features: &Tensor, labels: &Tensor) {
        let (weight, bias) = self.probe.gradient(features, labels);
        self.config.update(lr, &mut self.probe.weight, weight, &mut self.weight_buffer);
        self.config.update(lr, &mut self.probe.bias, bias, &mut self.bias_buffer);
    }
}

impl LinearProbeConfig {
    fn update(&self, lr: f64, parameter: &mut Tensor, mut gradient: Tensor, buffer: &mut Tensor) {
        gradient += &*parameter * self.weight_decay;
        *buffer *= self.momentum;
        *buffer += gradient;
        *parameter -= &*buffer * lr;
    }
}

/// What [`best_of_rates`] found.
#[derive(Debug)]
pub struct BestOfRates {
    /// The rate that won.
    pub lr: f64,
    /// Its accuracy on the test bank.
    pub accuracy: Accuracy,
    /// Its probe.
    pub probe: FittedProbe,
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
/// [`FittedProbe::score`].
pub fn best_of_rates(
    config: &LinearProbeConfig,
    rates: &[f64],
    seed: u64,
    train: &FeatureBank,
    test: &FeatureBank,
) -> Result<BestOfRates, EvalError> {
    train.check_test(test)?;
    let mut best: Option<BestOfRates> = None;
    for &lr in rates {
        let probe = LinearProbe::new(&LinearProbeConfig { lr, ..config.clone() }, seed)?.fit(train)?;
        let accuracy = probe.score(test)?;
        if best.as_ref().is_none_or(|best| accuracy.top1 > best.accuracy.top1) {
            best = Some(BestOfRates { lr, accuracy, probe });
        }
    }
    best.ok_or(EvalError::Setting { key: "rates", expected: "at least one rate", found: "none".to_owned() })
}
