//! The settings of a run, and the refusal of impossible ones.

use crate::error::TrainError;
use crate::gradient::MemoryMode;

/// The settings of a run that the loop itself needs.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// n, patches per image.
    pub n_patches: usize,
    /// b, images per step.
    pub batch_size: usize,
    /// How long the run is.
    pub length: Length,
    /// The learning rate of the first step.
    pub lr: f64,
    /// Steps over which the cosine falls to 0; `None` is the whole run (arXiv 2304.03977; tsb0601/EMP-SSL
    /// `main.py:134` counts 500 steps an epoch whatever the data set, which is right for CIFAR only).
    pub t_max: Option<u64>,
    /// What a step keeps in memory.
    pub memory: MemoryMode,
    /// Lets float32 products of the network run on tensor cores with the 10-bit mantissa of TF32, where there are such;
    /// the objective and the optimizer stay in float32, and a CPU computes as without.
    pub tf32: bool,
    /// The run's seed; it decides order and patches here, and the caller draws the initial weights with it.
    pub seed: u64,
    /// Ends the run after this many steps, for trials; the schedule stays that of the full run.
    pub max_steps: Option<u64>,
    /// Reads the metrics from the device every so many steps (and at the first and the last).
    pub log_every: u64,
    /// Writes the checkpoint every so many steps, besides at the end; `None` writes it only there.
    pub checkpoint_every: Option<u64>,
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    /// So many passes over the data set.
    Epochs(u64),
    /// So many steps, whatever the size of the data set.
    Steps(u64),
}

impl Length {
    /// Steps in all, for a data set with so many steps an epoch.
    pub(crate) fn steps(self, steps_per_epoch: u64) -> u64 {
        match self {
            Self::Epochs(epochs) => epochs * steps_per_epoch,
            Self::Steps(steps) => steps,
        }
    }
}

impl TrainConfig {
    /// Full batches in one pass over `n_images`.
    pub(crate) fn steps_per_epoch(&self, n_images: usize) -> u64 {
        (n_images / self.batch_size) as u64
    }

    /// Refuses impossible settings, by name.
    pub(crate) fn check(&self, n_images: usize) -> Result<(), TrainError> {
        let (n, b) = (self.n_patches, self.batch_size);
        TrainError::check(n >= 1, "n_patches", "at least 1", n)?;
        TrainError::check(b >= 1, "batch_size", "at least 1", b)?;
        let normalisable =
            "such that n_patches x batch_size is at least 2, or batch normalisation has nothing to normalise";
        TrainError::check(n * b >= 2, "batch_size", normalisable, b)?;
        self.memory.check(n, b)?;
        let filled = "at most the number of images, or not one batch is full";
        TrainError::check(b <= n_images, "batch_size", filled, format!("{b} with {n_images} images"))?;
        TrainError::check(self.length.steps(1) >= 1, "length", "at least one epoch or step", 0)?;
        TrainError::check(self.lr > 0.0 && self.lr.is_finite(), "lr", "positive and finite", self.lr)?;
        TrainError::check(self.t_max != Some(0), "t_max", "at least one step", 0)?;
        TrainError::check(self.max_steps != Some(0), "max_steps", "at least 1", 0)?;
        TrainError::check(self.log_every >= 1, "log_every", "at least 1", 0)?;
        TrainError::check(self.checkpoint_every != Some(0), "checkpoint_every", "at least 1", 0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Held while weights are drawn: libtorch's generator is shared by all tests that run at this moment.
    pub(crate) static DRAWING: Mutex<()> = Mutex::new(());

    /// Settings of a run of six steps.
    pub(crate) fn config() -> TrainConfig {
        TrainConfig {
            n_patches: 2,
            batch_size: 4,
            length: Length::Epochs(2),
            lr: 0.1,
            t_max: None,
            memory: MemoryMode::Whole,
            tf32: false,
            seed: 7,
            max_steps: None,
            log_every: 2,
            checkpoint_every: None,
        }
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        type Spoil = fn(&mut TrainConfig);
        let refusals: [(&str, Spoil); 13] = [
            ("n_patches", |c| c.n_patches = 0),
            ("batch_size", |c| c.batch_size = 0),
            ("batch_size", |c| (c.n_patches, c.batch_size) = (1, 1)),
            ("memory.by-patches", |c| c.memory = MemoryMode::ByPatches(0)),
            ("memory.by-patches", |c| (c.n_patches, c.memory) = (6, MemoryMode::ByPatches(4))),
            ("memory.by-patches", |c| (c.batch_size, c.memory) = (1, MemoryMode::ByPatches(1))),
            ("batch_size", |c| c.batch_size = 15),
            ("length", |c| c.length = Length::Steps(0)),
            ("lr", |c| c.lr = f64::NAN),
            ("t_max", |c| c.t_max = Some(0)),
            ("max_steps", |c| c.max_steps = Some(0)),
            ("log_every", |c| c.log_every = 0),
            ("checkpoint_every", |c| c.checkpoint_every = Some(0)),
        ];
        assert!(config().check(14).is_ok());
        for (key, spoil) in refusals {
            let mut config = config();
            spoil(&mut config);
            let error = config.check(14).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{key}` must be")), "{error}");
        }
    }
}
