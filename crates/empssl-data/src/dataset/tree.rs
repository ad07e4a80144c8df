//! Trees of JPEG and PNG files: a folder per class, or no classes at all.

use std::path::{Path, PathBuf};

use ndarray::Array3;
use rayon::prelude::*;

use super::store::{FileSource, ImageFile, Store};
use super::{About, BadImage, Dataset};
use crate::error::DataError;
use crate::options::{OnBadImage, Split};
use crate::progress::{Observer, Progress, Stage, report};

/// Images of at most this side are kept decoded ...
const SMALL_SIDE: u32 = 64;
/// ... if all of them together need at most this many bytes.
const SMALL_SET_BYTES: usize = 512 << 20;
/// How deep folders may nest; more means a link that leads back to a parent.
const MAX_DEPTH: usize = 16;

/// Whether there is an image in `dir`, at any depth.
pub(crate) fn holds_image(dir: &Path) -> bool {
    holds_image_below(dir, 0)
}

fn holds_image_below(dir: &Path, depth: usize) -> bool {
    let found = |entries: Entries| {
        !entries.images.is_empty() || entries.folders.iter().any(|folder| holds_image_below(folder, depth + 1))
    };
    depth <= MAX_DEPTH && Entries::read(dir).is_ok_and(found)
}

fn split_dir(root: &Path, split: Split) -> Option<PathBuf> {
    let names: &[&str] = match split {
        Split::Train => &["train"],
        Split::Test => &["test", "val"],
    };
    names.iter().map(|name| root.join(name)).find(|dir| dir.is_dir())
}

/// The files of a split, listed but not yet read.
pub(crate) struct Tree {
    source: FileSource,
    /// The folder of the split.
    pub(crate) dir: PathBuf,
    /// The names of the class folders, sorted.
    pub(crate) class_names: Vec<String>,
    pub(crate) files: Vec<ImageFile>,
    /// One label per file, or none at all when there are no classes.
    labels: Vec<u32>,
}

impl Tree {
    /// Lists the files of a split, sorted by class and path.
    ///
    /// The root holds the splits, `train` and `test` or `val`; without them the whole root is the train split. A split
    /// holds a folder per class, with images at any depth and labels in the sorted order of the folders' names, or else
    /// images without labels.
    pub(crate) fn list(root: &Path, split: Split) -> Result<Self, DataError> {
        let dir = find_dir(root, split)?;
        let entries = Entries::read(&dir)?;
        let class_names = entries.class_names();
        check_same_classes(root, split, &dir, &class_names)?;
        let mut tree = Self { source: FileSource::Disk, dir, class_names, files: entries.images, labels: Vec::new() };
        if let (Some(stray), false) = (tree.files.first(), tree.class_names.is_empty()) {
            let stray = stray.path.display();
            return Err(DataError::Inconsistent(format!(
                "image without a class: {stray} lies beside class folders; move it into one or remove it"
            )));
        }
        for (label, class_dir) in (0..).zip(&entries.folders) {
            tree.files.extend(images_of_class(class_dir)?);
            tree.labels.resize(tree.files.len(), label);
        }
        if tree.files.is_empty() { Err(DataError::no_images(&tree.dir)) } else { Ok(tree) }
    }

    /// A split whose files and labels are known, below `dir`. Sorts by class and path, so that a set has one order in
    /// whatever form its files lie.
    pub(crate) fn labelled(
        source: FileSource,
        dir: PathBuf,
        class_names: Vec<String>,
        mut files: Vec<(u32, ImageFile)>,
    ) -> Self {
        let name = |file: &ImageFile| file.path.file_name().map(ToOwned::to_owned);
        files.sort_by_cached_key(|(label, file)| (*label, name(file), file.path.clone()));
        let (labels, files) = files.into_iter().unzip();
        Self { source, dir, class_names, files, labels }
    }

    /// Files without labels, in this order; `dir` stands for all of them in messages.
    pub(crate) fn unlabelled(dir: PathBuf, files: Vec<ImageFile>) -> Self {
        Self { source: FileSource::Disk, dir, class_names: Vec::new(), files, labels: Vec::new() }
    }

