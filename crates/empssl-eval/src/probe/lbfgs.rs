//! Minimising a smooth function of many numbers: L-BFGS with a line search for the strong Wolfe conditions.
//!
//! Nocedal and Wright, "Numerical Optimization" (2nd edition): algorithm 7.4 for the direction, 3.5 and 3.6 for the step.
//! Points, gradients and everything computed of them are float64.

use std::collections::VecDeque;

use tch::Tensor;

/// Pairs of steps and changes of the gradient that a direction is made of.
const MEMORY: usize = 10;
/// How much of what the slope promises a step must gain.
const SUFFICIENT: f64 = 1e-4;
/// What a step must leave of the slope at most.
const FLATTER: f64 = 0.9;
/// Evaluations of one line search.
const MOST_TRIALS: usize = 30;

/// A function's value and gradient.
pub(super) struct Value {
    pub(super) value: f64,
    /// Of the size of the point.
    pub(super) gradient: Tensor,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// 2-norm of the gradient at which a point counts as the minimum.
    pub(super) gradient_norm: f64,
    pub(super) max_iterations: usize,
    /// Relative error of the function's values: differences below it mean nothing.
    pub(super) noise: f64,
}

/// Where the search ended.
pub(super) struct Minimum {
    pub(super) point: Tensor,
    pub(super) value: f64,
    pub(super) iterations: usize,
    /// Whether the gradient is as small as was asked for.
    pub(super) converged: bool,
}

/// What is known of the function's curvature beforehand: takes a gradient to the step that would undo it.
///
/// Linear, symmetric and positive definite; its scale does not matter once a step was made.
pub(super) type Inverse<'a> = &'a dyn Fn(&Tensor) -> Tensor;

/// Searches from `start`, a vector of float64, until the gradient is small, the iterations are used up, or rounding hides
/// every further improvement.
pub(super) fn minimise(
    function: &mut dyn FnMut(&Tensor) -> Value,
    start: &Tensor,
    stop: Stop,
    inverse: Option<Inverse<'_>>,
) -> Minimum {
    let mut here = Trial::at(function, start.copy());
    let (mut memory, mut iterations) = (Memory::default(), 0);
    while here.norm() > stop.gradient_norm && iterations < stop.max_iterations {
        iterations += 1;
        let direction = memory.direction(&here.gradient, inverse);
        let first = if memory.is_empty() && inverse.is_none() { 1.0 / here.norm().max(1.0) } else { 1.0 };
        let search = &mut Line { function, origin: &here, direction: &direction, noise: stop.noise };
        match search.step(first) {
            Some(next) => {
                memory.learn(&next.point - &here.point, &next.gradient - &here.gradient);
                here = next;
            }
            // A direction may be spoilt by rounding; steepest descent is tried once before giving up.
            None if !memory.is_empty() => memory = Memory::default(),
            None => break,
        }
    }
    let converged = here.norm() <= stop.gradient_norm;
    Minimum { value: here.value, iterations, converged, point: here.point }
}

/// A point that was evaluated; on a line also where, and how steep it is there.
struct Trial {
    point: Tensor,
    value: f64,
    gradient: Tensor,
    step: f64,
    slope: f64,
}

impl Trial {
    fn at(function: &mut dyn FnMut(&Tensor) -> Value, point: Tensor) -> Self {
        let Value { value, gradient } = function(&point);
        Self { point, value, gradient, step: 0.0, slope: f64::NAN }
    }

    fn norm(&self) -> f64 {
        dot(&self.gradient, &self.gradient).sqrt()
    }
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.dot(b).double_value(&[])
}

/// What the last steps told about the curvature.
#[derive(Default)]
struct Memory {
    pairs: VecDeque<Pair>,
}

struct Pair {
    step: Tensor,
    change: Tensor,
    /// Their product.
    curvature: f64,
}

impl Memory {
    fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn learn(&mut self, step: Tensor, change: Tensor) {
        let curvature = dot(&step, &change);
        // A step without positive curvature says nothing about a minimum.
        if curvature <= f64::EPSILON * dot(&change, &change) {
            return;
        }
        if self.pairs.len() == MEMORY {
            self.pairs.pop_front();
        }
        self.pairs.push_back(Pair { step, change, curvature });
    }

