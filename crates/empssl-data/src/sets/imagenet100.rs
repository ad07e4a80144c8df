//! ImageNet-100: a hundred classes of ILSVRC2012, from a tree of its own or out of the full one.
//!
//! The classes are those of `data/imagenet100.csv`; labels follow their sorted wnids.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{ImageSet, Request, check_none_absent, truth, unknown_image};
use crate::dataset::Dataset;
use crate::dataset::store::{FileSource, ImageFile};
use crate::dataset::tree::{images_below, images_of_class, is_image};
use crate::error::DataError;
use crate::options::Split;
use crate::patch::PatchConfig;
use crate::progress::Observer;

/// The classes: wnid, ILSVRC2012 id and name, sorted by wnid.
const CLASSES: &str = include_str!("../../../../data/imagenet100.csv");
const SOLUTION: &str = "LOC_val_solution.csv";
const GROUND_TRUTH: &str = "ILSVRC2012_validation_ground_truth.txt";

/// One of the hundred classes.
struct Class {
    wnid: &'static str,
    /// The id in the development kit of ILSVRC2012, 1 to 1000.
    id: u16,
    name: &'static str,
}

fn classes() -> Vec<Class> {
    let class = |line: &'static str| {
        let mut fields = line.splitn(3, ',');
        let (wnid, id, name) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?);
        Some(Class { wnid, id, name })
    };
    CLASSES.lines().skip(1).filter_map(class).collect()
}

/// The test split is the validation split of ILSVRC2012.
fn open(request: &Request<'_>, observer: &mut Observer<'_>) -> Result<Dataset, DataError> {
    let (classes, split) = (classes(), request.split);
    let base = find_base(request.options.root())?;
    let dir = base.join(folder(split));
    if !dir.is_dir() {
        let hint = format!("expected the folder `{}` beside the other split", folder(split));
        return Err(DataError::MissingFolder { what: format!("ImageNet-100's {split} split"), path: base, hint });
    }
    let labelled = match split {
        Split::Test if is_flat(&dir, &classes) => flat(request.options.root(), &base, &dir, &classes)?,
        _ => by_class_folder(&dir, &classes)?,
    };
    let names = classes.iter().map(|class| class.name.to_owned()).collect();
    request.of_files((FileSource::Disk, &dir), names, labelled, observer)
}

/// Whether the folders of the hundred classes, the full archive's tree or flat validation images lie at this folder.
fn recognises(root: &Path) -> bool {
    let classes = classes();
    let holds_set = |dir: &Path| {
        let has_classes = classes.iter().all(|class| dir.join(class.wnid).is_dir());
        has_classes || dir.join("ILSVRC2012_val_00000001.JPEG").is_file()
    };
    find_base(root).is_ok_and(|base| {
        base.ends_with("CLS-LOC") || Split::ALL.iter().any(|split| holds_set(&base.join(folder(*split))))
    })
}

fn folder(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "val",
    }
}

