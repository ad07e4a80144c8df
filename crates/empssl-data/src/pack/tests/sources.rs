//! Packs beside the files that they were made of: when these have changed, and what is packed then.

use super::*;

/// The refusal of a pack in `root` whose source there is no longer what it was.
#[track_caller]
fn stale(name: &str, root: &Path) -> String {
    let partial = OpenOptions { partial: true, ..options(name, Some(root)) };
    let error = crate::dataset::open(&partial, Split::Train).unwrap_err();
    assert!(matches!(error, DataError::Pack(PackError::Stale { .. })), "{error}");
    error.to_string()
}

/// The source of a pack in `root`, packed beside it.
fn packed_beside(name: &str, root: &Path) -> PathBuf {
    let partial = OpenOptions { partial: true, ..options(name, Some(root)) };
    let set = open_source(&partial, Split::Train, &mut go_on).unwrap();
    pack(&set, Split::Train, root, &RAW).path
}

#[test]
fn a_tree_that_changed_beside_its_pack_is_refused_and_packing_again_heals() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    let at = |name: &str| root.path().join("train").join(name);
    let path = packed_beside("folder", root.path());
    assert_eq!(source("folder", Some(root.path()), Split::Train).len(), 4);
    fs::copy(at("ant/a.jpg"), at("bee/new.jpg")).unwrap();
    let message = stale("folder", root.path());
    assert!(message.contains("train/bee is not as it was") && message.contains("folder-train.pack"), "{message}");
    assert_eq!(stale("folder", &path), message, "the file itself is refused as well");
    packed_beside("folder", root.path());
    assert_eq!(source("folder", Some(root.path()), Split::Train).len(), 5);
    fs::create_dir(at("cow")).unwrap();
    fs::rename(at("bee/new.jpg"), at("cow/new.jpg")).unwrap();
    stale("folder", root.path());
    packed_beside("folder", root.path());
    fs::remove_dir_all(at("cow")).unwrap();
    stale("folder", root.path());
    // The times alone do not matter: whoever looks at a folder may leave files of his own there.
    packed_beside("folder", root.path());
    fs::write(at("ant/.DS_Store"), "").unwrap();
    fs::write(at("ant/notes.txt"), "").unwrap();
    assert_eq!(source("folder", Some(root.path()), Split::Train).len(), 4);
    // Without its source, or elsewhere, there is nothing to compare.
    fs::remove_dir_all(root.path().join("train")).unwrap();
    assert_eq!(source("folder", Some(root.path()), Split::Train).len(), 4);
}

#[test]
fn images_without_class_folders_are_marked_by_their_root() {
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = |name: &str| RgbImage::new(70, 80).save(root.path().join(name)).unwrap();
    image("a.png");
    let path = packed_beside("folder", root.path());
    assert_eq!(source("folder", Some(root.path()), Split::Train).len(), 1);
    fs::copy(path, other.path().join("folder-train.pack")).unwrap();
    assert_eq!(source("folder", Some(other.path()), Split::Train).len(), 1);
    image("b.png");
    stale("folder", root.path());
}

#[test]
fn record_files_that_changed_beside_their_pack_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let file = |n: usize| root.path().join(format!("cifar-10-batches-bin/data_batch_{n}.bin"));
    fs::create_dir(root.path().join("cifar-10-batches-bin")).unwrap();
    (1..6).for_each(|n| fs::write(file(n), [1; 3073]).unwrap());
    fs::write(root.path().join("cifar-10-batches-bin/batches.meta.txt"), "a b c d e f g h i j".replace(' ', "\n"))
        .unwrap();
    packed_beside("cifar10", root.path());
    assert_eq!(source("cifar10", Some(root.path()), Split::Train).len(), 5);
    // A copy of the same bytes with another time is the same.
    fs::write(file(2), [1; 3073]).unwrap();
    assert_eq!(source("cifar10", Some(root.path()), Split::Train).len(), 5);
    fs::write(file(2), [2; 3073]).unwrap();
    assert!(stale("cifar10", root.path()).contains("data_batch_2.bin is not as it was"));
    packed_beside("cifar10", root.path());
    fs::write(root.path().join("unrelated.bin.txt"), "").unwrap();
    assert_eq!(source("cifar10", Some(root.path()), Split::Train).len(), 5);
    fs::remove_file(file(3)).unwrap();
    stale("cifar10", root.path());
}

