//! Feature banks of the labelled images: computed in one pass, kept on disk, scored many times.

use std::fs::{self, File};
use std::path::Path;

use empssl_data::PatchLoader;
use empssl_eval::protocol::{NO_EPOCH, is_nested, loader_view};
use empssl_eval::{
    BankFile, BankFiles, BankIdentity, BankOptions, BankSpec, EvalPass, FeatureSource, Kept, NamedEncoder,
};
use empssl_torch::catch;
use tch::Kind;

use super::EvalTarget;
use super::sets::LabelledSplit;
use crate::args::FeatureUse;
use crate::error::CliError;
use crate::machine;
use crate::network;
use crate::print;
use crate::progress::Bar;
use crate::report::{FeatureFile, PeakBytes, Row};
use crate::run::folder::open_lock;

/// Makes the banks of any encoder from the same images, or takes those that lie in the folder of features.
pub(super) struct BankMaker<'a> {
    target: &'a EvalTarget,
    policy: FeatureUse,
    /// Threads that cut patches.
    workers: usize,
    /// The files that were used, for the report.
    pub(super) used: Vec<FeatureFile>,
    /// Keeps `empssl runs --clean` away; several processes may use the banks at once.
    _lock: File,
}

impl<'a> BankMaker<'a> {
    /// Makes the folder of features where it is missing.
    pub(super) fn new(target: &'a EvalTarget, policy: FeatureUse, workers: usize) -> Result<Self, CliError> {
        let folder = &target.features;
        fs::create_dir_all(folder).map_err(|e| CliError::file("cannot make the folder of features", folder, e))?;
        let lock = open_lock(folder)?;
        // Where a file system knows no locks, nobody is kept away.
        let _ = lock.lock_shared();
        Ok(Self { target, policy, workers, used: Vec::new(), _lock: lock })
    }

    /// The bank of a split: one that fits is taken, another is told and computed anew, unless the user forbids one or the
    /// other. That of an encoder without weights is used once: its file is gone when it is closed.
    fn file(
        &mut self,
        split: &LabelledSplit,
        encoder: &NamedEncoder<'_>,
        pass: &EvalPass,
        outputs: &[String],
    ) -> Result<BankFile, CliError> {
        // A lattice of other places is another view, with a file of its own.
        let lattice = if is_nested(pass.view) { String::new() } else { format!("-{}", pass.n_patches()) };
        let name = format!("{}-{}{lattice}.{}", encoder.name, pass.view.name(), split.name);
        let spec = BankSpec {
            identity: self.identity(split, encoder, pass),
            kept: Kept { outputs: outputs.to_vec(), counts: pass.counts.iter().map(|&count| count as i64).collect() },
            ids: split.ids.clone(),
            n_classes: self.target.sets.n_classes,
        };
        let kept = encoder.checksum.is_some().then(|| format!("{name}.safetensors"));
        let (file, reused) = match &kept {
            Some(name) => {
                let path = self.target.features.join(name);
                match self.found(&path, &spec)? {
                    Some(file) => (file, true),
                    None => (self.build(&path, split, encoder, pass, &spec)?, false),
                }
            }
            None => {
                let path = self.target.features.join(format!(".{name}.{}.tmp", std::process::id()));
                let file = self.build(&path, split, encoder, pass, &spec);
                // Where nothing was written there is nothing to remove.
                let _ = fs::remove_file(&path);
                (file?, false)
            }
        };
        if reused {
            print::note(format_args!("features taken from {}", file.path().display()));
        }
        self.used.push(FeatureFile {
            encoder: encoder.encoder,
            split: split.name.to_owned(),
            view: pass.view,
            n_patches: pass.n_patches(),
            bytes: file.bytes(),
            file: kept,
            reused,
            seconds: file.seconds(pass.n_patches() as i64).unwrap_or(0.0),
        });
        Ok(file)
    }

