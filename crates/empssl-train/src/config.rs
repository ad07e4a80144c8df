//! The settings of a run, and the refusal of impossible ones.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

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
    /// the objective and the optimizer stay in float32, and a CPU computes as without. Where this is false the process's
    /// switches stay as they are; libtorch leaves cuDNN's on, so call `empssl_torch::precision::set_tf32(false)` first.
    pub tf32: bool,
    /// The run's seed; it decides order and patches here, and the caller draws the initial weights with it.
    pub seed: u64,
    /// Ends the run after this many steps, for trials; the schedule stays that of the full run.
    pub max_steps: Option<u64>,
    /// Reads the metrics from the device every so many steps (and at the first and the last).
    pub log_every: u64,
    /// How often the checkpoint is written, besides at the end; `None` writes it only there.
    pub checkpoint_every: Option<CheckpointEvery>,
    /// Epochs, counted from 1, after which a checkpoint is kept for good.
    pub snapshot_epochs: Vec<u64>,
}

/// What a step keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryMode {
    /// Everything: the fastest.
    Whole,
    /// One stage of the network at a time, for one more forward pass of all but the last. Same gradient as
    /// [`Self::Whole`].
    ByStage,
    /// So many patches of every image at a time, for one more forward pass. BatchNorm sees only these.
    ByPatches(usize),
}

impl MemoryMode {
    /// Patches of each image that BatchNorm sees at once, of n in a step.
    pub fn patches_at_once(self, n: usize) -> usize {
        if let Self::ByPatches(part) = self { part } else { n }
    }

    /// Every mode that a step of n patches of b images can take, the one that needs most memory first.
    pub fn all(n: usize, b: usize) -> impl Iterator<Item = Self> {
        let by_patches = (1..n).rev().map(Self::ByPatches).filter(move |mode| mode.check(n, b).is_ok());
        [Self::Whole, Self::ByStage].into_iter().chain(by_patches)
    }

    /// Refuses parts that do not fit a step of n patches of b images.
    fn check(self, n: usize, b: usize) -> Result<(), TrainError> {
        let Self::ByPatches(part) = self else { return Ok(()) };
        let even = "a divisor of n_patches, so that all parts are alike";
        TrainError::check(part >= 1 && n.is_multiple_of(part), "memory.by-patches", even, part)?;
        let normalisable =
            "such that a part has at least 2 patches in all, or batch normalisation has nothing to normalise";
        TrainError::check(part * b >= 2, "memory.by-patches", normalisable, part)
    }
}

/// As a recipe spells it.
impl fmt::Display for MemoryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("\"whole\""),
            Self::ByStage => f.write_str("\"by-stage\""),
            Self::ByPatches(part) => write!(f, "{{ by-patches = {part} }}"),
        }
    }
}

/// Which patches BatchNorm looks at where several processes share a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchNormOver {
    /// Those of all ranks: the same training whatever their number.
    #[default]
    Global,
    /// Those of its own rank, as the reference does on several GPUs: cheaper, and another training for every number of
    /// ranks. The running statistics are the mean of the ranks'.
    PerRank,
}

/// As a recipe spells it.
impl fmt::Display for BatchNormOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Global { "global" } else { "per-rank" })
    }
}

/// How often a checkpoint is written. It changes no bit of the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointEvery {
    /// After so many steps; written `200`.
    Steps(u64),
    /// After the step in which so much time has passed since the last one; written `10min`.
    Time(Duration),
}

impl FromStr for CheckpointEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let every = match text.strip_suffix("min") {
            Some(minutes) => {
                let seconds = minutes.trim().parse::<f64>().ok().map(|minutes| minutes * 60.0);
                let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                time.filter(|time| !time.is_zero()).map(Self::Time)
            }
            None => text.trim().parse().ok().filter(|&steps| steps > 0).map(Self::Steps),
        };
        every.ok_or_else(|| "give a number of steps, as 200, or of minutes, as 10min, above 0".to_owned())
    }
}

impl fmt::Display for CheckpointEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Time(time) => write!(f, "{}min", time.as_secs_f64() / 60.0),
        }
    }
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
            Self::Epochs(epochs) => epochs.saturating_mul(steps_per_epoch),
            Self::Steps(steps) => steps,
        }
    }
}

impl TrainConfig {
    /// Full batches in one pass over `n_images`.
    pub(crate) fn steps_per_epoch(&self, n_images: usize) -> u64 {
        (n_images / self.batch_size) as u64
    }

