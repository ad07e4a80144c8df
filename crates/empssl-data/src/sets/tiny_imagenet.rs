//! Tiny ImageNet-200: the official folder, or the official archive as it was downloaded.
//!
//! Labels follow the sorted wnids, as those of every tool that reads class folders do, and not the order of
//! `wnids.txt`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::{ImageSet, Member, PublishedFile, Request, check_n_classes, check_none_absent, truth, unknown_image};
use crate::dataset::Dataset;
use crate::dataset::store::{FileSource, ImageFile};
use crate::dataset::tree::{images_below, is_image};
use crate::error::DataError;
use crate::options::Split;
use crate::patch::PatchConfig;
use crate::progress::Observer;

/// The list of classes.
const WNIDS: &str = "wnids.txt";
const N_CLASSES: usize = 200;
const ARCHIVE: PublishedFile = PublishedFile {
    site: "http://cs231n.stanford.edu/",
    file: "tiny-imagenet-200.zip",
    bytes: Some(248_100_043),
    md5: "90528d7ca1a48142e341f4ef8d21d0de",
    folder: "tiny-imagenet-200",
    members: &[
        Member::new(WNIDS, Some(2_000), None),
        Member::new("words.txt", Some(2_655_750), None),
        Member::new("val/val_annotations.txt", Some(347_377), None),
    ],
};

/// The test split is the official validation split, as the official test images have no labels.
fn open(request: &Request<'_>, observer: &mut Observer<'_>) -> Result<Dataset, DataError> {
    let files = Files::find(request)?;
    let classes = files.classes()?;
    let (folder, labelled) = match request.split {
        Split::Train => ("train", files.by_class_folder("train", &classes)?),
        Split::Test => ("val", files.validation(&classes)?),
    };
    let names = files.class_names(&classes)?;
    request.of_files((files.source.clone(), &files.base.join(folder)), names, labelled, observer)
}

/// Whether the set lies at this folder or archive.
fn recognises(root: &Path) -> bool {
    let is = |path: &Path, name: &str| path.file_name().is_some_and(|found| found == name);
    root.is_file() && is(root, ARCHIVE.file)
        || root.is_dir() && is(root, ARCHIVE.folder)
        || root.join(ARCHIVE.folder).is_dir()
        || root.join(ARCHIVE.file).is_file()
        || root.join(WNIDS).is_file()
}

/// The files of the set, on disk or in the archive.
struct Files {
    source: FileSource,
    /// The official folder; in an archive, the archive's path followed by the folder within it.
    base: PathBuf,
    /// All files of an archive; `None` on disk.
    listed: Option<Vec<ImageFile>>,
}

impl Files {
    fn find(request: &Request<'_>) -> Result<Self, DataError> {
        let root = request.options.root();
        if root.is_file() {
            return Self::in_archive(root);
        }
        let holds_split = |dir: &PathBuf| dir.join("train").is_dir() || dir.join("val").is_dir();
        if let Some(base) = [root.join(ARCHIVE.folder), root.to_owned()].into_iter().find(holds_split) {
            return Ok(Self { source: FileSource::Disk, base, listed: None });
        }
        if root.join(ARCHIVE.file).is_file() {
            return Self::in_archive(&root.join(ARCHIVE.file));
        }
        let (url, folder) = (ARCHIVE.url(), ARCHIVE.folder);
        let hint = format!("put {url} there as it is or unpacked, or give the archive or the folder `{folder}`");
        Err(request.missing("Tiny ImageNet".into(), hint))
    }

    #[cfg(feature = "archives")]
    fn in_archive(path: &Path) -> Result<Self, DataError> {
        let (archive, entries) = crate::dataset::zip::Archive::open(path)?;
        let folder = ARCHIVE.folder;
        let is_inside = |name: &str| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let base = if entries.iter().any(|entry| is_inside(&entry.name)) { path.join(folder) } else { path.to_owned() };
        let listed = entries.iter().map(|entry| ImageFile { path: path.join(&entry.name), bytes: entry.bytes });
        Ok(Self { source: FileSource::Zip(archive.into()), base, listed: Some(listed.collect()) })
    }

    #[cfg(not(feature = "archives"))]
    fn in_archive(path: &Path) -> Result<Self, DataError> {
        Err(DataError::without_archives(path))
    }

