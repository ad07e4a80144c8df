//! The regularised loss of a linear layer over a whole bank, as a function of its numbers.

use tch::{Kind, Tensor};

use super::curvature::Curvature;
use super::lbfgs::{Inverse, Minimum, Stop, Value, minimise};
use super::part::{Part, Scaling};

/// Mean softmax cross-entropy of a part of a bank, plus half the penalty times the squared weights; the bias is free.
///
/// The layer is sought for features of mean 0 and mean squared length 1. That moves the optimum nowhere, since a free
/// bias takes every shift and the penalty is stated for the features as they are, and it is what makes the search short:
/// features after a ReLU share one large component.
/// The features themselves stay as they are; shift and scale are applied to the layer.
pub(super) struct SoftmaxLoss<'a> {
    part: &'a Part<'a>,
    /// Kind of the products; all sums over images are float64.
    kind: Kind,
    scaling: &'a Scaling,
    /// Penalty of the layer for scaled features, which is the penalty over the features' mean squared length.
    strength: f64,
}

/// A layer for the features as they are, float64.
#[derive(Debug)]
pub(super) struct Layer {
    /// `[c, h]`
    pub(super) weight: Tensor,
    /// `[c]`
    pub(super) bias: Tensor,
}

impl Layer {
    /// The layer of nothing known.
    pub(super) fn zero(part: &Part<'_>) -> Self {
        let options = (Kind::Double, part.bank().features().device());
        let (c, h) = (part.bank().n_classes(), part.bank().width());
        Self { weight: Tensor::zeros([c, h], options), bias: Tensor::zeros([c], options) }
    }

    /// As one vector, for scaled features.
    fn to_vector(&self, scaling: &Scaling) -> Tensor {
        let bias = &self.bias + self.weight.mv(&scaling.centre);
        Tensor::cat(&[(&self.weight * scaling.spread).flatten(0, 1), bias], 0)
    }

    fn from_vector(vector: &Tensor, scaling: &Scaling, n_classes: i64) -> Self {
        let width = scaling.centre.size()[0];
        let weight = vector.narrow(0, 0, n_classes * width).view([n_classes, width]) / scaling.spread;
        let bias = vector.narrow(0, n_classes * width, n_classes) - weight.mv(&scaling.centre);
        Self { weight, bias }
    }
}

/// A fitted layer and how the search for it went.
pub(super) struct Optimum {
    pub(super) layer: Layer,
    /// The regularised loss.
    pub(super) value: f64,
    pub(super) iterations: usize,
    pub(super) converged: bool,
}

impl<'a> SoftmaxLoss<'a> {
    pub(super) fn new(part: &'a Part<'a>, kind: Kind, scaling: &'a Scaling, strength: f64) -> Self {
        Self { part, kind, scaling, strength }
    }

