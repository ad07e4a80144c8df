//! Packs of generated and of small image sets: what is the same, what is refused.

use std::fs;
use std::ops::ControlFlow;

use image::{Rgb, RgbImage};
use proptest::prelude::*;

use super::format::{DATA_START, head, parse};
use super::*;
use crate::dataset::OnBadImage;
use crate::loader::{LoaderConfig, Order, PatchLoader, View};
use crate::patch::PatchSampler;
use crate::progress::Progress;

mod sources;

const RAW: PackOptions = PackOptions::RAW;

fn options(name: &str, root: Option<&Path>) -> OpenOptions {
    OpenOptions { name: name.into(), root: root.map(Path::to_owned), partial: false, on_bad_image: OnBadImage::Fail }
}

fn source(name: &str, root: Option<&Path>, split: Split) -> Dataset {
    crate::dataset::open(&OpenOptions { partial: true, ..options(name, root) }, split).unwrap()
}

fn go_on(_: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn pack(dataset: &Dataset, split: Split, dir: &Path, options: &PackOptions) -> Packed {
    write(dataset, split, &dir.join(file_name(dataset.name(), split)), options, &mut go_on).unwrap()
}

/// The first generated images of the test split, in a pack.
pub(super) fn small(dir: &Path, n_images: usize) -> (Dataset, PathBuf) {
    let set = source("synthetic", None, Split::Test).subset(&(0..n_images).collect::<Vec<_>>()).unwrap();
    let packed = pack(&set, Split::Test, dir, &RAW);
    (set, packed.path)
}

/// All bytes of a few batches.
fn batches(dataset: &Dataset, config: &PatchConfig, n_workers: usize) -> Vec<u8> {
    let sampler = PatchSampler::new(config).unwrap();
    let config = LoaderConfig {
        n_patches: 3,
        batch_size: 2,
        view: View::Augmented,
        order: Order::Shuffled,
        drop_last: true,
        seed: 5,
        epoch: 1,
        first_batch: 0,
        every: 1,
        n_workers,
        prefetch: 1,
        rank: 0,
        world: 1,
    };
    let loader = PatchLoader::new(dataset, &sampler, &config).unwrap();
    loader.flat_map(|batch| batch.unwrap().patches().iter().copied().collect::<Vec<_>>()).collect()
}

/// A tree of images of several sizes, JPEG and one PNG.
fn tree(root: &Path) {
    for (class, name, width, height) in
        [("ant", "a.jpg", 120, 90), ("ant", "b.jpg", 70, 66), ("bee", "c.png", 80, 130), ("bee", "d.jpg", 65, 65)]
    {
        let path = root.join("train").join(class).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_fn(width, height, |x, y| Rgb([2 * x as u8, y as u8, (x / 8 * 16) as u8])).save(path).unwrap();
    }
}

#[test]
fn a_raw_pack_is_its_source_without_copies() {
    let dir = tempfile::tempdir().unwrap();
    let set = source("synthetic", None, Split::Test);
    let packed = pack(&set, Split::Test, dir.path(), &RAW);
    assert_eq!((packed.n_images, packed.exact, packed.was_there), (2000, true, false));
    assert_eq!(packed.bytes, fs::metadata(&packed.path).unwrap().len());
    let opened = source("synthetic", Some(dir.path()), Split::Test);
    assert_eq!(opened.fingerprint(), set.fingerprint());
    assert_eq!((opened.labels(), opened.class_names()), (set.labels(), set.class_names()));
    assert_eq!((opened.is_synthetic(), opened.shrunk_to()), (true, None));
    assert!(opened.description().contains("raw pack") && opened.description().contains("synthetic-test.pack"));
    for row in [0, 1, 1234, 1999] {
        let image = opened.image(row).unwrap();
        assert!(image.is_view() && image == set.image(row).unwrap(), "{row}");
    }
    assert!(opened.image(2000).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the pack is left");
    let nowhere = dir.path().join("other.pack");
    assert!(matches!(
        crate::dataset::open(&options("synthetic", Some(&nowhere)), Split::Test),
        Err(DataError::MissingFile { .. })
    ));
}

#[test]
fn batches_of_a_pack_are_those_of_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let (set, path) = small(dir.path(), 20);
    let opened = source("synthetic", Some(&path), Split::Test);
    let config = PatchConfig::cifar32();
    let expected = batches(&set, &config, 1);
    assert!(
        !expected.is_empty() && batches(&opened, &config, 1) == expected && batches(&opened, &config, 3) == expected
    );
}

#[test]
fn the_own_files_of_jpeg_images_are_taken_over() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    fs::remove_file(root.path().join("train/bee/c.png")).unwrap();
    let set = source("folder", Some(root.path()), Split::Train);
    let jpeg = PackOptions { encoding: Encoding::Jpeg { quality: 90 }, short_side: None };
    let packed = pack(&set, Split::Train, root.path(), &jpeg);
    assert!(packed.exact && packed.bytes < 10_000 + DATA_START as u64, "{packed:?}");
    // The pack comes before the tree beside it.
    let opened = source("folder", Some(root.path()), Split::Train);
    assert!(opened.description().contains("JPEG pack"), "{}", opened.description());
    assert_eq!(opened.fingerprint(), set.fingerprint());
    (0..3).for_each(|row| assert_eq!(opened.image(row).unwrap(), set.image(row).unwrap()));
    let file = fs::read(root.path().join("train/ant/a.jpg")).unwrap();
    assert_eq!(fs::read(&packed.path).unwrap()[DATA_START..][..file.len()], file);
}

