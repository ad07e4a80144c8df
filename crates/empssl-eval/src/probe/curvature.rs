//! What is known of the softmax loss's curvature before its optimum is sought.
//!
//! The loss is as curved along an axis of the features as they vary along it. Features of a network vary a thousand
//! times more along some axes than along others, so a search that knows nothing of them takes hundreds of steps; one
//! that begins with the principal axes takes tens.

use tch::{Device, Kind, Tensor};

use super::part::{Part, Scaling};

/// Most numbers of a feature whose axes are sought: their matrix has the square of it, and finding them takes the cube.
const WIDEST: i64 = 4096;

/// The principal axes of scaled features.
#[derive(Debug)]
pub(super) struct Curvature {
    /// `[h, h]`, an axis a column, of the kind that products are computed in.
    axes: Tensor,
    /// Along each axis, `[h]`, float64.
    variances: Tensor,
    n_classes: i64,
}

impl Curvature {
    /// None where the axes cost more than they spare: of fewer images than numbers, or of very many numbers.
    pub(super) fn of(part: &Part<'_>, scaling: &Scaling, kind: Kind) -> Option<Self> {
        let width = part.bank().width();
        if width > WIDEST || part.n_images() < width {
            return None;
        }
        let _guard = tch::no_grad_guard();
        let centre = scaling.centre.to_kind(kind);
        let products = part.chunks(kind).map(|(features, _)| {
            let centred = (features - &centre) / scaling.spread;
            centred.tr().matmul(&centred).to_kind(Kind::Double)
        });
        let covariance = products.reduce(|sum, next| sum + next)? / part.n_images() as f64;
        // On the processor wherever the features are: it needs no other library of the device.
        // Without the axes the search finds the same optimum, only later.
        let (variances, axes) = covariance.to_device(Device::Cpu).f_linalg_eigh("L").ok()?;
        let device = covariance.device();
        let variances = variances.clamp_min(0.0).to_device(device);
        Some(Self { axes: axes.to_kind(kind).to_device(device), variances, n_classes: part.bank().n_classes() })
    }

    /// Takes a gradient `[c * h + c]` at some layer to nearly the step from it to the optimum at a penalty.
    ///
    /// Exactly that step at the layer of nothing known, but for what classes share: there the probability p of each of c
    /// classes is 1/c, and the curvature p(1 - p) times the variance, plus the penalty.
    pub(super) fn step_of(&self, strength: f64, gradient: &Tensor) -> Tensor {
        let (c, width) = (self.n_classes, self.variances.size()[0]);
        let flatter = c as f64;
        let weight = gradient.narrow(0, 0, c * width).view([c, width]).to_kind(self.axes.kind());
        let stretch = (&self.variances / flatter + strength.max(f64::EPSILON)).reciprocal().to_kind(self.axes.kind());
        let weight = (weight.matmul(&self.axes) * stretch).matmul(&self.axes.tr()).to_kind(Kind::Double);
        Tensor::cat(&[weight.flatten(0, 1), gradient.narrow(0, c * width, c) * flatter], 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::FeatureBank;
    use crate::testing::{clusters, values};
    use empssl_golden::assert_close;

    #[test]
    fn at_the_penalty_it_undoes_the_curvature_of_the_scaled_features() {
        let bank = clusters("train", 60, 0.8, Kind::Double);
        let part = Part::whole(&bank);
        let scaling = Scaling::of(&part);
        let curvature = Curvature::of(&part, &scaling, Kind::Double).unwrap();
        let scaled = (bank.features() - &scaling.centre) / scaling.spread;
        let (c, h, strength) = (4, 6, 0.03);
        let identity = Tensor::eye(h, (Kind::Double, Device::Cpu));
        let hessian = scaled.tr().matmul(&scaled) / 60.0 / c as f64 + identity * strength;
        let step = (Tensor::arange(c * h + c, (Kind::Double, Device::Cpu)) * 0.7).sin();
        let weight = step.narrow(0, 0, c * h).view([c, h]).matmul(&hessian);
        let gradient = Tensor::cat(&[weight.flatten(0, 1), step.narrow(0, c * h, c) / c as f64], 0);
        assert_close("step", &values(&curvature.step_of(strength, &gradient)), &values(&step), 1e-12);
    }

    #[test]
    fn axes_are_not_sought_where_images_are_fewer_than_numbers() {
        let bank = clusters("train", 60, 0.8, Kind::Float);
        let of = |rows: i64| {
            let part = Part::some(&bank, &(0..rows).collect::<Vec<_>>());
            Curvature::of(&part, &Scaling::of(&part), Kind::Float)
        };
        assert!(of(5).is_none() && of(6).is_some());
    }

    #[test]
    fn features_along_one_line_and_no_penalty_give_finite_steps() {
        let line = Tensor::arange(8, (Kind::Double, Device::Cpu)).unsqueeze(1) * Tensor::from_slice(&[1.0, 2.0]);
        let bank = FeatureBank::new("line", &line, &Tensor::from_slice(&[0i64, 1, 0, 1, 0, 1, 0, 1]), 2).unwrap();
        let part = Part::whole(&bank);
        let curvature = Curvature::of(&part, &Scaling::of(&part), Kind::Double).unwrap();
        let step = curvature.step_of(0.0, &Tensor::ones([6], (Kind::Double, Device::Cpu)));
        assert!(values(&step).iter().all(|number| number.is_finite()));
    }
}
