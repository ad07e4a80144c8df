//! Every way the program can fail, and the exit code of each.

use std::path::PathBuf;

use empssl_data::DataError;
use empssl_eval::EvalError;
use empssl_model::ModelError;
use empssl_torch::processes::GroupError;
use empssl_torch::{DeviceError, ShimError, TorchFailure};
use empssl_train::TrainError;

/// The exit codes, as `empssl --help` lists them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    training or evaluation failed
  2    the command line was not understood
  3    the data could not be read
  4    the recipe is wrong
  5    the device cannot be used
  6    a file, a folder or standard output could not be read or written
  130  stopped by Ctrl-C; a run keeps what was learnt";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Recipe(String),
    #[error("{}{}", .0, flag_hint(.0))]
    Data(#[from] DataError),
    #[error("{error} (--data DIR); what is there is {found} (`train --dataset {found}`, `data ... {found}`)")]
    AnotherDataset { error: DataError, found: &'static str },
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Train(TrainError),
    #[error(transparent)]
    Eval(EvalError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Shim(#[from] ShimError),
    #[error(transparent)]
    Torch(#[from] TorchFailure),
    #[error("{what} {path}: {reason}")]
    File { what: &'static str, path: PathBuf, reason: String },
    #[error("{0} already holds a run; choose another folder with --out, or add --force to replace it")]
    RunExists(PathBuf),
    #[error("{run} is in use by {holder}; wait for it to end, or end it")]
    RunBusy { run: PathBuf, holder: String },
    #[error("{0}")]
    Run(String),
    #[error("{0}")]
    Unlabelled(String),
    #[error("cannot write to standard output: {0}; what the command writes to files is there")]
    Output(String),
    #[error("{faults} of {checks} checks of {name} failed; the lines marked BAD say what is wrong")]
    Faults { name: String, faults: usize, checks: usize },
    /// The processes of a run cannot be started.
    #[error("{0}")]
    Ranks(String),
    /// Of the processes that this one started, the first to fail.
    #[error("{how}; all others were ended")]
    RankFailed { how: String, code: u8 },
    #[error("stopped by a signal, as rank 0 says above")]
    RanksStopped,
    #[error("stopped by {by} at step {step}; what was learnt is in {path}. `empssl train --resume {run}` goes on")]
    Interrupted { by: &'static str, step: u64, path: PathBuf, run: String },
}

/// What training only passes on is what it was below: bad data is bad data wherever it surfaces.
impl From<TrainError> for CliError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Data(error) => Self::Data(error),
            TrainError::Model(error) => Self::Model(error),
            error => Self::Train(error),
        }
    }
}

/// Whatever they do together.
impl From<GroupError> for CliError {
    fn from(error: GroupError) -> Self {
        TrainError::from(error).into()
    }
}

impl From<EvalError> for CliError {
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::Data(error) => Self::Data(error),
            error => Self::Eval(error),
        }
    }
}

impl CliError {
    /// A file or folder that could not be used.
    pub(crate) fn file(what: &'static str, path: &std::path::Path, reason: impl std::fmt::Display) -> Self {
        Self::File { what, path: path.to_path_buf(), reason: reason.to_string() }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Recipe(_) | Self::Data(DataError::BadSetting { .. }) => 4,
            Self::Data(DataError::Stopped { .. }) => 130,
            Self::Data(error) if is_about_a_written_file(error) => 6,
            Self::Train(TrainError::Setting { .. }) | Self::Model(ModelError::Config { .. }) => 4,
            Self::Data(_) | Self::AnotherDataset { .. } | Self::Unlabelled(_) | Self::Faults { .. } => 3,
            Self::Device(_) | Self::Train(TrainError::Group(GroupError::Nccl(_))) => 5,
            Self::Train(TrainError::Group(GroupError::TooFewGpus { .. })) => 5,
            Self::File { .. } | Self::RunExists(_) | Self::RunBusy { .. } | Self::Run(_) | Self::Output(_) => 6,
            Self::Train(TrainError::Checkpoint { .. } | TrainError::OtherRun { .. } | TrainError::NoneWhole { .. }) => {
                6
            }
            Self::Train(TrainError::Save { .. } | TrainError::Observer(_)) => 6,
            Self::Model(error) if is_about_a_file(error) => 6,
            Self::Eval(error) if is_about_features_on_disk(error) => 6,
            Self::Interrupted { .. } | Self::RanksStopped => 130,
            Self::RankFailed { code, .. } => *code,
            Self::Ranks(_) => 2,
            Self::Train(_) | Self::Eval(_) | Self::Model(_) | Self::Shim(_) | Self::Torch(_) => 1,
        }
    }
}

fn is_about_a_file(error: &ModelError) -> bool {
    use ModelError::{Format, Import, Read, Write};
    matches!(error, Read { .. } | Format { .. } | Import { .. } | Write { .. })
}

fn is_about_features_on_disk(error: &EvalError) -> bool {
    use EvalError::{BankFormat, OtherBank, Read, Write};
    matches!(error, Read { .. } | Write { .. } | BankFormat { .. } | OtherBank { .. })
}

/// Fetching writes; what the disk refuses there is not bad data.
fn is_about_a_written_file(error: &DataError) -> bool {
    use empssl_data::fetch::FetchError::{Busy, DiskFull, Write};
    matches!(error, DataError::Fetch(Write { .. } | DiskFull { .. } | Busy { .. }))
}

/// The flag of this program that does what the sentence of the data crate proposes.
fn flag_hint(error: &DataError) -> &'static str {
    match error {
        DataError::TooFewRecords { .. } => " (--partial)",
        DataError::BadImage { .. } => "; --on-bad-image skip leaves such images out and counts them",
        DataError::MissingFolder { .. } => " (--data DIR)",
        DataError::AmbiguousDataset { .. } => " (`train --dataset NAME`, `data ... NAME`)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use empssl_torch::processes::nccl::NcclProblem;

    use super::*;

    #[test]
    fn gpus_that_cannot_be_used_together_are_about_the_device() {
        let few = GroupError::TooFewGpus { ranks: 4, first: 0, count: 1 };
        for error in [few, GroupError::Nccl(NcclProblem::Missing)] {
            assert_eq!(CliError::from(error).exit_code(), 5);
        }
        let lost = GroupError::Collective(ShimError("gone".to_owned()));
        assert_eq!(CliError::from(lost).exit_code(), 1);
    }

    #[test]
    fn bad_data_gets_its_hint_and_code_wherever_it_surfaces() {
        let bad = || DataError::BadImage { path: "a.jpg".into(), reason: "truncated".to_owned() };
        for error in [bad().into(), TrainError::from(bad()).into(), EvalError::from(bad()).into()] {
            let error: CliError = error;
            assert!(
                error.to_string().contains("a.jpg") && error.to_string().contains("--on-bad-image skip"),
                "{error}"
            );
            assert_eq!(error.exit_code(), 3);
        }
    }
}