#[test]
fn an_image_written_over_in_place_is_found_by_its_pixels() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    for how in [RAW, PackOptions { short_side: Some(66), encoding: Encoding::Jpeg { quality: 90 } }] {
        let set = open_source(&options("folder", Some(root.path())), Split::Train, &mut go_on).unwrap();
        let path = pack(&set, Split::Train, root.path(), &how).path;
        check_source(&path, &set, &mut go_on).unwrap();
        // One bit of a picture: the path and the size stay.
        let image = root.path().join("train/ant/b.jpg");
        let (mut bytes, good) = (fs::read(&image).unwrap(), fs::read(&image).unwrap());
        let last = bytes.len() - 12;
        bytes[last] ^= 4;
        fs::write(&image, &bytes).unwrap();
        let set = open_source(&options("folder", Some(root.path())), Split::Train, &mut go_on).unwrap();
        let message = check_source(&path, &set, &mut go_on).unwrap_err().to_string();
        assert!(message.contains("stale pack") && message.contains("image 1 has other pixels"), "{message}");
        assert!(!pack(&set, Split::Train, root.path(), &how).was_there, "the time of the file tells");
        fs::write(&image, &good).unwrap();
    }
}

#[test]
fn the_source_is_never_the_pack_that_lies_in_its_root() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    fs::remove_file(root.path().join("train/bee/c.png")).unwrap();
    let folder = options("folder", Some(root.path()));
    let again = |how: &PackOptions| {
        let set = open_source(&folder, Split::Train, &mut go_on).unwrap();
        (pack(&set, Split::Train, root.path(), how), set)
    };
    let lossy = PackOptions { encoding: Encoding::Jpeg { quality: 10 }, short_side: Some(66) };
    let (first, set) = again(&lossy);
    assert!(!first.exact && again(&lossy).0.was_there, "a pack that shrinks can be repeated");
    assert!(again(&RAW).0.exact);
    let opened = source("folder", Some(root.path()), Split::Train);
    assert_eq!((opened.image(0).unwrap(), opened.fingerprint()), (set.image(0).unwrap(), set.fingerprint()));
    assert_eq!(opened.description().matches("made of").count(), 1, "{}", opened.description());
    // Only a root that is a pack is one, and what it was made of stays the same.
    let path = root.path().join("folder-train.pack");
    let named = open_source(&options("folder", Some(&path)), Split::Train, &mut go_on).unwrap();
    assert!(named.pack().is_some());
    let other = tempfile::tempdir().unwrap();
    pack(&named, Split::Train, other.path(), &PackOptions { encoding: Encoding::Jpeg { quality: 90 }, ..RAW });
    let opened = source("folder", Some(other.path()), Split::Train).description();
    assert!(opened.matches("made of").count() == 1 && opened.contains("made of JPEG tree from"), "{opened}");
    let lone = options("cifar10", Some(other.path()));
    fs::rename(other.path().join("folder-train.pack"), other.path().join("cifar10-train.pack")).unwrap();
    let message = open_source(&lone, Split::Train, &mut go_on).unwrap_err().to_string();
    assert!(message.contains("there is only a pack; give ") && message.contains("cifar10-train.pack"), "{message}");
}

#[test]
fn a_jpeg_pack_of_a_jpeg_pack_takes_its_files_over() {
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(root.path());
    let set = source("folder", Some(root.path()), Split::Train);
    let jpeg = PackOptions { encoding: Encoding::Jpeg { quality: 90 }, short_side: None };
    let first = pack(&set, Split::Train, root.path(), &jpeg);
    let opened = source("folder", Some(&first.path), Split::Train);
    let second = pack(&opened, Split::Train, other.path(), &jpeg);
    assert!(!first.exact && second.exact, "the PNG file was encoded the first time only");
    let again = source("folder", Some(&second.path), Split::Train);
    assert!((0..4).all(|row| again.image(row).unwrap() == opened.image(row).unwrap()));
}