    /// Minus the gradient, stretched by what is known of the curvature and by what was learnt of it.
    fn direction(&self, gradient: &Tensor, inverse: Option<Inverse<'_>>) -> Tensor {
        let known = |vector: &Tensor| inverse.map_or_else(|| vector.shallow_clone(), |inverse| inverse(vector));
        let mut direction = -gradient;
        let mut shares = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let share = dot(&pair.step, &direction) / pair.curvature;
            direction -= &pair.change * share;
            shares.push(share);
        }
        let mut direction = known(&direction);
        if let Some(last) = self.pairs.back() {
            direction *= last.curvature / dot(&last.change, &known(&last.change));
        }
        for (pair, share) in self.pairs.iter().zip(shares.into_iter().rev()) {
            let correction = dot(&pair.change, &direction) / pair.curvature;
            direction += &pair.step * (share - correction);
        }
        direction
    }
}

/// The function along a direction.
struct Line<'a> {
    function: &'a mut dyn FnMut(&Tensor) -> Value,
    origin: &'a Trial,
    direction: &'a Tensor,
    noise: f64,
}

impl Line<'_> {
    /// A step that satisfies the strong Wolfe conditions, `first` if it does; none when rounding hides every gain.
    fn step(&mut self, first: f64) -> Option<Trial> {
        let slope = dot(&self.origin.gradient, self.direction);
        if slope >= 0.0 || slope.is_nan() {
            return None;
        }
        let mut low = End { step: 0.0, value: self.origin.value, slope };
        let mut step = first;
        for _ in 0..MOST_TRIALS {
            let trial = self.trial(step);
            if !self.gains(&trial, slope) || trial.value > low.value + self.margin() {
                return self.narrow(low, End::of(&trial), slope);
            }
            if trial.slope.abs() <= -FLATTER * slope {
                return Some(trial);
            }
            if trial.slope >= 0.0 {
                return self.narrow(End::of(&trial), low, slope);
            }
            low = End::of(&trial);
            step *= 2.0;
        }
        None
    }

    /// Narrows an interval that holds a step of the wanted kind: `low` gains and points into it.
    fn narrow(&mut self, mut low: End, mut high: End, slope: f64) -> Option<Trial> {
        for _ in 0..MOST_TRIALS {
            let trial = self.trial(low.towards(&high));
            if !self.gains(&trial, slope) || trial.value > low.value + self.margin() {
                high = End::of(&trial);
                continue;
            }
            if trial.slope.abs() <= -FLATTER * slope {
                return Some(trial);
            }
            if trial.slope * (high.step - low.step) >= 0.0 {
                high = low;
            }
            low = End::of(&trial);
        }
        None
    }

    fn trial(&mut self, step: f64) -> Trial {
        let mut trial = Trial::at(self.function, &self.origin.point + self.direction * step);
        (trial.step, trial.slope) = (step, dot(&trial.gradient, self.direction));
        trial
    }

    /// Whether a trial gains what the slope promises; NaN does not.
    fn gains(&self, trial: &Trial, slope: f64) -> bool {
        trial.value <= self.origin.value + SUFFICIENT * trial.step * slope + self.margin()
    }

    fn margin(&self) -> f64 {
        self.noise * self.origin.value.abs()
    }
}

/// An end of an interval of steps.
#[derive(Clone, Copy)]
struct End {
    step: f64,
    value: f64,
    slope: f64,
}

impl End {
    fn of(trial: &Trial) -> Self {
        Self { step: trial.step, value: trial.value, slope: trial.slope }
    }