    /// Makes the data set: small images are decoded now, others checked only where bad ones are to be skipped.
    pub(crate) fn open(
        self,
        about: About,
        on_bad_image: OnBadImage,
        observer: &mut Observer<'_>,
    ) -> Result<Dataset, DataError> {
        let what = format!("{} {}", about.name, about.split);
        let form = self.form();
        let Self { source, dir, class_names, mut files, mut labels } = self;
        let mut decoded = is_small(&source, &files).then(|| Vec::with_capacity(files.len()));
        let mut skipped = Vec::new();
        if decoded.is_some() || on_bad_image == OnBadImage::Skip {
            skipped = decode_all(&source, &files, &mut decoded, on_bad_image, (&what, observer))?;
            let mut bad = skipped.iter().map(|bad| &*bad.path).peekable();
            let is_good: Vec<bool> = files.iter().map(|file| bad.next_if_eq(&&*file.path).is_none()).collect();
            let mut good = is_good.iter();
            files.retain(|_| good.next() != Some(&false));
            let mut good = is_good.iter();
            labels.retain(|_| good.next() != Some(&false));
        }
        if let (true, Some(first)) = (files.is_empty(), skipped.first()) {
            let (n_skipped, dir, path) = (skipped.len(), dir.display(), first.path.display());
            let sentence = format!("all {n_skipped} images in {dir} are bad; the first: {path}: {}", first.reason);
            return Err(DataError::Inconsistent(sentence));
        }
        let labels = (!class_names.is_empty()).then_some(labels);
        let about = About { form, class_names, skipped, ..about };
        Ok(Dataset::new(about, Store::Files { root: dir, source, files, decoded }, labels))
    }

    fn form(&self) -> String {
        let is_png = |file: &ImageFile| extension(&file.path).is_some_and(|extension| extension == "png");
        let kind = match self.files.iter().filter(|file| is_png(file)).count() {
            0 => "JPEG",
            count if count == self.files.len() => "PNG",
            _ => "JPEG and PNG",
        };
        let shape = if self.class_names.is_empty() { "images without labels" } else { "tree" };
        format!("{kind} {shape} from {}", self.dir.display())
    }
}

/// The folder of `split`: one named after it or, for the train split of a root without splits, the root.
fn find_dir(root: &Path, split: Split) -> Result<PathBuf, DataError> {
    let missing =
        |what: String, hint: &str| DataError::MissingFolder { what, path: root.to_owned(), hint: hint.into() };
    if !root.is_dir() {
        return Err(missing("images".into(), "check the path"));
    }
    match split_dir(root, split) {
        Some(dir) => Ok(dir),
        None if split == Split::Train && split_dir(root, Split::Test).is_none() => Ok(root.to_owned()),
        None => Err(missing(
            format!("a {split} split"),
            "expected a folder `train`, and beside it `test` or `val`, with a folder per class in each",
        )),
    }
}

/// Both splits of one root must have the same classes, else their sorted labels would mean different things.
fn check_same_classes(root: &Path, split: Split, dir: &Path, classes: &[String]) -> Result<(), DataError> {
    let other = match split {
        Split::Train => Split::Test,
        Split::Test => Split::Train,
    };
    let Some(other_dir) = split_dir(root, other) else { return Ok(()) };
    let other_classes = Entries::read(&other_dir)?.class_names();
    for (present, classes, absent, others) in
        [(dir, classes, &*other_dir, &*other_classes), (&other_dir, &other_classes, dir, classes)]
    {
        if let Some(class) = classes.iter().find(|class| !others.contains(class)) {
            let (present, absent) = (present.display(), absent.display());
            return Err(DataError::Inconsistent(format!(
                "class folder `{class}` is in {present} but not in {absent}: both splits need the same classes"
            )));
        }
    }
    Ok(())
}

/// What lies directly in a folder, sorted by name; hidden entries and files of other kinds are left out.
#[derive(Default)]
struct Entries {
    folders: Vec<PathBuf>,
    images: Vec<ImageFile>,
}

impl Entries {
    fn read(dir: &Path) -> Result<Self, DataError> {
        let error = |error| DataError::io(dir, error);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(error)? {
            paths.push(entry.map_err(error)?.path());
        }
        paths.sort();
        let mut entries = Self::default();
        for path in paths.into_iter().filter(|path| !is_hidden(path)) {
            let metadata = std::fs::metadata(&path).map_err(|error| DataError::io(&path, error))?;
            if metadata.is_dir() {
                entries.folders.push(path);
            } else if is_image(&path) {
                entries.images.push(ImageFile { path, bytes: metadata.len() });
            }
        }
        Ok(entries)
    }