    /// The bank at `path`, if it is there, fits and may be taken.
    fn found(&self, path: &Path, spec: &BankSpec) -> Result<Option<BankFile>, CliError> {
        Ok(match self.policy {
            FeatureUse::Reuse => Some(BankFile::open_matching(path, spec)?),
            FeatureUse::Auto if path.exists() => BankFile::open_matching(path, spec)
                .inspect_err(|reason| print::note(format_args!("{reason}; these features are computed again")))
                .ok(),
            FeatureUse::Auto | FeatureUse::Fresh => None,
        })
    }

    /// Everything that shapes the features of a split.
    fn identity(&self, split: &LabelledSplit, encoder: &NamedEncoder<'_>, pass: &EvalPass) -> BankIdentity {
        let drawn = if is_nested(pass.view) {
            vec![("seed", self.target.identity.seed.to_string()), ("epoch", epoch_of(split.name).to_string())]
        } else {
            vec![("n_patches", pass.n_patches().to_string())]
        };
        let own = [
            ("encoder", encoder.checksum.clone().unwrap_or_default()),
            ("data", format!("{:016x}", split.images.fingerprint())),
            ("split", split.name.to_owned()),
            ("view", pass.view.name().to_owned()),
        ];
        let patches = serde_json::to_value(&self.target.run.config.patches).unwrap_or_default();
        let patches = patches.as_object().into_iter().flatten();
        let patches = patches.map(|(key, value)| (format!("patches.{key}"), value.to_string()));
        own.into_iter().chain(drawn).map(|(key, value)| (key.to_owned(), value)).chain(patches).collect()
    }

    /// Computes the features of a split into a file.
    fn build(
        &self,
        path: &Path,
        split: &LabelledSplit,
        encoder: &NamedEncoder<'_>,
        pass: &EvalPass,
        spec: &BankSpec,
    ) -> Result<BankFile, CliError> {
        let EvalTarget { run, identity, device, .. } = self.target;
        let (batch_size, draws) = (run.config.evaluation.batch_size, (identity.seed, epoch_of(split.name)));
        let config = network::in_order(loader_view(pass.view), pass.n_patches(), batch_size, draws, self.workers);
        let loader = PatchLoader::new(&split.images, &run.sampler, &config)?;
        let patches_per_call = network::patches_per_call(run, *device);
        let options = BankOptions { n_classes: spec.n_classes, device: *device, kind: Kind::Float, patches_per_call };
        let mut bar = Bar::new("features", split.images.len() as u64, "images");
        let mut progress = |done: usize| bar.advance(done as u64);
        let build = || BankFile::build(path, split.name, spec, encoder.extractor, loader, &options, &mut progress);
        let file = catch(build);
        bar.finish();
        Ok(file??)
    }
}

impl FeatureSource for BankMaker<'_> {
    type Error = CliError;

    fn features(
        &mut self,
        encoder: &NamedEncoder<'_>,
        pass: &EvalPass,
        outputs: &[String],
    ) -> Result<BankFiles, CliError> {
        let (sets, device) = (&self.target.sets, self.target.device);
        machine::reset_peaks(device)?;
        let train = self.file(&sets.train, encoder, pass, outputs)?;
        let test = self.file(&sets.test, encoder, pass, outputs)?;
        Ok(BankFiles { train, test, device, peaks: self.peaks()? })
    }

    fn peaks(&self) -> Result<PeakBytes, CliError> {
        machine::peaks(self.target.device)
    }

    fn scored(&self, row: &Row) {
        let (encoder, probe) = (row.encoder.name(), row.probe.name());
        print::line(format_args!("scored {encoder} {probe}: {:.2} % in {:.1} s", row.top1, row.seconds));
    }
}

/// The epoch of a split's random patches, one that no training has: image 7 of one split is another image than image 7
/// of another, and what is drawn for the one says nothing about the other.
fn epoch_of(split: &str) -> u64 {
    match split {
        "train" => NO_EPOCH,
        "test" => NO_EPOCH - 1,
        _ => NO_EPOCH - 2,
    }
}