    /// The best layer, sought from another one with what is known of the curvature.
    pub(super) fn minimise(&self, from: &Layer, stop: Stop, curvature: Option<&Curvature>) -> Optimum {
        let _guard = tch::no_grad_guard();
        let start = from.to_vector(self.scaling);
        let inverse = curvature.map(|known| |gradient: &Tensor| known.step_of(self.strength, gradient));
        let inverse = inverse.as_ref().map(|inverse| inverse as Inverse<'_>);
        let found = minimise(&mut |vector| self.at(vector), &start, stop, inverse);
        let Minimum { point, value, iterations, converged, .. } = found;
        let layer = Layer::from_vector(&point, self.scaling, self.part.bank().n_classes());
        Optimum { layer, value, iterations, converged }
    }

    /// Value and gradient.
    fn at(&self, vector: &Tensor) -> Value {
        let n_classes = self.part.bank().n_classes();
        let layer = Layer::from_vector(vector, self.scaling, n_classes);
        let (weight, bias) = (layer.weight.to_kind(self.kind), layer.bias.to_kind(self.kind));
        let mut sums = Sums {
            loss: Tensor::zeros([], (Kind::Double, bias.device())),
            weight: layer.weight.zeros_like(),
            bias: layer.bias.zeros_like(),
        };
        for (features, labels) in self.part.chunks(self.kind) {
            sums.add(&features, &labels, &weight, &bias);
        }
        let n = self.part.n_images() as f64;
        let scaled = vector.narrow(0, 0, layer.weight.numel() as i64).view_as(&layer.weight);
        let residual = &sums.bias / n;
        let centred = sums.weight / n - residual.outer(&self.scaling.centre);
        let weight = centred / self.scaling.spread + &scaled * self.strength;
        let penalty = 0.5 * self.strength * scaled.square().sum(None).double_value(&[]);
        Value {
            value: sums.loss.double_value(&[]) / n + penalty,
            gradient: Tensor::cat(&[weight.flatten(0, 1), residual], 0),
        }
    }
}

/// Sums over images, float64.
struct Sums {
    /// Cross-entropy.
    loss: Tensor,
    /// Its gradient `[c, h]`.
    weight: Tensor,
    /// Its gradient `[c]`.
    bias: Tensor,
}

impl Sums {
    fn add(&mut self, features: &Tensor, labels: &Tensor, weight: &Tensor, bias: &Tensor) {
        let likelihood = bias.addmm(features, &weight.tr()).log_softmax(1, None);
        let labels = labels.unsqueeze(1);
        self.loss -= likelihood.gather(1, &labels, false).sum(Kind::Double);
        let mut residual = likelihood.exp();
        let _ = residual.scatter_add_(1, &labels, &labels.full_like(-1.0).to_kind(residual.kind()));
        self.weight += residual.tr().matmul(features);
        self.bias += residual.sum_dim_intlist(0, false, Kind::Double);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{clusters, values};
    use empssl_golden::assert_close;

    fn away(part: &Part<'_>) -> Layer {
        let zero = Layer::zero(part);
        let wave = |like: &Tensor| {
            (Tensor::arange(like.numel() as i64, (Kind::Double, like.device())) * 0.7).sin().view_as(like)
        };
        Layer { weight: wave(&zero.weight), bias: wave(&zero.bias) }
    }

    #[test]
    fn value_and_gradient_are_those_of_autograd_in_either_kind() {
        let bank = clusters("train", 50, 0.8, Kind::Float);
        let part = Part::some(&bank, &(3..47).collect::<Vec<_>>());
        let scaling = Scaling::of(&part);
        for (kind, tolerance) in [(Kind::Double, 1e-13), (Kind::Float, 1e-6)] {
            let vector = away(&part).to_vector(&scaling);
            let ours = SoftmaxLoss::new(&part, kind, &scaling, 0.3).at(&vector);

            let leaf = vector.copy().set_requires_grad(true);
            let (features, labels) = part.chunks(Kind::Double).next().unwrap();
            let scaled = (features - &scaling.centre) / scaling.spread;
            let weight = leaf.narrow(0, 0, 24).view([4, 6]);
            let loss = scaled.linear(&weight, Some(leaf.narrow(0, 24, 4))).log_softmax(1, None).nll_loss(&labels);
            let loss = loss + weight.square().sum(None) * 0.15;
            loss.backward();
            assert_close("value", &[ours.value], &[loss.double_value(&[])], tolerance);
            assert_close("gradient", &values(&ours.gradient), &values(&leaf.grad()), tolerance);
        }
    }

    #[test]
    fn scaled_features_have_mean_0_and_mean_squared_length_1() {
        let bank = clusters("train", 50, 0.8, Kind::Double);
        let scaling = Scaling::of(&Part::whole(&bank));
        let scaled = (bank.features() - &scaling.centre) / scaling.spread;
        assert!(scaled.sum_dim_intlist(0, false, None).abs().max().double_value(&[]) < 1e-12);
        assert!((scaled.square().sum(None).double_value(&[]) / 50.0 - 1.0).abs() < 1e-12);
        let still = crate::testing::bank("still", &[[2.0], [2.0]], &[0, 1], 2);
        assert_eq!(Scaling::of(&Part::whole(&still)).spread, 1.0);
    }

    #[test]
    fn a_layer_and_its_vector_say_the_same() {
        let bank = clusters("train", 20, 0.8, Kind::Double);
        let part = Part::whole(&bank);
        let (scaling, layer) = (Scaling::of(&part), away(&part));
        let back = Layer::from_vector(&layer.to_vector(&scaling), &scaling, 4);
        assert_close("weight", &values(&back.weight), &values(&layer.weight), 1e-14);
        assert_close("bias", &values(&back.bias), &values(&layer.bias), 1e-14);
    }

    #[test]
    fn larger_features_of_the_same_strength_get_the_same_predictions() {
        let small = clusters("small", 40, 0.8, Kind::Double);
        let large =
            crate::features::FeatureBank::new("large", &(small.features() * 50.0 + 7.0), small.labels(), 4).unwrap();
        let logits = |bank: &crate::features::FeatureBank| {
            let part = Part::whole(bank);
            let scaling = Scaling::of(&part);
            let stop = Stop { gradient_norm: 1e-10, max_iterations: 200, noise: 1e-14 };
            let found = SoftmaxLoss::new(&part, Kind::Double, &scaling, 0.01).minimise(&Layer::zero(&part), stop, None);
            assert!(found.converged);
            values(&(bank.features().matmul(&found.layer.weight.tr()) + found.layer.bias))
        };
        assert_close("logits", &logits(&small), &logits(&large), 1e-6);
    }
}