    fn class_names(&self) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.folders.iter().map(name).collect()
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Whether a file has the name of an image and is not hidden.
pub(crate) fn is_image(path: &Path) -> bool {
    let known = |name: String| matches!(name.as_str(), "jpg" | "jpeg" | "png");
    !is_hidden(path) && extension(path).is_some_and(known)
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// The images below `dir`, at any depth.
///
/// # Errors
/// When there is none, or a folder cannot be read.
pub(crate) fn images_below(dir: &Path) -> Result<Vec<ImageFile>, DataError> {
    let mut files = Vec::new();
    collect(dir, 0, &mut files)?;
    if files.is_empty() { Err(DataError::no_images(dir)) } else { Ok(files) }
}

/// The images below the folder of a class.
///
/// # Errors
/// When there is none, or a folder cannot be read.
pub(crate) fn images_of_class(dir: &Path) -> Result<Vec<ImageFile>, DataError> {
    let mut files = Vec::new();
    collect(dir, 0, &mut files)?;
    let empty = || format!("empty class folder {}: put images into it or remove it", dir.display());
    if files.is_empty() { Err(DataError::Inconsistent(empty())) } else { Ok(files) }
}

fn collect(dir: &Path, depth: usize, files: &mut Vec<ImageFile>) -> Result<(), DataError> {
    if depth == MAX_DEPTH {
        let dir = dir.display();
        let sentence = format!("folders nest too deeply at {dir}: look for a link that leads back to a parent");
        return Err(DataError::Inconsistent(sentence));
    }
    let entries = Entries::read(dir)?;
    files.extend(entries.images);
    entries.folders.iter().try_for_each(|folder| collect(folder, depth + 1, files))
}

/// Whether all images are small enough to be kept decoded. A file whose header is unreadable does not decide; decoding
/// it says what is wrong.
fn is_small(source: &FileSource, files: &[ImageFile]) -> bool {
    let small_bytes = |file: &ImageFile| match source.dimensions(&file.path) {
        Ok((width, height)) if width.max(height) > SMALL_SIDE => None,
        Ok((width, height)) => Some((width * height * 3) as usize),
        Err(_) => Some(0),
    };
    // The first image nearly always answers for all, without opening every file of a large set.
    let is_large = |bytes: usize| bytes.saturating_mul(files.len()) > 2 * SMALL_SET_BYTES;
    if files.first().and_then(small_bytes).is_none_or(is_large) {
        return false;
    }
    let bytes = files.par_iter().map(small_bytes).try_reduce(|| 0, |a, b| Some(a + b));
    bytes.is_some_and(|bytes| bytes <= SMALL_SET_BYTES)
}

/// Decodes every file on all cores, keeps the images if there is a place for them, and returns the bad files in order.
fn decode_all(
    source: &FileSource,
    files: &[ImageFile],
    kept: &mut Option<Vec<Array3<u8>>>,
    on_bad: OnBadImage,
    (what, observer): (&str, &mut Observer<'_>),
) -> Result<Vec<BadImage>, DataError> {
    // A second or two of large images.
    const STRETCH: usize = 512;
    let (mut bad, keep) = (Vec::new(), kept.is_some());
    for (stretch, files_of_stretch) in files.chunks(STRETCH).enumerate() {
        let (done, total) = ((stretch * STRETCH) as u64, Some(files.len() as u64));
        report(observer, Progress { stage: Stage::Decode, what, done, total })?;
        let decode_one = |file: &ImageFile| source.decode(&file.path).map(|image| keep.then_some(image));
        let images: Vec<_> = files_of_stretch.par_iter().map(decode_one).collect();
        for image in images {
            match image {
                Ok(image) => kept.iter_mut().zip(image).for_each(|(kept, image)| kept.push(image)),
                Err(DataError::BadImage { path, reason }) if on_bad == OnBadImage::Skip => {
                    bad.push(BadImage { path, reason });
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bad)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;
    use crate::options::OpenOptions;
    use crate::sets::open as open_by_name;

    fn options(name: &str, root: &Path, on_bad_image: OnBadImage) -> OpenOptions {
        OpenOptions { name: name.into(), root: Some(root.to_owned()), partial: true, on_bad_image }
    }

    fn open_folder(root: &Path, split: Split) -> Result<Dataset, DataError> {
        open_by_name(&options("folder", root, OnBadImage::Fail), split)
    }

    fn write(path: &Path, image: impl Into<DynamicImage>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.into().save(path).unwrap();
    }

    /// An image that no reflection or transposition maps to itself.
    fn asymmetric(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, (3 * y) as u8, (x + 2 * y) as u8]))
    }

    /// Two classes with two images each, in both splits.
    fn small_tree(test: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for split in ["train", test] {
            for (class, file) in [("cat", "1.png"), ("cat", "0.png"), ("ant", "deep/er/a.PNG"), ("ant", "b.jpeg")] {
                write(&root.path().join(split).join(class).join(file), asymmetric(5, 4));
            }
        }
        root
    }

    #[test]
    fn labels_follow_the_sorted_class_folders() {
        for test in ["test", "val"] {
            let root = small_tree(test);
            for split in [Split::Train, Split::Test] {
                let set = open_folder(root.path(), split).unwrap();
                assert_eq!(set.class_names(), ["ant", "cat"]);
                assert_eq!(set.labels().unwrap(), [0, 0, 1, 1]);
                assert!(set.description().contains("JPEG and PNG tree"), "{}", set.description());
                assert!(set.description().ends_with("4 images"), "{}", set.description());
            }
        }
    }

    #[test]
    fn pixels_are_rows_columns_channels_in_memory_and_from_the_file() {
        let root = tempfile::tempdir().unwrap();
        for (class, width) in [("large", 65), ("small", 64)] {
            write(&root.path().join(class).join("train/x/a.png"), asymmetric(width, 40));
            let set = open_folder(&root.path().join(class), Split::Train).unwrap();
            let image = set.image(0).unwrap();
            assert_eq!((image.dim(), image.is_view()), ((40, width as usize, 3), class == "small"));
            let expected = asymmetric(width, 40);
            let at = |y: usize, x: usize, channel: usize| expected.get_pixel(x as u32, y as u32).0[channel];
            assert!(image.indexed_iter().all(|((y, x, channel), &value)| value == at(y, x, channel)));
        }
    }

    #[test]
    fn grey_and_transparent_images_and_misnamed_files_become_rgb() {
        let root = tempfile::tempdir().unwrap();
        let class = root.path().join("train/x");
        write(&class.join("0.png"), GrayImage::from_pixel(2, 2, Luma([9])));
        write(&class.join("1.png"), RgbaImage::from_pixel(2, 2, Rgba([1, 2, 3, 0])));
        write(&class.join("2.png"), asymmetric(2, 2));
        fs::rename(class.join("2.png"), class.join("2.JPEG")).unwrap();
        let set = open_folder(root.path(), Split::Train).unwrap();
        let first_pixel = |index| set.image(index).unwrap().iter().take(3).copied().collect::<Vec<_>>();
        assert_eq!([first_pixel(0), first_pixel(1), first_pixel(2)], [[9, 9, 9], [1, 2, 3], [0, 0, 0]]);
    }

    #[test]
    fn images_without_class_folders_have_no_labels() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("a.png"), asymmetric(3, 3));
        fs::write(root.path().join("notes.txt"), "not an image").unwrap();
        fs::create_dir(root.path().join(".hidden")).unwrap();
        let set = open_folder(root.path(), Split::Train).unwrap();
        assert_eq!((set.len(), set.labels(), set.class_names().len()), (1, None, 0));
        let message = open_folder(root.path(), Split::Test).unwrap_err().to_string();
        assert!(message.contains("a test split"), "{message}");
    }

    /// What opening says about a good tree after `damage`.
    fn after(damage: impl Fn(&Path)) -> String {
        let root = small_tree("test");
        damage(root.path());
        open_folder(root.path(), Split::Train).unwrap_err().to_string()
    }

    #[test]
    fn a_missing_root_is_named() {
        let message = after(|root| fs::remove_dir_all(root).unwrap());
        assert!(message.starts_with("no folder with images at /"), "{message}");
    }

    #[test]
    fn an_empty_class_folder_is_named() {
        let message = after(|root| {
            fs::create_dir_all(root.join("test/bee")).unwrap();
            fs::create_dir_all(root.join("train/bee")).unwrap();
        });
        assert!(message.starts_with("empty class folder") && message.contains("train/bee"), "{message}");
    }

    #[test]
    fn a_split_without_anything_is_named() {
        let message = after(|root| {
            fs::remove_dir_all(root.join("test")).unwrap();
            fs::remove_dir_all(root.join("train")).unwrap();
            fs::create_dir(root.join("train")).unwrap();
        });
        assert!(message.starts_with("no images in") && message.contains("train"), "{message}");
    }

    #[test]
    fn an_image_beside_the_class_folders_is_named() {
        let message = after(|root| write(&root.join("train/stray.png"), asymmetric(2, 2)));
        assert!(message.contains("stray.png lies beside class folders"), "{message}");
    }

    #[test]
    fn splits_with_other_classes_are_refused_either_way() {
        for (more, less) in [("train", "test"), ("test", "train")] {
            let message = after(|root| write(&root.join(more).join("bee/a.png"), asymmetric(2, 2)));
            let expected = message.contains("`bee` is in") && message.contains(&format!("/{less}:"));
            assert!(expected, "{message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_its_own_parent_ends_with_an_error() {
        let message = after(|root| {
            std::os::unix::fs::symlink(root.join("train/ant"), root.join("train/ant/again")).unwrap();
        });
        assert!(message.starts_with("folders nest too deeply"), "{message}");
    }

    const CORRUPT: &[u8] = b"\xff\xd8\xff\xe0 this is no JPEG";

    #[test]
    fn a_corrupt_image_is_named_or_skipped_and_listed() {
        let root = small_tree("test");
        let bad = root.path().join("train/ant/aa.jpg");
        fs::write(&bad, CORRUPT).unwrap();
        let message = open_folder(root.path(), Split::Train).unwrap_err().to_string();
        assert!(message.starts_with("bad image") && message.contains("train/ant/aa.jpg"), "{message}");

        let set = open_by_name(&options("folder", root.path(), OnBadImage::Skip), Split::Train).unwrap();
        assert_eq!((set.len(), set.labels().unwrap()), (4, &[0, 0, 1, 1][..]));
        assert_eq!(set.skipped().iter().map(|skipped| &skipped.path).collect::<Vec<_>>(), [&bad]);
        assert!(!set.skipped()[0].reason.is_empty());
        assert!(set.description().ends_with("4 images, 1 bad images skipped"), "{}", set.description());
    }

    #[test]
    fn large_images_are_checked_at_the_door_only_where_bad_ones_are_skipped() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("train/x/a.png"), asymmetric(65, 65));
        fs::write(root.path().join("train/x/b.jpg"), CORRUPT).unwrap();
        let set = open_folder(root.path(), Split::Train).unwrap();
        let message = set.image(1).unwrap_err().to_string();
        assert!(message.contains("b.jpg"), "{message}");
        let set = open_by_name(&options("folder", root.path(), OnBadImage::Skip), Split::Train).unwrap();
        assert_eq!((set.len(), set.skipped().len(), set.labels().unwrap()), (1, 1, &[0][..]));
    }

    #[test]
    fn a_set_of_bad_images_only_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("train/x")).unwrap();
        fs::write(root.path().join("train/x/b.jpg"), CORRUPT).unwrap();
        let result = open_by_name(&options("folder", root.path(), OnBadImage::Skip), Split::Train);
        let message = result.unwrap_err().to_string();
        assert!(message.starts_with("all 1 images in") && message.contains("b.jpg"), "{message}");
    }

    #[test]
    fn cifar10_opens_a_tree_of_its_ten_classes_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
        for (class, split) in classes.iter().flat_map(|class| [(class, "train"), (class, "test")]) {
            write(&root.path().join(split).join(class).join("0000.jpg"), asymmetric(32, 32));
        }
        let set = open_by_name(&options("cifar10", root.path(), OnBadImage::Fail), Split::Train).unwrap();
        assert_eq!((set.name(), set.len(), set.expected_len(), set.is_partial()), ("cifar10", 10, Some(50_000), true));
        assert!(set.description().contains("JPEG tree"), "{}", set.description());

        let whole = OpenOptions { partial: false, ..options("cifar10", root.path(), OnBadImage::Fail) };
        let message = open_by_name(&whole, Split::Test).unwrap_err().to_string();
        assert!(message.contains("found 10 images, expected 10000"), "{message}");

        fs::create_dir(root.path().join("train/cow")).unwrap();
        fs::create_dir(root.path().join("test/cow")).unwrap();
        write(&root.path().join("train/cow/0000.jpg"), asymmetric(32, 32));
        write(&root.path().join("test/cow/0000.jpg"), asymmetric(32, 32));
        let message = open_by_name(&whole, Split::Train).unwrap_err().to_string();
        assert!(
            message.contains("no folder with the classes of CIFAR-10") && message.contains("bird, cat"),
            "{message}"
        );
    }
}
