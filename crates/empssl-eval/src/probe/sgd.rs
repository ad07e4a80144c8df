//! The published probe: softmax regression by stochastic gradient descent at one setting.

use std::f64::consts::PI;

use empssl_data::rng::{Purpose, Stream};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::ORDER_PART;
use super::layer::FittedProbe;
use crate::error::EvalError;
use crate::features::FeatureBank;
use crate::metrics::Accuracy;

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

    /// The rate of `epoch`, counted from 0: a cosine from `lr` to 0.
    fn lr_of(&self, epoch: usize) -> f64 {
        self.lr * ((1.0 + (PI * epoch as f64 / self.epochs as f64).cos()) / 2.0)
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
        train.signature().check(test)?;
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
        let first = FittedProbe::first(self.seed, train);
        self.descend(first, train, &mut |epoch| self.order(train.n_images(), epoch), observer)
    }

    /// The numbers below `n_rows` in the random order of an epoch.
    fn order(&self, n_rows: i64, epoch: usize) -> Vec<i64> {
        let mut rows: Vec<i64> = (0..n_rows).collect();
        Stream::new(self.seed, Purpose::Order, epoch as u64, 0, ORDER_PART).shuffle(&mut rows);
        rows
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
        let _threads = Threads::for_step(batch_size * train.width() * train.n_classes());
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
        update(self.config, lr, &mut self.probe.weight, weight, &mut self.weight_buffer);
        update(self.config, lr, &mut self.probe.bias, bias, &mut self.bias_buffer);
    }
}

fn update(config: &LinearProbeConfig, lr: f64, parameter: &mut Tensor, mut gradient: Tensor, buffer: &mut Tensor) {
    gradient += &*parameter * config.weight_decay;
    *buffer *= config.momentum;
    *buffer += gradient;
    *parameter -= &*buffer * lr;
}

/// Products in one step up to which a single thread computes it: ten classes of 4096 features in batches of 100 count
/// as small, a hundred such classes do not.
const SMALL_STEP: i64 = 1 << 23;

/// Holds libtorch to one thread during small steps, until it is dropped.
///
/// A small step is a dozen operations of some ten microseconds. Sharing each between two free cores saves little, and
/// when another program keeps a core busy, every operation waits for that core's turn: seconds become minutes.
struct Threads {
    n_threads_before: i32,
}

impl Threads {
    /// For steps of so many products, images times features times outputs.
    fn for_step(n_products: i64) -> Self {
        let n_threads_before = tch::get_num_threads();
        if n_products <= SMALL_STEP {
            tch::set_num_threads(1);
        }
        Self { n_threads_before }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        tch::set_num_threads(self.n_threads_before);
    }
}

#[cfg(test)]
mod tests;
