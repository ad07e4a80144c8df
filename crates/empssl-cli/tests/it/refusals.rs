//! Bad input gets one sentence that says what, where and what to do, and an exit code that is not zero.

use std::fs;
use std::path::Path;

use crate::{empssl, recipe, refuses, stderr, succeeds, train};

/// Runs training on a data set that must be refused with exit code 3.
#[track_caller]
fn refuses_data(folder: &Path, arguments: &[&str], parts: &[&str]) {
    let sentence = refuses(&train(folder, arguments), 3);
    assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
    assert!(!folder.join("runs").exists(), "nothing is left behind by a refused run");
}

/// A CIFAR-10 folder with so many records in each training file, labelled by `label(record)`.
fn cifar10(folder: &Path, records: usize, label: impl Fn(usize) -> u8) {
    let files = folder.join("cifar-10-batches-bin");
    fs::create_dir_all(&files).unwrap();
    let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    fs::write(files.join("batches.meta.txt"), names.join("\n")).unwrap();
    let bytes: Vec<u8> =
        (0..records).flat_map(|i| std::iter::once(label(i)).chain((0..3072).map(move |p| (p * 7 + i) as u8))).collect();
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        fs::write(files.join(format!("{name}.bin")), &bytes).unwrap();
    }
}

#[test]
fn a_missing_folder_and_a_missing_flag() {
    let folder = tempfile::tempdir().unwrap();
    refuses_data(folder.path(), &["--dataset", "cifar10", "--data", "/no/such/folder"], &["/no/such/folder"]);
    refuses_data(folder.path(), &["--dataset", "cifar10"], &["CIFAR-10", "--data DIR"]);
    refuses_data(folder.path(), &["--dataset", "cifar11", "--data", "."], &["cifar11"]);
}

#[test]
fn too_few_records_unless_partial() {
    let folder = tempfile::tempdir().unwrap();
    cifar10(folder.path(), 4, |i| i as u8);
    let data = folder.path().to_str().unwrap();
    refuses_data(
        folder.path(),
        &["--dataset", "cifar10", "--data", data],
        &["found 20 images, expected 50000", "--partial"],
    );
    succeeds(train(folder.path(), &["--dataset", "cifar10", "--data", data, "--partial", "--out", "run"]));
}

#[test]
fn a_truncated_record_file_and_a_label_out_of_range() {
    let folder = tempfile::tempdir().unwrap();
    cifar10(folder.path(), 4, |i| i as u8);
    let file = folder.path().join("cifar-10-batches-bin/data_batch_3.bin");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let data = folder.path().to_str().unwrap();
    let arguments = ["--dataset", "cifar10", "--data", data, "--partial"];
    refuses_data(folder.path(), &arguments, &["data_batch_3.bin", "3073"]);
    cifar10(folder.path(), 4, |i| 8 + i as u8);
    refuses_data(folder.path(), &arguments, &["data_batch_1.bin", "label", "10"]);
}

/// A tree of two classes with so many small PNG images each.
pub(crate) fn tree(folder: &Path, images: usize) {
    for (split, class) in [("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")] {
        let class = folder.join("tree").join(split).join(class);
        fs::create_dir_all(&class).unwrap();
        for index in 0..images {
            let shade = (index * 40) as u8;
            image::RgbImage::from_fn(40, 36, |x, y| image::Rgb([shade, x as u8 * 6, y as u8 * 7]))
                .save(class.join(format!("{index}.png")))
                .unwrap();
        }
    }
}

#[test]
fn a_corrupt_image_fails_by_name_or_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 5);
    fs::write(folder.path().join("tree/train/dog/7.jpg"), b"\xff\xd8\xff\xe0 no picture").unwrap();
    let arguments = ["--dataset", "folder", "--data", "tree"];
    refuses_data(folder.path(), &arguments, &["tree/train/dog/7.jpg", "--on-bad-image skip"]);
    let skip = [&arguments[..], &["--on-bad-image", "skip", "--out", "run"]].concat();
    succeeds(train(folder.path(), &skip));
    let run = fs::read_to_string(folder.path().join("run/run.json")).unwrap();
    assert!(run.contains("\"n_images\": 10"), "{run}");
}

#[test]
fn an_empty_class_folder() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 5);
    fs::create_dir(folder.path().join("tree/train/emu")).unwrap();
    refuses_data(folder.path(), &["--dataset", "folder", "--data", "tree"], &["emu"]);
}

#[test]
fn images_without_labels_train_and_say_why_they_are_not_scored() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 5);
    let flat = folder.path().join("flat");
    fs::create_dir(&flat).unwrap();
    for (index, class) in ["train/cat", "train/dog"].iter().enumerate() {
        for image in fs::read_dir(folder.path().join("tree").join(class)).unwrap() {
            let image = image.unwrap().path();
            fs::copy(&image, flat.join(format!("{index}-{}", image.file_name().unwrap().to_str().unwrap()))).unwrap();
        }
    }
    succeeds(train(folder.path(), &["--dataset", "folder", "--data", "flat", "--out", "run"]));
    let sentence = refuses(&empssl(folder.path(), &["eval", "run", "--device", "cpu"]), 3);
    assert!(sentence.contains("the images have no labels") && sentence.contains("folder of its own"), "{sentence}");
}

