//! Genuine image trees by name; skipped with a printed line where they are not unpacked.

use std::path::{Path, PathBuf};

use empssl_data::{Dataset, OnBadImage, OpenOptions, Split, open};
use empssl_golden::genuine_images;

fn options(name: &str, root: &Path) -> OpenOptions {
    OpenOptions { name: name.into(), root: Some(root.into()), partial: true, on_bad_image: OnBadImage::Fail }
}

fn open_partial(name: &str, root: &Path, split: Split) -> Dataset {
    open(&options(name, root), split).unwrap_or_else(|error| panic!("{error}"))
}

fn images_per_class(set: &Dataset) -> Vec<usize> {
    let mut counts = vec![0; set.class_names().len()];
    set.labels().expect("a labelled set").iter().for_each(|&label| counts[label as usize] += 1);
    counts
}

/// Whether all three channels of an image are the same.
fn is_grey(set: &Dataset, index: usize) -> bool {
    let image = set.image(index).expect("a good image");
    image.as_slice().expect("one piece").as_chunks().0.iter().all(|&[r, g, b]: &[u8; 3]| r == g && g == b)
}

#[test]
fn tiny_imagenet_by_name() {
    let Some(root) = genuine_images("tiny-imagenet-200") else { return };
    let train = open_partial("tiny-imagenet", &root, Split::Train);
    let test = open_partial("tiny-imagenet", &root.join("tiny-imagenet-200"), Split::Test);
    assert_eq!((train.len(), train.is_partial(), train.expected_len()), (20_000, true, Some(100_000)));
    assert_eq!((test.len(), test.is_partial()), (10_000, false));
    assert_eq!(images_per_class(&train), [100; 200]);
    assert_eq!(images_per_class(&test), [50; 200]);
    assert_eq!(train.class_names()[..2], ["goldfish", "European fire salamander"]);
    assert_eq!(train.class_names(), test.class_names());
    for set in [&train, &test] {
        assert!((0..set.len()).all(|index| set.image(index).expect("a good image").dim() == (64, 64, 3)));
    }
    // More than the 380 and 168 files of one channel: some have three equal ones.
    let grey = |set: &Dataset| (0..set.len()).filter(|&index| is_grey(set, index)).count();
    assert_eq!((grey(&train), grey(&test)), (413, 187));
    let whole = OpenOptions { partial: false, ..options("tiny-imagenet", &root) };
    let message = open(&whole, Split::Train).expect_err("too few").to_string();
    assert!(message.contains("found 20000 images, expected 100000"), "{message}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
    std::fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// Some genuine images, once in a folder and once in an archive.
#[cfg(feature = "archives")]
#[test]
fn tiny_imagenet_agrees_with_its_archive() {
    use std::io::Write;

    let Some(root) = genuine_images("tiny-imagenet-200") else { return };
    let home = tempfile::tempdir().expect("a folder");
    let wnids = std::fs::read_to_string(root.join("tiny-imagenet-200/wnids.txt")).expect("a text");
    let mut names: Vec<String> =
        ["wnids.txt", "words.txt", "val/val_annotations.txt"].map(|name| format!("tiny-imagenet-200/{name}")).into();
    for wnid in wnids.lines() {
        let images = ["0", "7"].map(|number| format!("tiny-imagenet-200/train/{wnid}/images/{wnid}_{number}.JPEG"));
        names.extend(images.into_iter().filter(|name| root.join(name).is_file()));
        let any = std::fs::read_dir(root.join(format!("tiny-imagenet-200/train/{wnid}/images"))).expect("a folder");
        let any = any.map(|entry| entry.expect("a file").file_name()).min().expect("an image");
        names.push(format!("tiny-imagenet-200/train/{wnid}/images/{}", any.to_str().expect("a text")));
    }
    names.extend((0..10_000).step_by(20).map(|number| format!("tiny-imagenet-200/val/images/val_{number}.JPEG")));
    names.sort();
    names.dedup();
    let archive = home.path().join("tiny-imagenet-200.zip");
    let mut writer = zip::ZipWriter::new(std::fs::File::create(&archive).expect("a file"));
    for name in &names {
        copy(&root.join(name), &home.path().join("unpacked").join(name));
        writer.start_file(name, zip::write::SimpleFileOptions::default()).expect("an entry");
        writer.write_all(&std::fs::read(root.join(name)).expect("an image")).expect("an entry");
    }
    writer.finish().expect("an archive");
    for split in [Split::Train, Split::Test] {
        let zipped = open_partial("tiny-imagenet", &archive, split);
        let folder = open_partial("tiny-imagenet", &home.path().join("unpacked"), split);
        assert!(folder.len() >= 200, "{}", folder.len());
        assert_eq!((zipped.labels(), zipped.class_names()), (folder.labels(), folder.class_names()));
        assert_eq!(zipped.fingerprint(), folder.fingerprint());
        let same = |index: usize| zipped.image(index).expect("good") == folder.image(index).expect("good");
        assert!((0..folder.len()).all(same));
    }
}

/// The sum that zlib calls Adler-32.
fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    for &byte in bytes {
        a = (a + u32::from(byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    b << 16 | a
}

/// Every pixel of the photographs is that of Pillow; `photographs.txt` has the sums.
#[test]
fn photographs_have_the_pixels_of_pillow() {
    let Some(root) = genuine_images("imagenet-photos") else { return };
    let sums = include_str!("../data/photographs.txt");
    assert_eq!(sums.lines().count(), 100);
    for line in sums.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [width, height] = [1, 2].map(|place| fields[place].parse::<usize>().expect("a number"));
        let sum = fields[3].parse::<u32>().expect("a number");
        let wnid = fields[0].split('_').next().expect("a wnid");
        let bytes = std::fs::read(root.join("imagenet-photos/val").join(wnid).join(fields[0])).expect("a photo");
        let image = empssl_data::decode_image(&bytes).expect("a photo");
        assert_eq!(image.dim(), (height, width, 3), "{line}");
        assert_eq!(adler32(image.as_slice().expect("one piece")), sum, "{line}");
    }
}

/// A photograph of every class.
#[test]
fn imagenet_photographs_by_name() {
    let Some(root) = genuine_images("imagenet-photos") else { return };
    let photos = root.join("imagenet-photos");
    let set = open_partial("imagenet100", &photos, Split::Test);
    assert_eq!((set.len(), set.expected_len(), set.labels().expect("labelled").len()), (100, Some(5_000), 100));
    assert_eq!(images_per_class(&set), [1; 100]);
    assert_eq!((&*set.class_names()[0], &*set.class_names()[99]), ("robin", "stinkhorn"));
    let folder = open_partial("folder", &photos, Split::Test);
    assert_eq!(set.labels(), folder.labels());
    assert!((0..100).all(|index| set.image(index).expect("good") == folder.image(index).expect("good")));
}

/// The same photographs flat with either kind of truth.
#[test]
fn imagenet_photographs_in_every_form() {
    let Some(root) = genuine_images("imagenet-photos") else { return };
    let sorted = open_partial("imagenet100", &root.join("imagenet-photos"), Split::Test);
    let table = include_str!("../../../../data/imagenet100.csv");
    let home = tempfile::tempdir().expect("a folder");
    let solved = home.path().join("solved");
    let kit = home.path().join("kit");
    let (mut solution, mut ids) = (String::from("ImageId,PredictionString\n"), String::new());
    for (number, line) in (1..).zip(table.lines().skip(1)) {
        let fields: Vec<&str> = line.split(',').collect();
        let stem = format!("ILSVRC2012_val_{number:08}");
        let class = root.join("imagenet-photos/val").join(fields[0]);
        let photo: PathBuf =
            std::fs::read_dir(class).expect("a class").next().expect("a photo").expect("a photo").path();
        for dir in [&solved, &kit] {
            copy(&photo, &dir.join("val").join(format!("{stem}.JPEG")));
        }
        solution += &format!("{stem},{} 1 2 3 4\n", fields[0]);
        ids += &format!("{}\n", fields[1]);
    }
    std::fs::write(solved.join("LOC_val_solution.csv"), solution).expect("written");
    std::fs::write(kit.join("ILSVRC2012_validation_ground_truth.txt"), ids).expect("written");
    for dir in [&solved, &kit] {
        let flat = open_partial("imagenet100", dir, Split::Test);
        assert_eq!((flat.labels(), flat.class_names()), (sorted.labels(), sorted.class_names()));
        assert!(
            (0..100).step_by(9).all(|index| flat.image(index).expect("good") == sorted.image(index).expect("good"))
        );
    }
}
