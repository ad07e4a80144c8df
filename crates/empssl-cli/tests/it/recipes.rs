//! The shipped recipes against what was published, and what `empssl recipe` says of one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;

use crate::{empssl, recipe, refuses, stderr, stdout, succeeds, train};

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

/// A recipe with every key, which the program is asked for once.
fn table(name: &str) -> toml::Table {
    static ASKED: Mutex<BTreeMap<String, toml::Table>> = Mutex::new(BTreeMap::new());
    let file = recipe(&format!("{name}.toml"));
    let ask = || stdout(&succeeds(empssl(Path::new("."), &["recipe", file.to_str().unwrap()]))).parse().unwrap();
    ASKED.lock().unwrap().entry(name.to_owned()).or_insert_with(ask).clone()
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
fn every_command_refuses_an_impossible_recipe_with_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = recipe("synthetic/smoke.toml");
    let file = file.to_str().unwrap();
    for (change, code, sentence) in [
        ("schedule.lr=nan", 4, "error: `schedule.lr` must be 0 or of a size from 1e-20 to 1e20"),
        ("optimizer.eta=-1.0", 4, "error: `optimizer.eta` must be positive and finite, found -1"),
        ("training.n_patches=1000000000", 4, "error: `training.n_patches` must be at most 1000000, found 1000000000"),
        ("training.memory={by-patches=9}", 4, "error: `training.memory.by-patches` must be a divisor of n_patches"),
        ("evaluation.labelled_images=9", 4, "error: `evaluation.probe.batch_size` must be at most the number of"),
        ("loss.eps_sq=1e-300", 4, "error: `loss.eps_sq` must be 0 or of a size from 1e-20 to 1e20"),
        ("dataset=cifar11", 3, "error: unknown data set `cifar11`"),
    ] {
        let set = ["--set", change];
        for command in [
            &["recipe", file][..],
            &["recipe", file, "--json"],
            &["doctor", "--recipe", file],
            &["train", "--recipe", file],
            &["bench", "step", "--recipe", file],
        ] {
            let found = refuses(&empssl(folder.path(), &[command, &set].concat()), code);
            assert!(found.starts_with(sentence), "{command:?}: {found}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn too_few_labelled_images_are_refused_before_features_are_computed() {
    let folder = tempfile::tempdir().unwrap();
    crate::refusals::tree(folder.path(), 5);
    let more = ["--dataset", "folder", "--data", "tree", "--out", "run"];
    let text = stderr(&succeeds(train(folder.path(), &more)));
    let sentence =
        "`evaluation.probe.batch_size` must be at most the number of labelled training images, found 100 with 10";
    assert!(text.contains(&format!("note: `empssl eval` will refuse this run: {sentence}")), "{text}");
    let refused = refuses(&empssl(folder.path(), &["eval", "run", "--device", "cpu"]), 4);
    assert!(refused.starts_with(&format!("error: {sentence}")), "{refused}");
    assert!(!folder.path().join("run/features").exists());
    let set = ["--set", "evaluation.probe.batch_size=4", "--set", "evaluation.probe.lr=nan"];
    let refused = refuses(&empssl(folder.path(), &[&["eval", "run", "--device", "cpu"], &set[..]].concat()), 4);
    assert!(refused.starts_with("error: `evaluation.probe.lr` must be 0 or of a size"), "{refused}");
    let file = recipe("folder/smoke.toml");
    let outline = ["recipe", file.to_str().unwrap(), "--json", "--data", "tree"];
    let small = [&outline[..], &["--set", "training.batch_size=5"]].concat();
    let refused = refuses(&empssl(folder.path(), &outline), 4);
    assert!(refused.starts_with("error: `training.batch_size` must be at most the number of images"), "{refused}");
    assert!(refuses(&empssl(folder.path(), &small), 4).starts_with(&format!("error: {sentence}")));
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