    /// Refuses settings that are impossible with any images, by name.
    ///
    /// # Errors
    /// [`TrainError::Setting`], which names the first.
    pub fn check(&self) -> Result<(), TrainError> {
        let (n, b) = (self.n_patches, self.batch_size);
        TrainError::check(n >= 1, "n_patches", "at least 1", n)?;
        TrainError::check(b >= 1, "batch_size", "at least 1", b)?;
        let normalisable =
            "such that n_patches x batch_size is at least 2, or batch normalisation has nothing to normalise";
        TrainError::check(n.saturating_mul(b) >= 2, "batch_size", normalisable, b)?;
        self.memory.check(n, b)?;
        TrainError::check(self.length.steps(1) >= 1, "length", "at least one epoch or step", 0)?;
        TrainError::check(self.lr > 0.0 && self.lr.is_finite(), "lr", "positive and finite", self.lr)?;
        TrainError::check(self.t_max != Some(0), "t_max", "at least one step", 0)?;
        TrainError::check(self.max_steps != Some(0), "max_steps", "at least 1", 0)?;
        TrainError::check(self.log_every >= 1, "log_every", "at least 1", 0)?;
        let saves = !matches!(self.checkpoint_every, Some(CheckpointEvery::Steps(0)));
        TrainError::check(saves, "checkpoint_every", "at least 1", 0)?;
        let epochs = &self.snapshot_epochs;
        let rising = epochs.windows(2).all(|pair| pair[0] < pair[1]) && !epochs.contains(&0);
        let expected = "rising numbers of epochs, the first at least 1";
        TrainError::check(rising, "snapshot_epochs", expected, format!("{epochs:?}"))?;
        match self.length {
            Length::Epochs(last) => self.check_snapshots(last),
            Length::Steps(_) => Ok(()),
        }
    }

    /// Refuses settings that are impossible with so many images, by name.
    ///
    /// # Errors
    /// [`TrainError::Setting`], which names the first.
    pub fn check_images(&self, n_images: usize) -> Result<(), TrainError> {
        let (b, steps_per_epoch) = (self.batch_size, self.steps_per_epoch(n_images));
        let filled = "at most the number of images, or not one batch is full";
        TrainError::check(steps_per_epoch >= 1, "batch_size", filled, format!("{b} with {n_images} images"))?;
        self.check_snapshots(self.length.steps(steps_per_epoch) / steps_per_epoch)
    }

    /// Refuses settings that so many processes cannot share.
    pub(crate) fn check_ranks(&self, world: usize, norms: BatchNormOver) -> Result<(), TrainError> {
        let b = self.batch_size;
        let found = || format!("{b} with {world} ranks");
        TrainError::check(b.is_multiple_of(world), "batch_size", "a multiple of the number of ranks", found())?;
        let at_once = self.memory.patches_at_once(self.n_patches) * b / world;
        let normalisable = "such that every rank has at least 2 patches at once where batch_norm is per-rank, or it has \
                            nothing to normalise";
        TrainError::check(norms == BatchNormOver::Global || at_once >= 2, "batch_size", normalisable, found())
    }

    fn check_snapshots(&self, last: u64) -> Result<(), TrainError> {
        let epochs = &self.snapshot_epochs;
        let found = format!("{epochs:?} in a run of {last} full epochs");
        let reached = epochs.iter().all(|&epoch| epoch <= last);
        TrainError::check(reached, "snapshot_epochs", "epochs that the run completes", found)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

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
            snapshot_epochs: Vec::new(),
        }
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        type Spoil = fn(&mut TrainConfig);
        let refusals: [(&str, Spoil); 17] = [
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
            ("checkpoint_every", |c| c.checkpoint_every = Some(CheckpointEvery::Steps(0))),
            ("snapshot_epochs", |c| c.snapshot_epochs = vec![0, 1]),
            ("snapshot_epochs", |c| c.snapshot_epochs = vec![2, 1]),
            ("snapshot_epochs", |c| c.snapshot_epochs = vec![1, 3]),
            ("snapshot_epochs", |c| (c.length, c.snapshot_epochs) = (Length::Steps(4), vec![2])),
        ];
        let check = |config: &TrainConfig| config.check().and_then(|()| config.check_images(14));
        assert!(check(&config()).is_ok());
        for (key, spoil) in refusals {
            let mut config = config();
            spoil(&mut config);
            let error = check(&config).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{key}` must be")), "{error}");
        }
    }

    #[test]
    fn batches_that_ranks_cannot_share_are_refused() {
        let config = TrainConfig { batch_size: 4, n_patches: 1, ..config() };
        config.check_ranks(4, BatchNormOver::Global).unwrap();
        config.check_ranks(2, BatchNormOver::PerRank).unwrap();
        for (world, norms, words) in [
            (3, BatchNormOver::Global, "a multiple of the number of ranks, found 4 with 3 ranks"),
            (4, BatchNormOver::PerRank, "at least 2 patches at once where batch_norm is per-rank"),
        ] {
            let error = config.check_ranks(world, norms).unwrap_err().to_string();
            assert!(error.starts_with("`batch_size` must be") && error.contains(words), "{error}");
        }
    }

    #[test]
    fn checkpoints_are_asked_for_in_steps_or_minutes() {
        let parse = |text: &str| text.parse::<CheckpointEvery>();
        assert_eq!(parse("200"), Ok(CheckpointEvery::Steps(200)));
        assert_eq!(parse("10min"), Ok(CheckpointEvery::Time(Duration::from_secs(600))));
        assert_eq!(parse("0.5 min"), Ok(CheckpointEvery::Time(Duration::from_secs(30))));
        for wrong in ["0", "0min", "-1", "-1min", "NaNmin", "infmin", "min", "10s", "1e3", ""] {
            assert!(parse(wrong).unwrap_err().contains("10min"), "{wrong}");
        }
        for text in ["200", "10min", "0.5min"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }
}
