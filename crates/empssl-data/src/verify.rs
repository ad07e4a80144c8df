//! Whether a set on disk is the published one: checksums, sizes, counts, and every image decoded.

use std::fs;
use std::path::{Path, PathBuf};

use crate::checksum::md5_of;
use crate::dataset::{Dataset, grouped};
use crate::error::DataError;
use crate::fetch::download::beside;
use crate::options::{OnBadImage, OpenOptions, Split};
use crate::progress::Observer;
use crate::sets::{ImageSet, Member, PublishedFile, open_watched};

/// What was found out about one file, class or split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The file, the class or the split.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
}

/// How something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As published, in words.
    Good(String),
    /// Not as published, but allowed for, or worth knowing.
    Note(String),
    /// Wrong, with what was expected.
    Bad(String),
}

/// Everything that was checked, in the order it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// What is wrong.
    pub fn faults(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| matches!(check.verdict, Verdict::Bad(_)))
    }

    fn add(&mut self, what: impl ToString, verdict: Verdict) {
        self.checks.push(Check { what: what.to_string(), verdict });
    }
}

/// Checks what is there of the set that the options name: archives and record files against their published sizes and
/// checksums, the splits against the official counts, and every image by decoding it. With [`OpenOptions::partial`] fewer images than the official count are allowed for;
/// [`OpenOptions::on_bad_image`] is ignored: every bad image is a fault.
///
/// # Errors
/// When the name is unknown, there is no such folder, or `observer` stops the work. What is wrong with the set is in
/// the report.
pub fn verify(options: &OpenOptions, observer: &mut Observer<'_>) -> Result<Report, DataError> {
    let (set, root) = (ImageSet::named(&options.name)?, options.root());
    if !root.exists() && !set.is_generated {
        let (what, hint) = (format!("{} files", set.name), "give the folder that holds the set".to_owned());
        return Err(DataError::MissingFolder { what, path: root.to_owned(), hint });
    }
    let mut report = Report::default();
    let options = OpenOptions { on_bad_image: OnBadImage::Skip, ..options.clone() };
    for published in set.files.iter().chain(set.other_files) {
        check_published(published, root, options.partial, &mut report, observer)?;
    }
    for split in Split::ALL {
        check_split(set, &options, split, &mut report, observer)?;
    }
    Ok(report)
}

/// The published file and what it unpacks to, as far as they are there.
fn check_published(
    published: &PublishedFile,
    root: &Path,
    partial: bool,
    report: &mut Report,
    observer: &mut Observer<'_>,
) -> Result<(), DataError> {
    let name = published.name();
    let here = if root.is_file() && root.ends_with(name) { root.to_owned() } else { root.join(name) };
    let places = [root.join(published.file), here];
    if let Some(file) = places.iter().find(|file| file.is_file()) {
        report.add(file.display(), sum_verdict(file, published.md5, observer)?);
    }
    if let Some(part) = places.iter().map(|file| beside(file, ".part")).find(|part| part.is_file()) {
        report.add(part.display(), Verdict::Note("an unfinished download: fetch the set again to go on".to_owned()));
    }
    let Some(folder) = unpacked(published, root) else { return Ok(()) };
    for member in published.members {
        report.add(folder.join(member.path).display(), member_verdict(&folder, member, partial, observer)?);
    }
    Ok(())
}

/// The unpacked folder: the root, or the folder of the published name within it.
fn unpacked(published: &PublishedFile, root: &Path) -> Option<PathBuf> {
    let inner = root.join(published.folder);
    let holds_files = || published.members.iter().any(|member| root.join(member.path).is_file());
    let has_inner = !published.folder.is_empty() && inner.is_dir();
    if has_inner { Some(inner) } else { holds_files().then(|| root.to_owned()) }
}

fn sum_verdict(file: &Path, expected: &str, observer: &mut Observer<'_>) -> Result<Verdict, DataError> {
    let found = md5_of(file, observer)?;
    Ok(match found == expected {
        true => Verdict::Good(format!("MD5 {found}, as published")),
        false => Verdict::Bad(format!("MD5 {found}, expected {expected}: fetch it again")),
    })
}