    /// What a parser makes of a text file of the set, `None` where there is no such file.
    fn parse<T>(
        &self,
        name: &str,
        form: &'static str,
        parser: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<Option<T>, DataError> {
        let path = self.base.join(name);
        let exists = match &self.listed {
            Some(listed) => listed.iter().any(|file| file.path == path),
            None => path.is_file(),
        };
        if !exists {
            return Ok(None);
        }
        parser(&self.source.read(&path)?).map(Some).map_err(|reason| DataError::malformed(form, &path, reason))
    }

    /// The images below a folder of the set, at any depth.
    fn images(&self, name: &str) -> Result<Vec<ImageFile>, DataError> {
        let dir = self.base.join(name);
        let Some(listed) = &self.listed else {
            return if dir.is_dir() { images_below(&dir) } else { Err(DataError::no_images(&dir)) };
        };
        let inside = |file: &&ImageFile| file.path.starts_with(&dir) && is_image(&file.path);
        let images: Vec<_> = listed.iter().filter(inside).cloned().collect();
        if images.is_empty() { Err(DataError::no_images(&dir)) } else { Ok(images) }
    }

    /// The sorted wnids: those of `wnids.txt` or, where it is missing, the class folders.
    fn classes(&self) -> Result<Vec<String>, DataError> {
        let classes = match self.parse(WNIDS, "list of classes", truth::wnids)? {
            Some(wnids) => wnids,
            None => self.class_folders()?,
        };
        check_n_classes(classes, &self.base, N_CLASSES)
    }

    fn class_folders(&self) -> Result<Vec<String>, DataError> {
        let images = self.images("train").or_else(|_| self.images("val"))?;
        let mut folders: Vec<String> = images.iter().filter_map(|file| self.part(file, 1)).collect();
        folders.sort();
        folders.dedup();
        Ok(folders)
    }

    /// A part of a file's path below the base: 0 is the split, 1 the class folder. The last part is the file's own name
    /// and no folder.
    fn part(&self, file: &ImageFile, place: usize) -> Option<String> {
        let mut parts = file.path.strip_prefix(&self.base).ok()?.iter().skip(place);
        let part = parts.next()?.to_str()?.to_owned();
        parts.next().map(|_| part)
    }

    fn by_class_folder(&self, name: &str, classes: &[String]) -> Result<Vec<(u32, ImageFile)>, DataError> {
        let class_of = |file: &ImageFile| self.part(file, 1);
        let labelled = labelled(self.images(name)?, classes, class_of, &self.base.join(WNIDS))?;
        let seen: HashSet<u32> = labelled.iter().map(|&(label, _)| label).collect();
        let absent = (0..).zip(classes).filter(|(label, _)| !seen.contains(label)).map(|(_, class)| &**class);
        check_none_absent(&self.base.join(name), absent, classes.len())?;
        Ok(labelled)
    }

    /// The validation split: all images in one folder with a file of annotations, or sorted into class folders.
    fn validation(&self, classes: &[String]) -> Result<Vec<(u32, ImageFile)>, DataError> {
        const TRUTH: &str = "val/val_annotations.txt";
        let images = self.images("val")?;
        let is_flat = images.iter().any(|file| self.part(file, 1).is_none_or(|folder| folder == "images"));
        if !is_flat {
            return self.by_class_folder("val", classes);
        }
        let path = self.base.join(TRUTH);
        let Some(annotations) = self.parse(TRUTH, "file of annotations", truth::annotations)? else {
            let hint = "it says which validation image is of which class; unpack the archive again".into();
            return Err(DataError::MissingFile { path, hint });
        };
        let class_of = |file: &ImageFile| annotations.get(file.path.file_name()?.to_str()?).cloned();
        labelled(images, classes, class_of, &path)
    }

    /// The first name of every class in `words.txt`, else its wnid.
    fn class_names(&self, classes: &[String]) -> Result<Vec<String>, DataError> {
        let words = self.parse("words.txt", "list of names", truth::words)?.unwrap_or_else(HashMap::new);
        Ok(classes.iter().map(|wnid| words.get(wnid).unwrap_or(wnid).clone()).collect())
    }
}

/// Every file with the label of its class; `truth` is what a file without one is missing from.
fn labelled(
    files: Vec<ImageFile>,
    classes: &[String],
    class_of: impl Fn(&ImageFile) -> Option<String>,
    truth: &Path,
) -> Result<Vec<(u32, ImageFile)>, DataError> {
    let label = |file: ImageFile| match class_of(&file).and_then(|class| classes.binary_search(&class).ok()) {
        Some(label) => Ok((label as u32, file)),
        None => Err(unknown_image(&file.path, truth)),
    };
    files.into_iter().map(label).collect()
}

/// Tiny ImageNet-200.
pub(crate) const SET: ImageSet = ImageSet {
    counts: Some([100_000, 10_000]),
    n_classes: Some(N_CLASSES),
    is_balanced: true,
    patches: PatchConfig::imagenet224,
    files: &[ARCHIVE],
    looks_for: "tiny-imagenet-200 or its wnids.txt, tiny-imagenet-200.zip",
    ..ImageSet::new("tiny-imagenet", "Tiny ImageNet", recognises, open)
};

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::open as open_by_name;
    use super::*;
    use crate::options::{OnBadImage, OpenOptions};

