//! Banks on disk: what comes back, what is refused, and what a failure leaves.

use std::fs;

use empssl_data::{DataError, PatchBatch};
use empssl_golden::assert_close;
use empssl_torch::SafetensorsWriter;
use tch::Kind;

use super::*;
use crate::features::{BankOptions, FEATURES, pixels};
use crate::testing::{OPTIONS, patches, refusal, values};

fn identity(encoder: &str) -> BankIdentity {
    [("encoder", encoder), ("data", "0123"), ("view", "published")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn spec(images: i64, counts: &[i64]) -> BankSpec {
    let kept = Kept { outputs: vec![FEATURES.to_owned()], counts: counts.to_vec() };
    BankSpec { identity: identity("abc"), kept, ids: (0..images).map(|image| 100 + image).collect(), n_classes: 4 }
}

fn batches() -> Vec<PatchBatch> {
    vec![patches(4, &[0, 1, 2]), patches(4, &[3, 0])]
}

/// Batches of one set number its images through.
fn numbered(batches: Vec<PatchBatch>) -> impl Iterator<Item = Result<PatchBatch, DataError>> {
    batches.into_iter().scan(0, |first, mut batch| {
        let n = batch.indices.len();
        batch.indices = (*first..*first + n).collect();
        *first += n;
        Some(Ok(batch))
    })
}

fn build(path: &Path, spec: &BankSpec, batches: Vec<PatchBatch>) -> Result<BankFile, EvalError> {
    BankFile::build(path, "train", spec, &pixels, numbered(batches), &OPTIONS, &mut |_| {})
}

fn written() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.safetensors");
    build(&path, &spec(5, &[1, 4]), batches()).unwrap();
    (folder, path)
}

#[test]
fn a_bank_comes_back_as_it_was_computed() {
    let (folder, path) = written();
    let file = BankFile::open(&path).unwrap();
    assert_eq!((file.n_images(), file.n_classes(), file.path()), (5, 4, path.as_path()));
    assert_eq!(file.kept(), spec(5, &[1, 4]).kept);
    assert_eq!(file.identity(), identity("abc"));
    assert_eq!(file.bytes(), fs::metadata(&path).unwrap().len());
    assert_eq!(values(&file.ids().unwrap()), [100.0, 101.0, 102.0, 103.0, 104.0]);
    let memory = FeatureBank::build("train", &pixels, numbered(batches()), &OPTIONS, &mut |_| {}).unwrap();
    let bank = file.bank("train", FEATURES, 4, Device::Cpu).unwrap();
    assert_close("features", &values(bank.features()), &values(memory.features()), 1e-15);
    assert_eq!(values(bank.labels()), values(memory.labels()));
    assert_eq!(bank.features().kind(), Kind::Double);
    assert!(file.seconds(1).unwrap() <= file.seconds(4).unwrap() && file.seconds(2).is_none());
    drop(file);
    fs::remove_file(&path).unwrap();
    assert_close(
        "features of a bank that outlived its file",
        &values(bank.features()),
        &values(memory.features()),
        1e-15,
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing else was left");
}

#[test]
fn one_image_is_a_bank() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.safetensors");
    let file = build(&path, &spec(1, &[4]), vec![patches(4, &[2])]).unwrap();
    let bank = file.bank("one", FEATURES, 4, Device::Cpu).unwrap();
    assert_eq!((bank.n_images(), values(bank.labels())), (1, vec![2.0]));
}

#[test]
fn features_of_something_else_are_told_by_every_key_that_differs() {
    let (_folder, path) = written();
    let file = BankFile::open(&path).unwrap();
    file.demand(&identity("abc")).unwrap();
    let mut other = identity("abd");
    other.remove("view");
    other.insert("seed".to_owned(), "7".to_owned());
    let message = refusal(file.demand(&other));
    let differences = "`encoder` is abc there and abd here; `seed` is not told there and 7 here; `view` is published there \
                       and not told here";
    assert_eq!(message, format!("{} holds features of something else: {differences}", path.display()));
}

#[test]
fn features_that_were_not_kept_are_told_with_those_that_were() {
    let (_folder, path) = written();
    let file = BankFile::open(&path).unwrap();
    file.demand_kept(&spec(5, &[4]).kept).unwrap();
    let message = refusal(file.demand_kept(&spec(5, &[1, 2]).kept));
    assert_eq!(
        message,
        format!("{} has no features `features` over 2 patches; it has features over [1, 4] patches", path.display())
    );
    assert!(refusal(file.bank("x", "backbone", 4, Device::Cpu)).contains("no features `backbone` over 4 patches"));
}

#[test]
fn a_truncated_file_and_one_with_a_flipped_bit_are_refused_by_name() {
    let (_folder, path) = written();
    let whole = fs::read(&path).unwrap();
    let refused = || {
        let message = refusal(BankFile::open(&path));
        assert!(message.contains("bank.safetensors"), "{message}");
        message
    };
    for length in [1, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        refused();
    }
    fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    assert!(refused().contains("it is truncated, damaged or of another format"));
    // Every byte of the file counts, those of the header too.
    for byte in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[byte] ^= 1 << (byte % 8);
        fs::write(&path, &damaged).unwrap();
        refused();
    }
    fs::write(&path, "").unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    assert!(refused().starts_with("cannot read"));
}

