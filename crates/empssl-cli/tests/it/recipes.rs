//! The shipped recipes against what was published, and what `empssl recipe` says of one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{empssl, recipe, refuses, stdout, succeeds};

/// Every figure published for EMP-SSL's linear probe: data set, recipe, epochs, top-1.
const PUBLISHED: &[(&str, &str, u64, &[f64])] = &[
    ("cifar10", "one-epoch", 1, &[85.1, 84.2, 82.11]),
    ("cifar10", "one-epoch-200", 1, &[85.1, 84.2]),
    ("cifar10", "two-epochs", 1, &[84.2]),
    ("cifar10", "two-epochs", 2, &[84.2]),
    ("cifar10", "thirty-epochs", 1, &[80.6]),
    ("cifar10", "thirty-epochs", 10, &[90.7]),
    ("cifar10", "thirty-epochs", 30, &[93.1]),
    ("cifar10", "thirty-epochs-200", 1, &[82.6]),
    ("cifar10", "thirty-epochs-200", 10, &[91.5, 91.5]),
    ("cifar10", "thirty-epochs-200", 30, &[93.4]),
    ("cifar100", "one-epoch", 1, &[58.5, 58.5]),
    ("cifar100", "one-epoch-200", 1, &[58.5, 58.5]),
    ("cifar100", "two-epochs", 1, &[58.5]),
    ("cifar100", "two-epochs", 2, &[58.5]),
    ("cifar100", "thirty-epochs", 1, &[55.1]),
    ("cifar100", "thirty-epochs", 10, &[67.8]),
    ("cifar100", "thirty-epochs", 30, &[72.4]),
    ("cifar100", "thirty-epochs-200", 1, &[57.7]),
    ("cifar100", "thirty-epochs-200", 10, &[70.1, 70.1]),
    ("cifar100", "thirty-epochs-200", 30, &[73.3]),
    ("tiny-imagenet", "one-epoch", 1, &[38.1, 38.1]),
    ("tiny-imagenet", "one-epoch-200", 1, &[38.1, 38.1]),
    ("tiny-imagenet", "two-epochs", 1, &[38.1]),
    ("tiny-imagenet", "two-epochs", 2, &[38.1]),
    ("tiny-imagenet", "ten-epochs-200", 10, &[51.5, 51.5]),
    ("imagenet100", "one-epoch", 1, &[58.5, 58.5]),
    ("imagenet100", "one-epoch-200", 1, &[58.5, 58.5]),
    ("imagenet100", "two-epochs", 1, &[58.5]),
    ("imagenet100", "two-epochs", 2, &[58.5]),
    ("imagenet100", "ten-epochs-200", 10, &[78.9, 78.9]),
];

/// The names of the shipped recipes, `DATASET/NAME`.
fn shipped() -> BTreeSet<String> {
    let list = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    let folders = list(&recipe("")).into_iter().filter(|path| path.is_dir());
    folders
        .flat_map(|folder| list(&folder).into_iter().map(move |f| format!("{}/{}", name(&folder), name(&f))))
        .collect()
}

fn table(name: &str) -> toml::Table {
    fs::read_to_string(recipe(&format!("{name}.toml"))).unwrap().parse().unwrap()
}

/// The published figures of a recipe by epochs.
fn published(recipe: &toml::Table) -> BTreeMap<u64, Vec<f64>> {
    let mut found: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for row in recipe.get("published").and_then(toml::Value::as_array).into_iter().flatten() {
        assert_eq!(row["probe"].as_str(), Some("linear"));
        let epochs = row["epochs"].as_float().unwrap();
        found.entry(epochs as u64).or_default().push(row["top1"].as_float().unwrap());
    }
    found
}

#[test]
fn the_recipes_hold_every_published_figure_and_no_other() {
    let mut expected: BTreeMap<String, BTreeMap<u64, Vec<f64>>> = BTreeMap::new();
    for (dataset, recipe, epochs, top1) in PUBLISHED {
        expected.entry(format!("{dataset}/{recipe}")).or_default().insert(*epochs, top1.to_vec());
    }
    for name in shipped() {
        assert_eq!(published(&table(&name)), expected.remove(&name).unwrap_or_default(), "{name}");
    }
    assert!(expected.is_empty(), "no recipe for {:?}", expected.keys());
}

#[test]
fn every_published_figure_belongs_to_a_state_that_the_run_keeps() {
    for name in shipped() {
        let recipe = table(&name);
        let training = &recipe["training"];
        let kept: Vec<_> = training["snapshot_epochs"].as_array().unwrap().iter().map(|e| e.as_integer()).collect();
        let last = training["length"].get("epochs").and_then(toml::Value::as_integer);
        for epochs in published(&recipe).into_keys() {
            let epochs = Some(epochs as i64);
            assert!(kept.contains(&epochs) || last == epochs, "{name} never has a state after {epochs:?} epochs");
        }
    }
}