    fn options(root: &Path) -> OpenOptions {
        let root = Some(root.to_owned());
        OpenOptions { name: "tiny-imagenet".into(), root, partial: true, on_bad_image: OnBadImage::Fail }
    }

    fn open_split(root: &Path, split: Split) -> Result<Dataset, DataError> {
        open_by_name(&options(root), split)
    }

    fn wnid(class: usize) -> String {
        format!("n{class:08}")
    }

    fn write(path: &Path, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A grey JPEG file of 8x8 pixels of a brightness.
    fn grey(level: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let image = image::GrayImage::from_pixel(8, 8, image::Luma([level as u8]));
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100).encode_image(&image).unwrap();
        bytes
    }

    /// The official folder with one train image and two validation images of every class, listed in reverse.
    fn official(base: &Path) {
        let classes = || (0..N_CLASSES).rev();
        write(&base.join("wnids.txt"), classes().map(|class| wnid(class) + "\n").collect::<String>());
        let words = classes().map(|class| format!("{}\tname {class}, other name\n", wnid(class)));
        write(&base.join("words.txt"), words.collect::<String>());
        let mut annotations = String::new();
        for class in classes() {
            let dir = base.join("train").join(wnid(class));
            write(&dir.join("images").join(format!("{}_0.JPEG", wnid(class))), grey(class));
            write(&dir.join(format!("{}_boxes.txt", wnid(class))), "boxes");
            for number in [class, class + N_CLASSES] {
                write(&base.join(format!("val/images/val_{number}.JPEG")), grey(number / 2));
                annotations += &format!("val_{number}.JPEG\t{}\t0\t0\t7\t7\n", wnid(class));
            }
        }
        write(&base.join("val/val_annotations.txt"), annotations);
        write(&base.join("test/images/test_0.JPEG"), grey(0));
    }

    /// Sorts the validation images of [`official`] into class folders.
    fn reorganise(base: &Path) {
        for number in 0..2 * N_CLASSES {
            let name = format!("val_{number}.JPEG");
            let dir = base.join("val").join(wnid(number % N_CLASSES));
            fs::create_dir_all(&dir).unwrap();
            fs::rename(base.join("val/images").join(&name), dir.join(name)).unwrap();
        }
        fs::remove_dir(base.join("val/images")).unwrap();
    }

    fn assert_same_images(a: &Dataset, b: &Dataset) {
        assert_eq!((a.len(), a.labels(), a.class_names()), (b.len(), b.labels(), b.class_names()));
        assert!((0..a.len()).all(|index| a.image(index).unwrap() == b.image(index).unwrap()));
    }

    #[test]
    fn the_official_folder_has_sorted_labels_and_first_names() {
        let root = tempfile::tempdir().unwrap();
        official(&root.path().join(ARCHIVE.folder));
        let train = open_split(root.path(), Split::Train).unwrap();
        assert_eq!((train.len(), train.expected_len(), train.is_partial()), (200, Some(100_000), true));
        assert_eq!(train.labels().unwrap(), (0..200).collect::<Vec<_>>());
        assert_eq!(train.class_names()[7], "name 7");
        assert_eq!(train.image(150).unwrap().iter().collect::<Vec<_>>(), vec![&150; 8 * 8 * 3]);
        let test = open_split(&root.path().join(ARCHIVE.folder), Split::Test).unwrap();
        assert_eq!((test.len(), test.expected_len()), (400, Some(10_000)));
        assert_eq!(test.labels().unwrap()[..5], [0, 0, 1, 1, 2]);
        // val_207 is the second image of class 7 and has half its number for a brightness.
        let index = (0..400).find(|&index| test.image(index).unwrap()[[0, 0, 0]] == 103).unwrap();
        assert!(test.labels().unwrap()[index] == 6 || test.labels().unwrap()[index] == 7);
    }