    /// The minimum of the cubic through both ends, kept away from them; the middle where there is none.
    fn towards(&self, other: &Self) -> f64 {
        let width = other.step - self.step;
        let chord = 3.0 * (other.value - self.value) / width;
        let theta = self.slope + other.slope - chord;
        let root = (theta * theta - self.slope * other.slope).sqrt() * width.signum();
        let share = 1.0 - (other.slope + root - theta) / (other.slope - self.slope + 2.0 * root);
        let share = if share.is_finite() { share.clamp(0.1, 0.9) } else { 0.5 };
        self.step + share * width
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;
    use empssl_golden::assert_close;
    use tch::{Device, Kind};

    fn stop(gradient_norm: f64, max_iterations: usize) -> Stop {
        Stop { gradient_norm, max_iterations, noise: 1e-14 }
    }

    /// Rosenbrock's valley in pairs of numbers, the minimum 0 at ones.
    fn valley(point: &Tensor) -> Value {
        let numbers = values(point);
        let mut gradient = vec![0.0; numbers.len()];
        let mut value = 0.0;
        for (pair, slopes) in numbers.chunks(2).zip(gradient.chunks_mut(2)) {
            let (x, off) = (pair[0], pair[1] - pair[0] * pair[0]);
            value += 100.0 * off * off + (1.0 - x) * (1.0 - x);
            slopes[0] = -400.0 * x * off - 2.0 * (1.0 - x);
            slopes[1] = 200.0 * off;
        }
        Value { value, gradient: Tensor::from_slice(&gradient) }
    }

    #[test]
    fn a_curved_valley_is_followed_to_its_end() {
        let start = Tensor::from_slice(&[-1.2, 1.0, 3.0, -4.0, 0.0, 0.0]);
        let minimum = minimise(&mut valley, &start, stop(1e-9, 500), None);
        assert!(minimum.converged && minimum.iterations < 120, "{} iterations", minimum.iterations);
        assert_close("minimum", &values(&minimum.point), &[1.0; 6], 1e-9);
        assert!(minimum.value < 1e-18);
        assert_eq!(values(&start)[0], -1.2, "the start was moved");
    }

    #[test]
    fn a_quadratic_takes_about_as_many_steps_as_it_has_scales() {
        let scales = Tensor::from_slice(&[1.0, 10.0, 100.0, 1e4]);
        let mut bowl = |point: &Tensor| {
            let gradient = point * &scales;
            Value { value: 0.5 * dot(point, &gradient), gradient }
        };
        let minimum = minimise(&mut bowl, &Tensor::ones([4], (Kind::Double, Device::Cpu)), stop(1e-10, 100), None);
        assert!(minimum.converged && minimum.iterations < 40, "{} iterations", minimum.iterations);
        assert_close("minimum", &values(&minimum.point), &[0.0; 4], 1e-10);
    }

    #[test]
    fn every_accepted_step_satisfies_the_strong_wolfe_conditions() {
        let start = Trial::at(&mut valley, Tensor::from_slice(&[-1.2, 1.0]));
        let direction = -&start.gradient;
        let slope = dot(&start.gradient, &direction);
        for first in [1e-6, 1e-3, 1.0, 1e3] {
            let mut line = Line { function: &mut valley, origin: &start, direction: &direction, noise: 0.0 };
            let step = line.step(first).unwrap();
            assert!(step.value <= start.value + SUFFICIENT * step.step * slope, "first {first}");
            assert!(step.slope.abs() <= FLATTER * slope.abs(), "first {first}");
        }
    }

    #[test]
    fn an_overflow_on_the_way_only_shortens_the_step() {
        // Infinite beyond 2, so that the doubled first steps run into it.
        let mut wall = |point: &Tensor| {
            let x = point.double_value(&[0]);
            let value = if x > 2.0 { f64::NAN } else { x - 2.0 * (x + 1e-3).ln() };
            Value { value, gradient: Tensor::from_slice(&[1.0 - 2.0 / (x + 1e-3)]) }
        };
        let minimum = minimise(&mut wall, &Tensor::from_slice(&[0.01]), stop(1e-9, 100), None);
        assert!(minimum.converged);
        assert_close("minimum", &values(&minimum.point), &[1.999], 1e-8);
    }

    #[test]
    fn it_ends_when_there_is_nothing_to_gain_or_no_iteration_left() {
        let flat = &mut |point: &Tensor| Value { value: 1.0, gradient: point.zeros_like() };
        let minimum = minimise(flat, &Tensor::from_slice(&[3.0]), stop(0.0, 10), None);
        assert!(minimum.converged && minimum.iterations == 0);
        let lying = &mut |point: &Tensor| Value { value: 1.0, gradient: point.ones_like() };
        let minimum = minimise(lying, &Tensor::from_slice(&[3.0]), stop(1e-9, 10), None);
        assert!(!minimum.converged && minimum.iterations <= 2);
        let minimum = minimise(&mut valley, &Tensor::from_slice(&[-1.2, 1.0]), stop(1e-9, 3), None);
        assert!(!minimum.converged && minimum.iterations == 3);
    }
}
