//! Feature banks of the labelled images: computed in one pass, kept on disk, scored many times.

use std::collections::BTreeMap;
use std::path::Path;

use empssl_data::{Dataset, PatchLoader};
use empssl_eval::{BankFile, BankOptions, BankSpec, FEATURES, FeatureBank, Kept};
use empssl_torch::catch;
use tch::{Device, Kind};

use super::encoders::NamedEncoder;
use super::sets::LabelledSets;
use super::store::BankStore;
use crate::config::{EvalPass, EvalView, Run};
use crate::error::CliError;
use crate::images::NO_EPOCH;
use crate::machine;
use crate::network;
use crate::print;
use crate::progress::Bar;
use crate::report::{FeatureFile, PeakBytes};

/// Features of one encoder over so many patches, and what they cost.
pub(crate) struct Banks {
    pub(crate) train: FeatureBank,
    pub(crate) test: FeatureBank,
    /// Of both.
    pub(crate) seconds: f64,
    /// Of the test images alone.
    pub(crate) test_seconds: f64,
    pub(crate) peaks: PeakBytes,
}

/// All that one pass over both splits gave.
pub(crate) struct BankFiles {
    pub(crate) train: BankFile,
    pub(crate) test: BankFile,
    device: Device,
    peaks: PeakBytes,
}

impl BankFiles {
    /// The scored features, averaged over so many patches.
    pub(crate) fn banks(&self, n_patches: usize) -> Result<Banks, CliError> {
        let count = n_patches as i64;
        let bank = |name, file: &BankFile| file.bank(name, FEATURES, count, self.device);
        let (train, test) = (bank("training", &self.train)?, bank("test", &self.test)?);
        let seconds = |file: &BankFile| file.seconds(count).unwrap_or(0.0);
        let (train_seconds, test_seconds) = (seconds(&self.train), seconds(&self.test));
        let seconds = train_seconds + test_seconds;
        Ok(Banks { train, test, seconds, test_seconds, peaks: self.peaks })
    }
}

/// Which banks of an encoder: by which pass, and with which of its outputs.
pub(crate) struct FeatureRequest<'a> {
    pub(crate) pass: &'a EvalPass,
    pub(crate) outputs: &'a [String],
}

/// Makes the banks of any encoder from the same images.
pub(crate) struct BankMaker<'a> {
    pub(crate) run: &'a Run,
    pub(crate) sets: &'a LabelledSets,
    pub(crate) seed: u64,
    pub(crate) device: Device,
    pub(crate) store: &'a BankStore,
    /// Threads that cut patches.
    pub(crate) workers: usize,
    /// The files that were used, for the report.
    pub(crate) used: Vec<FeatureFile>,
}

impl BankMaker<'_> {
    /// The banks of both splits.
    pub(crate) fn files(
        &mut self,
        encoder: &NamedEncoder<'_>,
        request: &FeatureRequest<'_>,
    ) -> Result<BankFiles, CliError> {
        machine::reset_peaks(self.device)?;
        let sets = self.sets;
        let train = self.file("train", (&sets.train, &sets.train_ids), encoder, request)?;
        let test = self.file(sets.scored_on.split(), (&sets.test, &sets.test_ids), encoder, request)?;
        let (device, peaks) = (self.device, machine::peaks(self.device)?);
        Ok(BankFiles { train, test, device, peaks })
    }

    fn file(
        &mut self,
        split: &'static str,
        (set, ids): (&Dataset, &[i64]),
        encoder: &NamedEncoder<'_>,
        request: &FeatureRequest<'_>,
    ) -> Result<BankFile, CliError> {
        let (view, most) = (request.pass.view, request.pass.n_patches());
        // A lattice of other places is another view, with a file of its own.
        let lattice = if view.begins_alike() { String::new() } else { format!("-{most}") };
        let name = format!("{}-{}{lattice}.{split}", encoder.name, view.name());
        let spec = BankSpec {
            identity: self.identity(split, set, encoder, view, most),
            kept: Kept {
                outputs: request.outputs.to_vec(),
                counts: request.pass.counts.iter().map(|&count| count as i64).collect(),
            },
            ids: ids.to_vec(),
            n_classes: self.sets.n_classes,
        };
        let build = |path: &Path| self.build(path, (split, set), encoder, (view, most), &spec);
        let (file, reused) = match encoder.checksum {
            Some(_) => self.store.bank(&name, &spec, build)?,
            None => (self.store.scratch(&name, build)?, false),
        };
        if reused {
            print::note(format_args!("features taken from {}", file.path().display()));
        }
        let kept = encoder.checksum.is_some().then(|| format!("{name}.safetensors"));
        self.used.push(FeatureFile {
            encoder: encoder.encoder,
            split: split.to_owned(),
            view: view.into(),
            n_patches: most,
            bytes: file.bytes(),
            file: kept,
            reused,
            seconds: file.seconds(most as i64).unwrap_or(0.0),
        });
        Ok(file)
    }

    /// Everything that shapes the features of a split.
    fn identity(
        &self,
        split: &str,
        set: &Dataset,
        encoder: &NamedEncoder<'_>,
        view: EvalView,
        most: usize,
    ) -> BTreeMap<String, String> {
        let mut identity: BTreeMap<String, String> = [
            ("encoder", encoder.checksum.clone().unwrap_or_default()),
            ("data", format!("{:016x}", set.fingerprint())),
            ("split", split.to_owned()),
            ("view", view.name().to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        if view.begins_alike() {
            identity.insert("seed".to_owned(), self.seed.to_string());
            identity.insert("epoch".to_owned(), epoch_of(split).to_string());
        } else {
            identity.insert("n_patches".to_owned(), most.to_string());
        }
        let patches = serde_json::to_value(&self.run.config.patches).unwrap_or_default();
        let keys = patches.as_object().into_iter().flatten();
        identity.extend(keys.map(|(key, value)| (format!("patches.{key}"), value.to_string())));
        identity
    }

    /// Computes the features of a split into a file.
    fn build(
        &self,
        path: &Path,
        (split, set): (&'static str, &Dataset),
        encoder: &NamedEncoder<'_>,
        (view, n_patches): (EvalView, usize),
        spec: &BankSpec,
    ) -> Result<BankFile, CliError> {
        let (run, epoch) = (self.run, epoch_of(split));
        let batch_size = run.config.evaluation.batch_size;
        let config = network::in_order(view.view(), n_patches, batch_size, (self.seed, epoch), self.workers);
        let loader = PatchLoader::new(set, &run.sampler, &config)?;
        let options = BankOptions {
            n_classes: self.sets.n_classes,
            device: self.device,
            kind: Kind::Float,
            patches_per_call: network::patches_per_call(run, self.device),
        };
        let mut bar = Bar::new("features", set.len() as u64, "images");
        let mut progress = |done: usize| bar.advance(done as u64);
        let build = || BankFile::build(path, split, spec, encoder.extractor, loader, &options, &mut progress);
        let file = catch(build);
        bar.finish();
        Ok(file??)
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