#[test]
fn large_images_are_shrunk_and_the_fingerprint_says_so() {
    let (root, raw, jpeg) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(root.path());
    let set = source("folder", Some(root.path()), Split::Train);
    let to_66 = PackOptions { short_side: Some(66), ..RAW };
    let packed = pack(&set, Split::Train, raw.path(), &to_66);
    assert_eq!((packed.exact, packed.short_side), (false, Some(66)));
    let opened = source("folder", Some(raw.path()), Split::Train);
    let sizes: Vec<_> = (0..4).map(|row| opened.image(row).unwrap().dim()).collect();
    assert_eq!(sizes, [(66, 88, 3), (66, 70, 3), (107, 66, 3), (65, 65, 3)]);
    assert!(opened.image(1).unwrap() == set.image(1).unwrap(), "what is small enough stays as it is");
    assert!(opened.description().contains("shrunk to short sides of 66"), "{}", opened.description());

    let quality = |quality| PackOptions { encoding: Encoding::Jpeg { quality }, short_side: Some(66) };
    let other = pack(&set, Split::Train, jpeg.path(), &quality(95));
    let encoded = source("folder", Some(jpeg.path()), Split::Train);
    assert!(!other.exact && encoded.image(0).unwrap().dim() == (66, 88, 3) && !encoded.image(0).unwrap().is_view());
    let difference = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b));
    let image = encoded.image(0).unwrap();
    let mean = image.iter().zip(opened.image(0).unwrap().iter()).map(difference).sum::<f64>() / image.len() as f64;
    assert!(mean < 6.0, "a JPEG of good quality is near: {mean}");
    let fingerprints = [set.fingerprint(), opened.fingerprint(), encoded.fingerprint()];
    assert!(
        fingerprints[0] != fingerprints[1] && fingerprints[1] != fingerprints[2] && fingerprints[0] != fingerprints[2]
    );
    // All of one size or unshrunk sets do not count as shrunk.
    assert_eq!(pack(&set, Split::Test, raw.path(), &PackOptions { short_side: Some(500), ..RAW }).short_side, None);
}

