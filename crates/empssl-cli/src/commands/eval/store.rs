//! Where banks lie: one folder, in which those that fit are taken and others are computed anew.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use empssl_eval::{BankFile, BankSpec, EvalError};

use crate::args::FeatureUse;
use crate::error::CliError;
use crate::print;
use crate::run::folder::open_lock;

/// A folder of banks.
pub(crate) struct BankStore {
    folder: PathBuf,
    policy: FeatureUse,
    /// Keeps `empssl runs --clean` away; several processes may use the banks at once.
    _lock: File,
}

impl BankStore {
    /// A store in `folder`, made where it is missing.
    pub(crate) fn open(folder: &Path, policy: FeatureUse) -> Result<Self, CliError> {
        fs::create_dir_all(folder).map_err(|e| CliError::file("cannot make the folder of features", folder, e))?;
        let lock = open_lock(folder)?;
        // Where a file system knows no locks, nobody is kept away.
        let _ = lock.lock_shared();
        Ok(Self { folder: folder.to_path_buf(), policy, _lock: lock })
    }

    /// The bank of this name, and whether it was there already: one that fits is taken, another is told and computed
    /// anew, unless the user forbids one or the other.
    pub(crate) fn bank(
        &self,
        name: &str,
        spec: &BankSpec,
        build: impl FnOnce(&Path) -> Result<BankFile, CliError>,
    ) -> Result<(BankFile, bool), CliError> {
        let path = self.folder.join(format!("{name}.safetensors"));
        match self.policy {
            FeatureUse::Auto if !path.exists() => {}
            FeatureUse::Fresh => {}
            FeatureUse::Reuse => return Ok((fitting(&path, spec)?, true)),
            FeatureUse::Auto => match fitting(&path, spec) {
                Ok(file) => return Ok((file, true)),
                Err(reason) => print::note(format_args!("{reason}; these features are computed again")),
            },
        }
        Ok((build(&path)?, false))
    }

    /// A bank that is used once: its file has no name any more and is gone when it is closed.
    pub(crate) fn scratch(
        &self,
        name: &str,
        build: impl FnOnce(&Path) -> Result<BankFile, CliError>,
    ) -> Result<BankFile, CliError> {
        let path = self.folder.join(format!(".{name}.{}.tmp", std::process::id()));
        let file = build(&path);
        // Where nothing was written there is nothing to remove.
        let _ = fs::remove_file(&path);
        file
    }
}

/// The bank at `path`, if it holds what is wanted.
fn fitting(path: &Path, spec: &BankSpec) -> Result<BankFile, EvalError> {
    let file = BankFile::open(path)?;
    file.demand(&spec.identity)?;
    file.demand_kept(&spec.kept)?;
    Ok(file)
}