fn member_verdict(
    folder: &Path,
    member: &Member,
    partial: bool,
    observer: &mut Observer<'_>,
) -> Result<Verdict, DataError> {
    let file = folder.join(member.path);
    let Ok(found) = fs::metadata(&file).map(|metadata| metadata.len()) else {
        return Ok(Verdict::Bad("missing: unpack the archive again".to_owned()));
    };
    let grouped = |bytes: u64| grouped(bytes as usize);
    match (member.bytes, member.md5) {
        (Some(expected), _) if found < expected && partial => {
            Ok(Verdict::Note(format!("{} of {} bytes", grouped(found), grouped(expected))))
        }
        (Some(expected), _) if found != expected => {
            let (found, expected) = (grouped(found), grouped(expected));
            Ok(Verdict::Bad(format!("{found} bytes, expected {expected}: unpack the archive again")))
        }
        (_, Some(md5)) => Ok(match sum_verdict(&file, md5, observer)? {
            // Without a published size there is no other way to tell a part of the file.
            Verdict::Bad(_) if member.bytes.is_none() && partial => {
                Verdict::Note(format!("{} bytes, not those of the whole file", grouped(found)))
            }
            verdict => verdict,
        }),
        (Some(_), None) => {
            Ok(Verdict::Good(format!("{} bytes: size as published, content not compared", grouped(found))))
        }
        (None, None) => Ok(Verdict::Good(format!("{} bytes: content not compared", grouped(found)))),
    }
}

/// A split, as it opens.
fn check_split(
    set: &ImageSet,
    options: &OpenOptions,
    split: Split,
    report: &mut Report,
    observer: &mut Observer<'_>,
) -> Result<(), DataError> {
    let what = format!("{} {split}", options.name);
    match open_watched(&OpenOptions { partial: true, ..options.clone() }, split, observer) {
        Ok(images) => check_images(set, &images, &what, options.partial, report),
        Err(error @ DataError::Stopped { .. }) => return Err(error),
        // A user's own folder of images need not have a test split.
        Err(DataError::MissingFolder { .. }) if set.counts.is_none() && split == Split::Test => {
            report.add(what, Verdict::Note("none".to_owned()));
        }
        Err(error) => report.add(what, Verdict::Bad(error.to_string())),
    }
    Ok(())
}

/// Counts, classes, and the images that did not decode.
fn check_images(set: &ImageSet, images: &Dataset, what: &str, partial: bool, report: &mut Report) {
    for bad in images.skipped() {
        report.add(bad.path.display(), Verdict::Bad(bad.reason.clone()));
    }
    let found = grouped(images.len());
    let verdict = match images.expected_len() {
        None => Verdict::Good(format!("{found} images")),
        Some(expected) if expected == images.len() => Verdict::Good(format!("{found} images, as published")),
        Some(expected) if images.len() < expected && partial => {
            Verdict::Note(format!("{found} of {} images", grouped(expected)))
        }
        Some(expected) => Verdict::Bad(format!("{found} images, expected {}", grouped(expected))),
    };
    let whole = matches!(verdict, Verdict::Good(_));
    report.add(what, verdict);
    check_names(set, images, what, report);
    if let (Some(expected), true) = (images.expected_len(), set.is_balanced) {
        check_classes(images, what, expected, whole, partial, report);
    }
}

/// Names the first class that is not called as the publisher calls it.
fn check_names(set: &ImageSet, images: &Dataset, what: &str, report: &mut Report) {
    let pairs = images.class_names().iter().zip((set.class_names)());
    if let Some((label, (found, expected))) = (0..).zip(pairs).find(|(_, (found, expected))| found != expected) {
        let reason = format!("class {label} is called `{found}`, expected `{expected}`");
        report.add(format!("{what} class names"), Verdict::Bad(reason));
    }
}