#[test]
fn fewer_images_than_one_batch() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 3);
    let sentence = refuses(&train(folder.path(), &["--dataset", "folder", "--data", "tree"]), 4);
    assert!(
        sentence.contains("`training.batch_size` must be at most the number of images")
            && sentence.contains("8 with 6 images"),
        "{sentence}"
    );
}

#[test]
fn impossible_settings() {
    let folder = tempfile::tempdir().unwrap();
    for (changes, named) in [
        (vec!["training.n_patches=0"], "n_patches"),
        (vec!["training.n_patches=1", "training.batch_size=1"], "batch_size"),
        (vec!["training.memory={by-patches=3}"], "a divisor of n_patches"),
        (vec!["training.precision=fp16"], "expected one of `fp32`, `tf32`, `bf16`"),
        (vec!["schedule.lr=nan"], "lr"),
        (vec!["optimizer.momentum=1.5"], "momentum"),
        (vec!["network.base_width=0"], "base_width"),
        (vec!["trainig.n_patches=3"], "did you mean `training`?"),
    ] {
        let set: Vec<&str> = changes.iter().flat_map(|change| ["--set", change]).collect();
        let sentence = refuses(&train(folder.path(), &set), 4);
        assert!(sentence.contains(named), "{sentence}");
        assert!(!folder.path().join("runs").exists());
    }
}

#[test]
fn an_unknown_key_of_a_recipe_file() {
    let folder = tempfile::tempdir().unwrap();
    let base = recipe("synthetic/smoke.toml");
    let text = format!("extends = {:?}\n[training]\nbatchsize = 3\n", base.display().to_string());
    fs::write(folder.path().join("mine.toml"), text).unwrap();
    let sentence = refuses(&empssl(folder.path(), &["train", "--recipe", "mine.toml"]), 4);
    assert_eq!(sentence, "error: mine.toml: line 3: unknown key `batchsize`; did you mean `batch_size`?");
    let sentence = refuses(&empssl(folder.path(), &["train", "--recipe", "nowhere.toml"]), 6);
    assert!(sentence.contains("cannot read the recipe nowhere.toml"), "{sentence}");
}

#[test]
fn a_folder_that_holds_a_run_and_one_that_holds_none() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(train(folder.path(), &["--out", "run"]));
    let before = fs::read(folder.path().join("run/checkpoint.safetensors")).unwrap();
    let sentence = refuses(&train(folder.path(), &["--out", "run", "--seed", "1"]), 6);
    assert!(sentence.contains("already holds a run") && sentence.contains("--force"), "{sentence}");
    assert_eq!(fs::read(folder.path().join("run/checkpoint.safetensors")).unwrap(), before);
    succeeds(train(folder.path(), &["--out", "run", "--seed", "1", "--force"]));
    assert_ne!(fs::read(folder.path().join("run/checkpoint.safetensors")).unwrap(), before);
    let sentence = refuses(&empssl(folder.path(), &["eval", "."]), 6);
    assert!(sentence.contains("holds no run"), "{sentence}");
}

#[test]
fn an_unreadable_or_foreign_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(train(folder.path(), &["--out", "run"]));
    let file = folder.path().join("run/checkpoint.safetensors");
    let good = fs::read(&file).unwrap();
    let eval = |code| refuses(&empssl(folder.path(), &["eval", "run", "--device", "cpu"]), code);
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    assert!(eval(6).contains("checkpoint.safetensors"));
    fs::write(&file, b"PK\x03\x04").unwrap();
    assert!(eval(6).contains("checkpoint.safetensors"));
    let wide = ["--out", "other", "--set", "network.hidden=48"];
    succeeds(train(folder.path(), &wide));
    fs::copy(folder.path().join("other/checkpoint.safetensors"), &file).unwrap();
    assert!(eval(6).contains("`network.hidden` is 48 there and 64 here"));
    fs::remove_file(&file).unwrap();
    assert!(eval(6).contains("checkpoint.safetensors"));
}

#[test]
fn a_device_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let sentence = refuses(&empssl(folder.path(), &["doctor", "--device", "cuda:77"]), 5);
    assert!(sentence.contains("CUDA"), "{sentence}");
    let output = empssl(folder.path(), &["doctor", "--device", "gpu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("auto, cpu, cuda or cuda:N"), "{}", stderr(&output));
}

#[test]
fn a_step_that_cannot_fit_into_memory() {
    let folder = tempfile::tempdir().unwrap();
    let huge = ["--set", "training.n_patches=100000", "--set", "network.base_width=64"];
    let sentence = refuses(&train(folder.path(), &huge), 1);
    assert!(
        sentence.contains("out of memory") && sentence.contains("were free") && sentence.contains("would fit"),
        "{sentence}"
    );
}

#[test]
fn an_evaluation_by_several_processes_is_refused_by_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    for (more, variables) in [
        (&["--nproc", "3"][..], &[][..]),
        (&[], &[("RANK", "0"), ("WORLD_SIZE", "3")]),
        (&[], &[("SLURM_PROCID", "2"), ("SLURM_STEP_NUM_TASKS", "3")]),
    ] {
        let mut command = crate::command(folder.path(), &[&["eval", "run"], more].concat());
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let sentence = refuses(&output, 2);
        assert!(
            sentence.ends_with(
                "`empssl eval` is one process on one device, but 3 were asked for: start it once, without --nproc, torchrun \
                 or srun"
            ),
            "{sentence}"
        );
    }
}