/// The folder with `train` and `val`: the root, or where Kaggle's archive of the full set has them.
fn find_base(root: &Path) -> Result<PathBuf, DataError> {
    let places = ["", "imagenet100", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"]
        .map(|place| root.join(place).components().collect::<PathBuf>());
    let holds_split = |dir: &PathBuf| dir.join("train").is_dir() || dir.join("val").is_dir();
    places.into_iter().find(holds_split).ok_or_else(|| DataError::MissingFolder {
        what: "ImageNet-100 or ILSVRC2012".into(),
        path: root.to_owned(),
        hint: "expected `train` and `val`, or `ILSVRC/Data/CLS-LOC` with both, as Kaggle's archive unpacks".into(),
    })
}

/// Whether images lie here and no class has a folder.
fn is_flat(dir: &Path, classes: &[Class]) -> bool {
    let has_images =
        |mut entries: std::fs::ReadDir| entries.any(|entry| entry.is_ok_and(|entry| is_image(&entry.path())));
    std::fs::read_dir(dir).is_ok_and(has_images) && classes.iter().all(|class| !dir.join(class.wnid).is_dir())
}

/// The images in the folders of the hundred classes; other folders are other classes of the full set.
fn by_class_folder(dir: &Path, classes: &[Class]) -> Result<Vec<(u32, ImageFile)>, DataError> {
    let wnids = classes.iter().map(|class| class.wnid);
    check_none_absent(dir, wnids.filter(|wnid| !dir.join(wnid).is_dir()), classes.len())?;
    let mut labelled = Vec::new();
    for (label, class) in (0..).zip(classes) {
        labelled.extend(images_of_class(&dir.join(class.wnid))?.into_iter().map(|file| (label, file)));
    }
    Ok(labelled)
}

/// The images of the hundred classes out of a folder with the images of all.
fn flat(root: &Path, base: &Path, dir: &Path, classes: &[Class]) -> Result<Vec<(u32, ImageFile)>, DataError> {
    let truth = Truth::find(root, base, dir, classes)?;
    let mut labelled = Vec::new();
    for file in images_below(dir)? {
        let stem = file.path.file_stem().and_then(|stem| stem.to_str());
        match stem.and_then(|stem| truth.labels.get(stem)) {
            None => return Err(unknown_image(&file.path, &truth.path)),
            Some(None) => {}
            Some(Some(label)) => labelled.push((*label, file)),
        }
    }
    Ok(labelled)
}

/// The file that says which validation image is of which class.
struct Truth {
    path: PathBuf,
    /// The label of every image, by its name without extension; `None` for one of the other classes.
    labels: HashMap<String, Option<u32>>,
}

impl Truth {
    /// Looks beside the images, and in every folder from there up to the root and, where the root is itself within the
    /// archive's tree, above it.
    fn find(root: &Path, base: &Path, dir: &Path, classes: &[Class]) -> Result<Self, DataError> {
        let above = if root.ends_with("ILSVRC") || root.ends_with("CLS-LOC") { 3 } else { 0 };
        let up_to_root = dir.ancestors().take_while(|place| place.starts_with(root));
        let places: Vec<PathBuf> = up_to_root.chain(root.ancestors().skip(1).take(above)).map(Path::to_owned).collect();
        let beside = |file: &str| places.iter().map(|place| place.join(file)).find(|path| path.is_file());
        if let Some(path) = beside(SOLUTION) {
            let label = |wnid: &str| (0..).zip(classes).find(|(_, class)| class.wnid == wnid).map(|(label, _)| label);
            let wnids = parse(&path, truth::solution)?;
            let labels = wnids.into_iter().map(|(image, wnid)| (image, label(&wnid))).collect();
            return Ok(Self { path, labels });
        }
        let in_kit = format!("ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}");
        if let Some(path) = beside(GROUND_TRUTH).or_else(|| beside(&in_kit)) {
            let label = |id: u16| (0..).zip(classes).find(|(_, class)| class.id == id).map(|(label, _)| label);
            let ids = (1..).zip(parse(&path, truth::ground_truth)?);
            let labels = ids.map(|(number, id): (u32, _)| (format!("ILSVRC2012_val_{number:08}"), label(id))).collect();
            return Ok(Self { path, labels });
        }
        Err(DataError::MissingFile {
            path: base.join(SOLUTION),
            hint: format!(
                "the images in {} have no class folders; put Kaggle's {SOLUTION} or the development kit's {GROUND_TRUTH} \
                 there, or sort them into class folders",
                dir.display()
            ),
        })
    }
}

fn parse<T>(path: &Path, parser: impl Fn(&[u8]) -> Result<T, String>) -> Result<T, DataError> {
    let bytes = std::fs::read(path).map_err(|error| DataError::io(path, error))?;
    parser(&bytes).map_err(|reason| DataError::malformed("validation truth", path, reason))
}

/// ImageNet-100.
pub(crate) const SET: ImageSet = ImageSet {
    counts: Some([126_689, 5_000]),
    n_classes: Some(100),
    class_names: || classes().iter().map(|class| class.name).collect(),
    patches: PatchConfig::imagenet224,
    instead_of_fetching: "register at image-net.org, download the ILSVRC 2012 training and validation images, and point \
                          --data at their folder; the 100 classes are picked when it is opened",
    looks_for: "a train or val folder with the hundred classes' folders, ILSVRC/Data/CLS-LOC",
    ..ImageSet::new("imagenet100", "ImageNet-100", recognises, open)
};

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::open as open_by_name;
    use super::*;
    use crate::options::{OnBadImage, OpenOptions};

    /// A class that is not among the hundred, and its id.
    const OTHER: (&str, u16) = ("n01440764", 449);

    fn options(root: &Path) -> OpenOptions {
        let root = Some(root.to_owned());
        OpenOptions { name: "imagenet100".into(), root, partial: true, on_bad_image: OnBadImage::Fail }
    }

    fn open_test(root: &Path) -> Result<Dataset, DataError> {
        open_by_name(&options(root), Split::Test)
    }

    /// A PNG file of one colour, named as a JPEG file, which does not matter.
    fn write(path: &Path, colour: u8) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let image = image::RgbImage::from_pixel(3, 2, image::Rgb([colour, 255 - colour, 7]));
        image.save_with_format(path, image::ImageFormat::Png).unwrap();
    }

    /// The validation images in the order of their numbers: two of every class and one of another class, as
    /// (number, wnid, ILSVRC id, colour).
    fn validation() -> Vec<(usize, String, u16, u8)> {
        let ours = classes().into_iter().map(|class| (class.wnid.to_owned(), class.id));
        let all: Vec<_> = ours.rev().chain([(OTHER.0.to_owned(), OTHER.1)]).collect();
        let twice = all.iter().chain(&all).enumerate();
        twice.map(|(place, (wnid, id))| (place + 1, wnid.clone(), *id, place as u8)).collect()
    }

    fn file_name(number: usize) -> String {
        format!("ILSVRC2012_val_{number:08}.JPEG")
    }

    fn sorted_into_folders(val: &Path) {
        validation()
            .iter()
            .for_each(|(number, wnid, _, colour)| write(&val.join(wnid).join(file_name(*number)), *colour));
    }

    fn all_in_one_folder(val: &Path) {
        validation().iter().for_each(|(number, _, _, colour)| write(&val.join(file_name(*number)), *colour));
    }

    fn write_solution(path: &Path) {
        let line = |(number, wnid, _, _): &(usize, String, u16, u8)| {
            format!("ILSVRC2012_val_{number:08},{wnid} 1 2 3 4 {wnid} 5 6 7 8 \n")
        };
        let lines: String = validation().iter().rev().map(line).collect();
        fs::write(path, format!("ImageId,PredictionString\n{lines}")).unwrap();
    }

    fn write_ground_truth(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, validation().iter().map(|(_, _, id, _)| format!("{id}\n")).collect::<String>()).unwrap();
    }

    #[test]
    fn the_table_has_a_hundred_sorted_classes() {
        let classes = classes();
        assert_eq!((classes.len(), CLASSES.lines().count()), (100, 101));
        assert!(classes.windows(2).all(|pair| pair[0].wnid < pair[1].wnid));
        let mut ids: Vec<u16> = classes.iter().map(|class| class.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() == 100 && ids[0] >= 1 && ids[99] <= 1000);
        assert_eq!((classes[0].wnid, classes[0].id, classes[0].name), ("n01558993", 391, "robin"));
        assert!(classes.iter().all(|class| class.wnid != OTHER.0 && class.id != OTHER.1));
    }

    #[test]
    fn every_form_of_the_validation_split_gives_the_same_images() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        sorted_into_folders(&at("own/val"));
        all_in_one_folder(&at("solved/val"));
        write_solution(&at("solved/LOC_val_solution.csv"));
        all_in_one_folder(&at("devkit/val"));
        write_ground_truth(&at("devkit/ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"));
        all_in_one_folder(&at("beside/val"));
        write_ground_truth(&at("beside/val/ILSVRC2012_validation_ground_truth.txt"));
        all_in_one_folder(&at("kaggle/ILSVRC/Data/CLS-LOC/val"));
        write_solution(&at("kaggle/LOC_val_solution.csv"));
        let sets: Vec<Dataset> =
            ["own", "solved", "devkit", "beside", "kaggle", "kaggle/ILSVRC", "kaggle/ILSVRC/Data/CLS-LOC"]
                .iter()
                .map(|form| open_test(&at(form)).unwrap_or_else(|error| panic!("{form}: {error}")))
                .collect();
        let first = &sets[0];
        assert_eq!((first.len(), first.labels().unwrap()[..4].to_vec()), (200, vec![0, 0, 1, 1]));
        assert_eq!((&*first.class_names()[0], first.expected_len()), ("robin", Some(5_000)));
        // The first class is the last but one of the list: images 100 and 201.
        assert_eq!(first.image(0).unwrap().iter().take(2).copied().collect::<Vec<_>>(), [99, 156]);
        assert_eq!(first.image(1).unwrap()[[0, 0, 0]], 200);
        for other in &sets[1..] {
            assert_eq!((other.labels(), other.class_names()), (first.labels(), first.class_names()));
            assert!((0..200).all(|index| other.image(index).unwrap() == first.image(index).unwrap()));
        }
    }

    #[test]
    fn the_train_split_is_taken_out_of_the_full_tree() {
        let root = tempfile::tempdir().unwrap();
        let train = root.path().join("ILSVRC/Data/CLS-LOC/train");
        sorted_into_folders(&train);
        let set = open_by_name(&options(root.path()), Split::Train).unwrap();
        assert_eq!((set.len(), set.is_partial(), set.expected_len()), (200, true, Some(126_689)));
        let whole = OpenOptions { partial: false, ..options(root.path()) };
        let message = open_by_name(&whole, Split::Train).unwrap_err().to_string();
        assert!(message.contains("found 200 images, expected 126689"), "{message}");

        fs::remove_dir_all(train.join("n01558993")).unwrap();
        let message = open_by_name(&options(root.path()), Split::Train).unwrap_err().to_string();
        let expected = "no folder for class `n01558993` in ";
        assert!(message.starts_with(expected) && message.ends_with("1 of 100 classes are missing there"), "{message}");
        fs::create_dir(train.join("n01558993")).unwrap();
        let message = open_by_name(&options(root.path()), Split::Train).unwrap_err().to_string();
        assert!(message.starts_with("empty class folder") && message.contains("n01558993"), "{message}");
    }

    /// What opening a flat validation split says after `damage`.
    fn refusal(damage: impl Fn(&Path)) -> String {
        let root = tempfile::tempdir().unwrap();
        all_in_one_folder(&root.path().join("val"));
        damage(root.path());
        open_test(root.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_flat_split_without_its_truth_is_refused() {
        let message = refusal(|_| {});
        assert!(message.starts_with("missing file") && message.contains(GROUND_TRUTH), "{message}");
    }

    #[test]
    fn a_file_that_the_truth_does_not_name_is_refused() {
        let message = refusal(|root| {
            write_solution(&root.join(SOLUTION));
            write(&root.join("val/stranger.JPEG"), 1);
        });
        assert!(message.contains("stranger.JPEG is not in") && message.contains(SOLUTION), "{message}");
        let no_images_number =
            ["ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_1.JPEG", "ILSVRC2012_val_+0000001.JPEG"];
        for stranger in ["stranger.JPEG", "ILSVRC2012_val_00000203.JPEG"].into_iter().chain(no_images_number) {
            let message = refusal(|root| {
                write_ground_truth(&root.join(GROUND_TRUTH));
                write(&root.join("val").join(stranger), 1);
            });
            assert!(message.contains(stranger) && message.contains(GROUND_TRUTH), "{message}");
        }
    }

    #[test]
    fn an_id_out_of_range_is_refused_with_its_line() {
        let message = refusal(|root| fs::write(root.join(GROUND_TRUTH), "1\n1001\n").unwrap());
        assert!(message.starts_with("malformed validation truth"), "{message}");
        assert!(message.ends_with("line 2 is `1001`, expected an id from 1 to 1000"), "{message}");
    }

    #[test]
    fn other_folders_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let message = open_test(root.path()).unwrap_err().to_string();
        assert!(message.starts_with("no folder with ImageNet-100 or ILSVRC2012"), "{message}");
        write(&root.path().join("val/cat/a.JPEG"), 1);
        let message = open_test(root.path()).unwrap_err().to_string();
        assert!(message.ends_with("100 of 100 classes are missing there"), "{message}");
    }
}