/// Names the classes that do not have their share of the images.
fn check_classes(set: &Dataset, what: &str, expected: usize, whole: bool, partial: bool, report: &mut Report) {
    let (Some(labels), names) = (set.labels(), set.class_names()) else { return };
    if names.is_empty() || (partial && !whole) {
        return;
    }
    let share = expected / names.len();
    let mut counts = vec![0; names.len()];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    for (name, count) in names.iter().zip(counts).filter(|&(_, count)| count != share) {
        let reason = format!("{} images, expected {}", grouped(count), grouped(share));
        report.add(format!("{what} class `{name}`"), Verdict::Bad(reason));
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn go_on(_: &crate::progress::Progress<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn options(name: &str, root: &Path) -> OpenOptions {
        OpenOptions { name: name.into(), root: Some(root.to_owned()), partial: false, on_bad_image: OnBadImage::Fail }
    }

    fn report(name: &str, root: &Path, partial: bool) -> Report {
        verify(&OpenOptions { partial, ..options(name, root) }, &mut go_on).unwrap()
    }

    /// The verdict whose subject ends in `what`, which must be there once, as its kind and words.
    #[track_caller]
    fn verdict(report: &Report, what: &str) -> String {
        let found: Vec<_> = report.checks.iter().filter(|check| check.what.ends_with(what)).collect();
        assert_eq!(found.len(), 1, "{what}: {report:#?}");
        format!("{:?}", found[0].verdict)
    }

    /// Six record files of one record each.
    fn cifar10(root: &Path) {
        let dir = root.join("cifar-10-batches-bin");
        fs::create_dir_all(&dir).unwrap();
        let set = ImageSet::named("cifar10").unwrap();
        set.files[0].members.iter().for_each(|file| fs::write(dir.join(file.path), [1; 3073]).unwrap());
        fs::write(dir.join("batches.meta.txt"), (set.class_names)().join("\n")).unwrap();
    }

    #[test]
    fn the_generated_set_is_whole() {
        let report = report("synthetic", Path::new("nowhere"), false);
        assert_eq!(report.faults().count(), 0);
        assert_eq!(verdict(&report, "synthetic train"), "Good(\"10,000 images, as published\")");
    }

    #[test]
    fn record_files_are_compared_with_the_published_sizes() {
        let root = tempfile::tempdir().unwrap();
        cifar10(root.path());
        fs::remove_file(root.path().join("cifar-10-batches-bin/data_batch_4.bin")).unwrap();
        let strict = report("cifar10", root.path(), false);
        assert!(verdict(&strict, "data_batch_1.bin").starts_with("Bad(\"3,073 bytes, expected 30,730,000"));
        assert!(verdict(&strict, "data_batch_4.bin").starts_with("Bad(\"missing"));
        assert!(verdict(&strict, "cifar10 train").contains("data_batch_4.bin"));
        assert!(verdict(&strict, "cifar10 test").starts_with("Bad(\"1 images, expected 10,000"));
        assert!(verdict(&strict, "class `automobile`").starts_with("Bad(\"1 images, expected 1,000"));
    }

    #[test]
    fn a_partial_set_is_noted_where_that_is_allowed() {
        let root = tempfile::tempdir().unwrap();
        cifar10(root.path());
        let report = report("cifar10", root.path(), true);
        assert_eq!(report.faults().count(), 0, "{report:#?}");
        assert_eq!(verdict(&report, "test_batch.bin"), "Note(\"3,073 of 30,730,000 bytes\")");
        assert_eq!(verdict(&report, "cifar10 train"), "Note(\"5 of 50,000 images\")");
    }

    #[test]
    fn archives_and_published_sums_are_compared() {
        let root = tempfile::tempdir().unwrap();
        const SUM: &str = "900150983cd24fb0d6963f7d28e17f72";
        const MEMBERS: &[Member] = &[Member::new("x", Some(3), Some(SUM)), Member::new("y", Some(3), Some("0"))];
        let published = PublishedFile { folder: "set", members: MEMBERS, ..PublishedFile::plain("", "set.zip", SUM) };
        fs::create_dir(root.path().join("set")).unwrap();
        ["set.zip", "set/x", "set/y"].iter().for_each(|file| fs::write(root.path().join(file), "abc").unwrap());
        fs::write(root.path().join("set.zip.part"), "").unwrap();
        let check = |root: &Path| {
            let mut report = Report::default();
            check_published(&published, root, false, &mut report, &mut go_on).unwrap();
            report
        };
        let found = check(root.path());
        assert!(verdict(&found, "set.zip").starts_with("Good(\"MD5 9001"));
        assert!(verdict(&found, "set.zip.part").starts_with("Note(\"an unfinished download"));
        assert!(verdict(&found, "set/x").starts_with("Good("));
        assert_eq!(
            verdict(&found, "set/y"),
            "Bad(\"MD5 900150983cd24fb0d6963f7d28e17f72, expected 0: fetch it again\")"
        );
        assert_eq!(check(&root.path().join("set")).checks.len(), 2, "the folder itself may be given");
        assert_eq!(check(&root.path().join("set.zip")).checks.len(), 2, "and the archive");
    }

    #[test]
    fn classes_are_called_as_published() {
        let root = tempfile::tempdir().unwrap();
        cifar10(root.path());
        let names = (ImageSet::named("cifar10").unwrap().class_names)().join("\n").replace("frog", "toad");
        fs::write(root.path().join("cifar-10-batches-bin/batches.meta.txt"), names).unwrap();
        let report = report("cifar10", root.path(), true);
        let expected = "Bad(\"class 6 is called `toad`, expected `frog`\")";
        assert_eq!(verdict(&report, "cifar10 train class names"), expected);
        assert_eq!(report.faults().count(), 2, "in both splits");
        let names = (ImageSet::named("cifar100").unwrap().class_names)();
        assert_eq!((names.len(), names[99]), (100, "worm"));
    }

    #[test]
    fn the_forms_for_python_are_compared_with_their_sums() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("cifar-100-python");
        fs::create_dir(&dir).unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cifar-100-python");
        for file in ["train", "test", "meta"] {
            fs::copy(data.join(file), dir.join(file)).unwrap();
        }
        fs::write(root.path().join("cifar-100-python.tar.gz"), "abc").unwrap();
        let strict = report("cifar100", root.path(), false);
        let sum = "expected eb9058c3a382ffc7106e4002c42a8d85: fetch it again";
        assert!(verdict(&strict, "cifar-100-python.tar.gz").contains(sum));
        assert!(verdict(&strict, "cifar-100-python/train").contains("expected 16019d7e3df5f24257cddd939b257f8d"));
        let partial = report("cifar100", root.path(), true);
        assert!(verdict(&partial, "cifar-100-python/test").ends_with("bytes, not those of the whole file\")"));
        assert!(verdict(&partial, "cifar-100-python.tar.gz").starts_with("Bad("), "an archive is whole or damaged");
    }

    #[test]
    fn what_was_not_compared_is_not_called_as_published() {
        let root = tempfile::tempdir().unwrap();
        cifar10(root.path());
        let file = fs::OpenOptions::new().write(true).open(root.path().join("cifar-10-batches-bin/test_batch.bin"));
        file.unwrap().set_len(30_730_000).unwrap();
        let report = report("cifar10", root.path(), true);
        let expected = "Good(\"30,730,000 bytes: size as published, content not compared\")";
        assert_eq!(verdict(&report, "test_batch.bin"), expected);
        assert_eq!(verdict(&report, "batches.meta.txt"), "Good(\"59 bytes: content not compared\")");
    }

    #[test]
    fn whoever_watches_can_stop_at_any_word() {
        let root = tempfile::tempdir().unwrap();
        image::RgbImage::new(70, 80).save(root.path().join("a.png")).unwrap();
        let (mut words, options) = (0, options("folder", root.path()));
        verify(&options, &mut |_| {
            words += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(words >= 4, "{words}");
        for stop_at in 0..words {
            let mut word = 0;
            let stopped = verify(&options, &mut |_| {
                word += 1;
                if word > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(matches!(stopped, Err(DataError::Stopped { .. })), "{stop_at}: {stopped:?}");
        }
    }

    #[test]
    fn every_bad_image_of_a_tree_is_named() {
        let root = tempfile::tempdir().unwrap();
        for class in ["ant", "bee"] {
            let dir = root.path().join("train").join(class);
            fs::create_dir_all(&dir).unwrap();
            image::RgbImage::new(70, 80).save(dir.join("good.png")).unwrap();
            fs::write(dir.join("bad.jpg"), b"\xff\xd8 no").unwrap();
        }
        let report = report("folder", root.path(), false);
        let faults: Vec<_> = report.faults().map(|check| check.what.clone()).collect();
        assert!(faults.len() == 2 && faults[0].ends_with("ant/bad.jpg") && faults[1].ends_with("bee/bad.jpg"));
        assert_eq!(verdict(&report, "folder train"), "Good(\"2 images\")");
        assert_eq!(verdict(&report, "folder test"), "Note(\"none\")");
    }

    #[test]
    fn an_unknown_name_and_a_missing_folder_are_errors() {
        let refuse = |name, root: &str| verify(&options(name, Path::new(root)), &mut go_on).unwrap_err().to_string();
        assert!(refuse("cifar11", ".").contains("cifar11"));
        assert!(refuse("cifar10", "/no/such/folder").contains("/no/such/folder"));
    }
}