#[test]
fn recipes_of_one_kind_differ_only_where_their_names_say() {
    let differing = |a: &str, b: &str| -> Vec<String> {
        let (a, b) = (table(a), table(b));
        let keys = |section: &str| a[section].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
        let sections = a.keys().filter(|key| a[*key].is_table());
        sections
            .flat_map(|section| keys(section).into_iter().map(move |key| (section.clone(), key)))
            .filter(|(section, key)| a[section][key] != b[section][key])
            .map(|(section, key)| format!("{section}.{key}"))
            .collect()
    };
    for dataset in ["cifar10", "cifar100", "tiny-imagenet", "imagenet100"] {
        let one = format!("{dataset}/one-epoch");
        for (other, keys) in [
            ("one-epoch-200", &["training.memory", "training.n_patches"][..]),
            ("two-epochs", &["training.length", "training.snapshot_epochs"]),
            ("thirty-epochs", &["training.length", "training.snapshot_epochs"]),
            (
                "thirty-epochs-200",
                &["training.length", "training.memory", "training.n_patches", "training.snapshot_epochs"],
            ),
            ("ten-epochs-200", &["training.length", "training.memory", "training.n_patches"]),
        ] {
            let other = format!("{dataset}/{other}");
            if recipe(&format!("{other}.toml")).is_file() {
                let mut found = differing(&one, &other);
                found.sort();
                assert_eq!(found, keys, "{other}");
            }
        }
    }
}

#[test]
fn every_data_set_has_a_smoke_recipe() {
    let recipes = shipped();
    for dataset in empssl_data::sets::names() {
        assert!(recipes.contains(&format!("{dataset}/smoke")), "{dataset}");
    }
}

#[test]
fn a_recipe_is_printed_with_its_changes_and_outlined() {
    let folder = tempfile::tempdir().unwrap();
    let file = recipe("synthetic/smoke.toml");
    let arguments = ["recipe", file.to_str().unwrap(), "--set", "training.n_patches=3"];
    let text = stdout(&succeeds(empssl(folder.path(), &arguments)));
    let printed: toml::Table = text.parse().unwrap();
    assert_eq!(printed["training"]["n_patches"].as_integer(), Some(3));
    let json = stdout(&succeeds(empssl(folder.path(), &[&arguments[..], &["--json"]].concat())));
    let outline: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(outline["recipe_toml"].as_str().unwrap().trim_end(), text.trim_end());
    assert_eq!((&outline["training"]["steps"], &outline["training"]["n_patches"]), (&60.into(), &3.into()));
    let evaluation = &outline["evaluation"];
    assert_eq!(evaluation["images"], 2500);
    // Two random patches, lattices of 1, 4 and 2, and the whole image.
    let [untrained, trained] = ["untrained", "trained"].map(|network| &evaluation[network]);
    assert_eq!((&untrained["patches"], &trained["patches"]), (&5000.into(), &25_000.into()));
    // Of the random ones the first is kept by itself too.
    assert_eq!(trained["bytes"].as_u64(), untrained["bytes"].as_u64().map(|bytes| 6 * bytes));
    assert_eq!(evaluation["pixel_bytes"], 2500 * 3 * 32 * 32 * 4);
    assert_eq!((&outline["data"]["synthetic"], &outline["dataset"]), (&true.into(), &"synthetic".into()));
    let prints = outline["data"]["fingerprints"].as_array().unwrap();
    assert!(prints.iter().all(|print| print.as_str().unwrap().len() == 16) && prints[0] != prints[1], "{prints:?}");
}

#[test]
fn missing_images_and_wrong_recipes_are_refused_by_their_codes() {
    let folder = tempfile::tempdir().unwrap();
    let file = recipe("cifar10/smoke.toml");
    let file = file.to_str().unwrap();
    let sentence = refuses(&empssl(folder.path(), &["recipe", file, "--json", "--data", "nowhere"]), 3);
    assert!(sentence.contains("nowhere"), "{sentence}");
    let sentence = refuses(&empssl(folder.path(), &["recipe", file, "--set", "training.n_patch=3"]), 4);
    assert!(sentence.contains("did you mean `n_patches`?"), "{sentence}");
}

/// ImageNet-100 in its own layout: a folder per class in `train` and `val`, with one small photograph of noise in each.
fn draw_imagenet100(root: &Path) {
    let classes = fs::read_to_string(recipe("../data/imagenet100.csv")).unwrap();
    let wnids: Vec<&str> = classes.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    for (index, (split, wnid)) in wnids.iter().flat_map(|wnid| [("train", wnid), ("val", wnid)]).enumerate() {
        let folder = root.join(split).join(wnid);
        fs::create_dir_all(&folder).unwrap();
        let image = image::RgbImage::from_fn(50, 40, |x, y| {
            image::Rgb([(x * 5 + index as u32) as u8, (y * (index as u32 % 9 + 1)) as u8, (index * 7) as u8])
        });
        image.save(folder.join(format!("{wnid}_1.JPEG"))).unwrap();
    }
}

#[test]
fn the_recipes_of_imagenet100_run_on_a_tree_of_its_layout() {
    let folder = tempfile::tempdir().unwrap();
    draw_imagenet100(folder.path());
    let data = ["--data", ".", "--partial"];
    for name in ["smoke", "quick"] {
        let file = recipe(&format!("imagenet100/{name}.toml"));
        let short = ["training.length={steps=1}", "evaluation.probe.epochs=1", "evaluation.n_patches=1"];
        let arguments = crate::training(&file, &short);
        succeeds(empssl(folder.path(), &[&arguments[..], &data, &["--out", name]].concat()));
        succeeds(empssl(folder.path(), &["eval", name, "--device", "cpu"]));
        let report: Value =
            serde_json::from_str(&fs::read_to_string(folder.path().join(name).join("report.json")).unwrap()).unwrap();
        assert_eq!(report["partial_counts"]["train"], serde_json::json!({"found": 100, "expected": 126_689}));
        assert_eq!(report["labelled"]["n_test"], 100);
    }
}