#[test]
fn a_bank_of_another_format_version_says_so() {
    let (_folder, path) = written();
    let file = SafetensorsFile::open(&path).unwrap();
    let mut metadata = file.metadata().clone();
    metadata.insert("format_version".to_owned(), "2".to_owned());
    let mut writer = SafetensorsWriter::create(&path, file.specs(), metadata).unwrap();
    for (index, spec) in file.specs().iter().enumerate() {
        writer.append(index, &file.tensor(&spec.name).unwrap()).unwrap();
    }
    writer.finish(None).unwrap();
    assert!(refusal(BankFile::open(&path)).contains("format version 2 (empssl"));
}

#[test]
fn what_cannot_be_scored_is_refused_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.safetensors");
    let refused = |images: i64, batches: Vec<PatchBatch>| refusal(build(&path, &spec(images, &[4]), batches));
    let mut unlabelled = patches(4, &[0]);
    unlabelled.labels = None;
    assert!(refused(1, vec![unlabelled]).starts_with("the images of the bank `train` have no labels"));
    assert!(refused(0, vec![]).contains("holds no image"));
    let message = refused(5, vec![patches(4, &[0, 1]), patches(4, &[3, 4, 0])]);
    assert_eq!(message, "the bank `train` gives image 3 the label 4, but there are 4 classes, counted from 0");
    assert_eq!(refused(6, batches()), "the images of the bank `train` must be 6, found 5");
    assert_eq!(refused(4, batches()), "the images of the bank `train` must be 4, found 5");
    let broken = numbered(vec![patches(4, &[0])]).chain([Err(DataError::LoaderStopped { batch: 1 })]);
    let result = BankFile::build(&path, "train", &spec(5, &[4]), &pixels, broken, &OPTIONS, &mut |_| {});
    assert_eq!(refusal(result), DataError::LoaderStopped { batch: 1 }.to_string());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = build(&folder.path().join("no/bank.safetensors"), &spec(5, &[4]), batches());
    assert!(refusal(nowhere).starts_with("cannot write"));
}

#[test]
fn features_that_are_not_finite_are_refused_with_their_image_before_they_reach_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.safetensors");
    let calls = std::cell::Cell::new(0);
    let overflowing = |patches: &Tensor| {
        // One call of four patches of three images, then one of four patches of two.
        calls.set(calls.get() + patches.size()[0]);
        let features = pixels(patches);
        if calls.get() > 12 {
            let _ = features.select(0, 1).fill_(f64::NAN);
        }
        features
    };
    let options = BankOptions { patches_per_call: 100, ..OPTIONS };
    let result =
        BankFile::build(&path, "train", &spec(5, &[4]), &overflowing, numbered(batches()), &options, &mut |_| {});
    let message = refusal(result);
    assert!(message.starts_with("the features of the bank `train` are not finite, first in row 4"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