#[test]
fn a_recipe_that_needs_larger_images_is_refused() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    let set = source("folder", Some(root.path()), Split::Train);
    pack(&set, Split::Train, root.path(), &PackOptions { short_side: Some(66), ..RAW });
    let opened = source("folder", Some(root.path()), Split::Train);
    opened.check_serves(&PatchConfig::cifar32()).unwrap();
    assert!(!batches(&opened, &PatchConfig::cifar32(), 2).is_empty());
    let message = opened.check_serves(&PatchConfig::imagenet224()).unwrap_err().to_string();
    assert!(message.contains("short side of 66 pixels, the recipe needs 518"), "{message}");
    set.check_serves(&PatchConfig::imagenet224()).unwrap();
    let again =
        write(&opened, Split::Train, &root.path().join("again.pack"), &RAW, &mut go_on).unwrap_err().to_string();
    assert!(again.contains("shrunk already"), "{again}");
}

#[test]
fn bad_images_that_were_left_out_stay_listed() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    fs::write(root.path().join("train/ant/z.jpg"), b"\xff\xd8 no").unwrap();
    let skip = OpenOptions { on_bad_image: OnBadImage::Skip, ..options("folder", Some(root.path())) };
    let set = crate::dataset::open(&skip, Split::Train).unwrap();
    pack(&set, Split::Train, root.path(), &RAW);
    assert_eq!(source("folder", Some(root.path()), Split::Train).skipped(), set.skipped());
}

#[test]
fn a_pack_of_the_same_source_is_left_and_another_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (set, path) = small(dir.path(), 20);
    let repeat = |set: &Dataset, options: &PackOptions| write(set, Split::Test, &path, options, &mut go_on).unwrap();
    assert!(repeat(&set, &RAW).was_there);
    assert!(!repeat(&set, &PackOptions { short_side: Some(64), ..RAW }).was_there, "another recipe");
    let other = set.subset(&[1, 0]).unwrap();
    check_source(&path, &set, &mut go_on).unwrap();
    let message = check_source(&path, &other, &mut go_on).unwrap_err().to_string();
    assert!(message.starts_with("stale pack") && message.contains("synthetic-test.pack"), "{message}");
    assert_eq!(repeat(&other, &RAW).n_images, 2);
    check_source(&path, &other, &mut go_on).unwrap();
    // A pack of a pack is the same pack.
    let opened = source("synthetic", Some(&path), Split::Test);
    assert!(repeat(&opened, &RAW).was_there);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let set = source("synthetic", None, Split::Test);
    let empty = set.subset(&[]).unwrap();
    let jpeg = |quality| PackOptions { encoding: Encoding::Jpeg { quality }, short_side: None };
    for (set, options, part) in [
        (&set, jpeg(0), "quality must be from 1 to 100"),
        (&set, jpeg(101), "quality must be from 1 to 100"),
        (&set, PackOptions { short_side: Some(0), ..RAW }, "short side must be at least 1"),
        (&empty, RAW, "no image"),
    ] {
        let message =
            write(set, Split::Test, &dir.path().join("a.pack"), &options, &mut go_on).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    let nowhere = dir.path().join("no/a.pack");
    let message = write(&set, Split::Test, &nowhere, &RAW, &mut go_on).unwrap_err().to_string();
    assert!(message.starts_with("cannot write") && message.contains("no/a.pack"), "{message}");
    let full = PackError::write(Path::new("a.pack"), std::io::ErrorKind::StorageFull.into()).to_string();
    assert!(full.starts_with("no space left on the disk of a.pack"), "{full}");
}

#[test]
fn stopping_leaves_nothing_and_two_writers_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let set = source("synthetic", None, Split::Test);
    let path = dir.path().join("a.pack");
    let mut stop = |progress: &Progress<'_>| match progress.done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let stopped = write(&set, Split::Test, &path, &RAW, &mut stop).unwrap_err();
    assert!(matches!(stopped, DataError::Stopped { ref what } if what == "synthetic test"), "{stopped}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let other = fs::File::create(dir.path().join("a.pack.unfinished")).unwrap();
    other.try_lock().unwrap();
    let message = write(&set, Split::Test, &path, &RAW, &mut go_on).unwrap_err().to_string();
    assert!(message.starts_with("another process is writing") && message.contains("a.pack"), "{message}");
    drop(other);
    write(&set, Split::Test, &path, &RAW, &mut go_on).unwrap();
}