    #[test]
    fn a_validation_split_in_class_folders_gives_the_same_images() {
        let root = tempfile::tempdir().unwrap();
        official(root.path());
        let flat = open_split(root.path(), Split::Test).unwrap();
        let first = (0..400).map(|index| flat.image(index).unwrap().to_owned()).collect::<Vec<_>>();
        reorganise(root.path());
        fs::remove_file(root.path().join("wnids.txt")).unwrap();
        fs::remove_file(root.path().join("words.txt")).unwrap();
        let sorted = open_split(root.path(), Split::Test).unwrap();
        assert_eq!((sorted.labels(), sorted.len()), (flat.labels(), 400));
        assert!((0..400).all(|index| sorted.image(index).unwrap() == first[index]));
        assert_eq!(sorted.class_names()[7], wnid(7));
        fs::remove_dir_all(root.path().join("val").join(wnid(9))).unwrap();
        let message = open_split(root.path(), Split::Test).unwrap_err().to_string();
        assert!(message.contains("no folder for class `n00000009`"), "{message}");
    }

    #[cfg(feature = "archives")]
    #[test]
    fn the_archive_and_the_folder_agree_in_every_pixel() {
        let root = tempfile::tempdir().unwrap();
        official(&root.path().join(ARCHIVE.folder));
        let zipped = tempfile::tempdir().unwrap();
        let archive = zipped.path().join(ARCHIVE.file);
        crate::dataset::zip::tests::archive_folder(root.path(), &archive);
        for split in [Split::Train, Split::Test] {
            let folder = open_split(root.path(), split).unwrap();
            for place in [zipped.path(), &archive] {
                let set = open_split(place, split).unwrap();
                assert_same_images(&folder, &set);
                assert_eq!(folder.fingerprint(), set.fingerprint());
                assert!(set.description().contains("tiny-imagenet-200.zip"), "{}", set.description());
            }
        }
    }

    /// What opening a split of the official folder says after `damage`.
    fn refusal(split: Split, damage: impl Fn(&Path)) -> String {
        let root = tempfile::tempdir().unwrap();
        official(root.path());
        damage(root.path());
        open_split(root.path(), split).unwrap_err().to_string()
    }

    #[test]
    fn missing_parts_are_named() {
        let message = refusal(Split::Test, |root| fs::remove_file(root.join("val/val_annotations.txt")).unwrap());
        assert!(message.starts_with("missing file") && message.contains("val_annotations.txt"), "{message}");
        let message = refusal(Split::Train, |root| fs::remove_dir_all(root.join("train").join(wnid(3))).unwrap());
        assert!(message.contains("no folder for class `n00000003`"), "{message}");
        let message = refusal(Split::Train, |root| fs::remove_dir_all(root.join("train")).unwrap());
        assert!(message.starts_with("no images in") && message.contains("train"), "{message}");
        let message = refusal(Split::Train, |root| fs::write(root.join("wnids.txt"), "n00000001").unwrap());
        assert!(message.contains("found 1, expected 200"), "{message}");
        let empty = tempfile::tempdir().unwrap();
        let message = open_split(empty.path(), Split::Train).unwrap_err().to_string();
        assert!(message.starts_with("no folder with Tiny ImageNet") && message.contains(&ARCHIVE.url()), "{message}");
    }

    #[test]
    fn images_without_a_class_are_named() {
        let message = refusal(Split::Test, |root| write(&root.join("val/images/val_9999.JPEG"), grey(1)));
        assert!(message.contains("val_9999.JPEG is not in") && message.contains("val_annotations.txt"), "{message}");
        let message = refusal(Split::Test, |root| fs::write(root.join("val/val_annotations.txt"), "x\tcat").unwrap());
        assert!(message.starts_with("malformed file of annotations"), "{message}");
        let message = refusal(Split::Train, |root| write(&root.join("train/n99999999/images/a.JPEG"), grey(1)));
        assert!(message.contains("a.JPEG is not in") && message.contains("wnids.txt"), "{message}");
    }

    #[test]
    fn a_whole_set_is_asked_for_unless_a_part_is_allowed() {
        let root = tempfile::tempdir().unwrap();
        official(root.path());
        let whole = OpenOptions { partial: false, ..options(root.path()) };
        let message = open_by_name(&whole, Split::Train).unwrap_err().to_string();
        assert!(message.contains("found 200 images, expected 100000"), "{message}");
    }
}
