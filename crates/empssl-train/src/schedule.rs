//! Learning-rate schedules: pure functions of the step, so that resuming needs nothing but the step's number.

use std::f64::consts::PI;

use crate::error::TrainError;

/// Cosine annealing from `base_lr` to zero over `t_max` steps, without warm-up (tsb0601/EMP-SSL `main.py:134-136`).
///
/// The rate is `base_lr / 2 * (1 + cos(pi * step / t_max))`, the closed form of what PyTorch's `CosineAnnealingLR`
/// computes recursively.
/// Like PyTorch's it is periodic: steps past `t_max` climb back to `base_lr`, which is reached again at `2 * t_max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineSchedule {
    base_lr: f64,
    t_max: u64,
}

impl CosineSchedule {
    /// Checks the rate of the first step and the number of steps until the rate is zero.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when `base_lr` is not positive and finite, or `t_max` is zero.
    pub fn new(base_lr: f64, t_max: u64) -> Result<Self, TrainError> {
        let positive = base_lr > 0.0 && base_lr.is_finite();
        TrainError::check(positive, "lr", "positive and finite", base_lr)?;
        TrainError::check(t_max > 0, "t_max", "at least one step", t_max)?;
        Ok(Self { base_lr, t_max })
    }

    /// The rate to use in `step`, counted from zero.
    pub fn lr(&self, step: u64) -> f64 {
        let period = u128::from(self.t_max) * 2;
        let phase = u128::from(step) % period;
        // Falling and rising half mirror each other; folding keeps the zero at `t_max` exact and far steps precise.
        let distance = phase.min(period - phase);
        self.base_lr / 2.0 * (1.0 + (PI * distance as f64 / self.t_max as f64).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use empssl_golden::{Family, assert_close};

    fn rates(schedule: &CosineSchedule, steps: impl Iterator<Item = u64>) -> Vec<f64> {
        steps.map(|step| schedule.lr(step)).collect()
    }

    #[test]
    fn golden_schedule_follows_pytorch_past_the_end() {
        let Some(family) = Family::open("lars") else { return };
        for case in family.cases() {
            let (base_lr, t_max) = (case["lr"].as_f64().unwrap(), case["T_max"].as_u64().unwrap());
            let schedule = CosineSchedule::new(base_lr, t_max).unwrap();
            let steps = case["steps"].as_u64().unwrap();
            for (list, first) in [("lr_used_in_step", 0), ("lr_after_step", 1)] {
                let truth: Vec<f64> = case[list].as_array().unwrap().iter().map(|lr| lr.as_f64().unwrap()).collect();
                let ours = rates(&schedule, first..first + steps);
                let tolerance = case["tolerance_lr_abs"].as_f64().unwrap();
                assert_close(&format!("{}: {list}", case["name"]), &ours, &truth, tolerance);
            }
        }
    }

    #[test]
    fn falls_from_the_base_rate_to_exactly_zero_and_returns() {
        let schedule = CosineSchedule::new(0.3, 500).unwrap();
        assert_eq!(rates(&schedule, [0, 250, 500, 1000].into_iter()), [0.3, 0.15, 0.0, 0.3]);
        assert!((1..=500).all(|step| schedule.lr(step) < schedule.lr(step - 1)));
        assert!((501..=1000).all(|step| schedule.lr(step) > schedule.lr(step - 1)));
    }

    #[test]
    fn a_step_far_past_the_end_is_as_exact_as_the_first_period() {
        let schedule = CosineSchedule::new(0.3, 500).unwrap();
        assert_eq!(schedule.lr(1_000_000_000_000_123), schedule.lr(123));
        assert!(CosineSchedule::new(0.3, u64::MAX).unwrap().lr(u64::MAX) == 0.0);
    }

    #[test]
    fn refuses_rates_and_lengths_without_meaning() {
        for base_lr in [f64::NAN, 0.0, -0.3, f64::INFINITY] {
            let message = CosineSchedule::new(base_lr, 10).unwrap_err().to_string();
            assert_eq!(message, format!("`lr` must be positive and finite, found {base_lr}"));
        }
        let message = CosineSchedule::new(0.3, 0).unwrap_err().to_string();
        assert_eq!(message, "`t_max` must be at least one step, found 0");
    }
}