#[test]
fn the_root_may_be_the_file_and_its_sibling_is_the_other_split() {
    let dir = tempfile::tempdir().unwrap();
    let (_, test) = small(dir.path(), 20);
    let set = source("synthetic", None, Split::Train).subset(&[7, 8, 9]).unwrap();
    let train = pack(&set, Split::Train, dir.path(), &RAW).path;
    for root in [&train, &test] {
        let lens = [Split::Train, Split::Test].map(|split| {
            let partial = OpenOptions { partial: true, ..options("synthetic", Some(root)) };
            crate::dataset::open(&partial, split).unwrap().len()
        });
        assert_eq!(lens, [3, 20]);
    }
    let lone = dir.path().join("mine.pack");
    fs::copy(&train, &lone).unwrap();
    let refused = |name, split| crate::dataset::open(&options(name, Some(&lone)), split).unwrap_err().to_string();
    assert!(refused("synthetic", Split::Test).contains("holds `synthetic train`, not `synthetic test`"));
    assert!(refused("cifar10", Split::Train).contains("holds `synthetic train`, not `cifar10 train`"));
}

#[test]
fn a_partial_set_stays_partial() {
    let (root, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    for (shade, (class, split)) in
        (0..).zip(classes.iter().flat_map(|class| ["train", "test"].map(|split| (class, split))))
    {
        let path = root.path().join(split).join(class).join("a.png");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(32, 32, Rgb([shade, 2, 3])).save(path).unwrap();
    }
    let partial = |root: &Path| OpenOptions { partial: true, ..options("cifar10", Some(root)) };
    let set = crate::dataset::open(&partial(root.path()), Split::Train).unwrap();
    pack(&set, Split::Train, dir.path(), &RAW);
    let opened = crate::dataset::open(&partial(dir.path()), Split::Train).unwrap();
    assert_eq!((opened.is_partial(), opened.expected_len()), (true, Some(50_000)));
    let message = crate::dataset::open(&options("cifar10", Some(dir.path())), Split::Train).unwrap_err().to_string();
    assert!(message.contains("found 10 images, expected 50000") && message.contains(".pack"), "{message}");
}

/// What opening says after the bytes of a good pack were changed.
#[track_caller]
fn after(damage: impl Fn(&mut Vec<u8>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = small(dir.path(), 20);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let message = crate::dataset::open(&options("synthetic", Some(&path)), Split::Test).unwrap_err().to_string();
    assert!(message.contains("synthetic-test.pack"), "{message}");
    message
}

#[test]
fn every_kind_of_bad_pack_is_named() {
    for (part, damage) in [
        ("not a pack", &(|bytes: &mut Vec<u8>| bytes[3] ^= 1) as &dyn Fn(&mut Vec<u8>)),
        ("not a pack", &|bytes| bytes.clear()),
        ("not a pack", &|bytes| bytes.truncate(7)),
        ("has version 1, this program reads 2", &|bytes| bytes[8] = 1),
        ("big-endian", &|bytes| bytes[12..16].reverse()),
        ("its head is not what was written", &|bytes| bytes[13] = 0),
        ("its head is not what was written", &|bytes| bytes[16] ^= 1),
        ("truncated pack", &|bytes| bytes.truncate(20)),
        ("truncated pack", &|bytes| bytes.truncate(5000)),
        ("truncated pack", &|bytes| bytes.truncate(bytes.len() - 1)),
        ("expected", &|bytes| bytes.push(0)),
        ("its index is not what was written", &|bytes| *bytes.last_mut().unwrap() ^= 1),
        ("its index is not what was written", &|bytes| bytes[DATA_START + 20 * 3072 + 9] ^= 1),
    ] {
        let message = after(damage);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn damaged_data_is_found_by_its_block() {
    let dir = tempfile::tempdir().unwrap();
    let set = source("synthetic", None, Split::Test);
    let path = pack(&set, Split::Test, dir.path(), &RAW).path;
    let mut seen = 0;
    let mut watch = |progress: &Progress<'_>| {
        seen = progress.done;
        ControlFlow::Continue(())
    };
    assert!(verify(&path, &mut watch).unwrap().was_there);
    assert_eq!(seen, 2000 * 3072);
    let mut bytes = fs::read(&path).unwrap();
    bytes[DATA_START + (2 << 20) + 5] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    let message = verify(&path, &mut go_on).unwrap_err().to_string();
    let start = DATA_START + (2 << 20);
    assert!(message.contains(&format!("bytes {start} to {} are not what was written", start + (1 << 20))), "{message}");
    assert!(verify(&path, &mut |_| ControlFlow::Break(())).is_err());
}

/// A pack whose images have places in a table.
pub(super) fn with_table() -> Vec<u8> {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    let packed = pack(&source("folder", Some(root.path()), Split::Train), Split::Train, root.path(), &RAW);
    fs::read(packed.path).unwrap()
}

/// The same data under another index, with hashes that fit.
fn reindexed(good: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let data = parse(good).unwrap().data;
    let mut index = good[data.end..].to_vec();
    change(&mut index);
    let mut bytes = head(data.len() as u64, &index);
    bytes.resize(DATA_START, 0);
    bytes.extend(&good[data]);
    bytes.extend(index);
    bytes
}

#[test]
fn a_table_that_leads_astray_is_an_error_of_its_image() {
    let (dir, good) = (tempfile::tempdir().unwrap(), with_table());
    let header = parse(&good).unwrap();
    let format::Frames::Table(table) = header.frames.clone() else { panic!("images of several sizes have a table") };
    let place = table.start - header.data.end;
    for (at, value) in [(0, 1), (7, 0x80), (8, 0), (16, 3)] {
        let bytes = reindexed(&good, |index| index[place + at] = value);
        let path = dir.path().join("folder-train.pack");
        fs::write(&path, bytes).unwrap();
        let set = source("folder", Some(&path), Split::Train);
        let message = set.image(0).unwrap_err().to_string();
        assert!(message.contains("image 0 is not where its index says"), "{at}: {message}");
        assert!(verify(&path, &mut go_on).unwrap_err().to_string().starts_with("damaged pack"));
    }
}

#[test]
fn labels_without_classes_are_refused() {
    let good = with_table();
    let header = parse(&good).unwrap();
    let at = header.labels.clone().unwrap().start - header.data.end;
    let flaw = parse(&reindexed(&good, |index| index[at] = 2)).unwrap_err();
    assert_eq!(flaw, Flaw::Damaged("a label has no class".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever the index says, reading it never panics, and images are found within the file or not at all.
    #[test]
    fn no_index_makes_it_panic(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
        static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(with_table);
        let bytes = reindexed(&GOOD, |index| {
            for (place, value) in &changes {
                let place = place.index(index.len());
                index[place] = *value;
            }
        });
        if let Ok(header) = parse(&bytes) {
            for row in 0..header.n_images.min(10) {
                let _ = header.image(&bytes, row);
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse(&bytes).is_err());
        prop_assert!(parse(&[b"\x89EMPSSL\n", &bytes[..]].concat()).is_err());
    }
}

/// A bit of the data flipped, at an offset within it.
fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[DATA_START + offset] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_image_in_a_damaged_block_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let set = source("synthetic", None, Split::Test);
    let path = pack(&set, Split::Test, dir.path(), &RAW).path;
    flip(&path, 2 * BLOCK + 5);
    let opened = source("synthetic", Some(&path), Split::Test);
    let is_touched = |row: usize| row * 3072 < 3 * BLOCK && (row + 1) * 3072 > 2 * BLOCK;
    for row in 0..2000 {
        let image = opened.image(row);
        assert_eq!(image.is_err(), is_touched(row), "{row}");
        if let Err(error) = image {
            let start = DATA_START + 2 * BLOCK;
            let expected = format!("bytes {start} to {} are not what was written", start + BLOCK);
            assert!(
                error.to_string().contains(&expected) && error.to_string().contains("synthetic-test.pack"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_damaged_pack_is_not_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let (set, path) = small(dir.path(), 20);
    let good = fs::read(&path).unwrap();
    assert!(pack(&set, Split::Test, dir.path(), &RAW).was_there);
    flip(&path, 777);
    assert!(!pack(&set, Split::Test, dir.path(), &RAW).was_there);
    assert!(fs::read(&path).unwrap() == good);
    let mut stop = |_: &Progress<'_>| ControlFlow::Break(());
    let stopped = write(&set, Split::Test, &path, &RAW, &mut stop).unwrap_err();
    assert!(matches!(stopped, DataError::Stopped { .. }) && fs::read(&path).unwrap() == good);
}

#[test]
fn images_without_pixels_and_more_images_than_bytes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read(small(dir.path(), 20).1).unwrap();
    let header = parse(&good).unwrap();
    // The size of all images comes before the hashes of the pixels; the number of images before the labels.
    let size = header.pixels.start - header.data.end - 16;
    let count = header.labels.clone().unwrap().start - header.data.end - 9;
    let with = |changes: &[(usize, u64)]| {
        let bytes = reindexed(&good, |index| {
            changes.iter().for_each(|&(at, value)| index[at..at + 8].copy_from_slice(&value.to_le_bytes()));
        });
        parse(&bytes).unwrap_err()
    };
    for (changes, part) in [
        (&[(size, 0)][..], "no pixels"),
        (&[(size + 8, 0)], "no pixels"),
        (&[(count, 1 << 61), (size, 0)], "ends early"),
    ] {
        let flaw = with(changes);
        assert!(matches!(&flaw, Flaw::Damaged(what) if what.contains(part)), "{flaw:?}");
    }
    // No data, and so no hashes of it.
    let index = &good[header.data.end..header.hashes.start];
    let mut bytes = head(0, index);
    bytes.resize(DATA_START, 0);
    bytes.extend(index);
    let flaw = parse(&bytes).unwrap_err();
    assert!(matches!(&flaw, Flaw::Damaged(what) if what.contains("more images than it has bytes")), "{flaw:?}");
}

#[test]
fn a_lone_pack_leads_to_its_split_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_, test) = small(dir.path(), 3);
    let at = |root: &Path| splits(&options("synthetic", Some(root)));
    assert_eq!(at(&test), [Split::Test]);
    let lone = dir.path().join("mine.pack");
    fs::copy(&test, &lone).unwrap();
    assert_eq!(at(&lone), [Split::Test]);
    assert_eq!(at(dir.path()), Split::ALL, "a folder may hold either");
    assert_eq!(at(&dir.path().join("none.pack")), Split::ALL, "opening says what is wrong");
    fs::copy(&test, dir.path().join("synthetic-train.pack")).unwrap();
    assert_eq!(at(&test), Split::ALL);
}

#[test]
fn images_of_jpeg_packs_come_at_a_reduced_size_and_raw_ones_as_they_are() {
    let (root, raw) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = root.path().join("train/x");
    fs::create_dir_all(&dir).unwrap();
    RgbImage::from_fn(400, 320, |x, y| Rgb([x as u8, y as u8, 7])).save(dir.join("a.jpg")).unwrap();
    let set = source("folder", Some(root.path()), Split::Train);
    pack(&set, Split::Train, raw.path(), &RAW);
    pack(&set, Split::Train, root.path(), &PackOptions { encoding: Encoding::Jpeg { quality: 90 }, ..RAW });
    let opened = source("folder", Some(root.path()), Split::Train);
    let (small, expected) = (opened.reduced(80), set.reduced(80));
    assert_eq!(small.image(0).unwrap(), expected.image(0).unwrap());
    assert_eq!(small.image(0).unwrap().dim(), (80, 100, 3));
    assert_eq!(small.fingerprint(), expected.fingerprint());
    let whole = source("folder", Some(raw.path()), Split::Train);
    let reduced = whole.reduced(80);
    assert_eq!(reduced.image(0).unwrap().dim(), (320, 400, 3));
    assert_eq!((reduced.fingerprint(), reduced.description()), (whole.fingerprint(), whole.description()));
}
