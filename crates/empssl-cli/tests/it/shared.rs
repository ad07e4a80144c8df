//! The program on genuine images; skipped with a printed line where they are not at hand.

use empssl_golden::genuine_images;

use crate::{empssl, stdout, succeeds, train};

#[test]
fn genuine_cifar10_records_train_and_say_how_many_they_are() {
    let Some(data) = genuine_images("cifar-10-batches-bin") else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = data.to_str().unwrap();
    succeeds(train(folder.path(), &["--dataset", "cifar10", "--data", data, "--partial", "--out", "run"]));
    let table = stdout(&succeeds(empssl(folder.path(), &["eval", "run", "--device", "cpu"])));
    assert!(table.contains("cifar10 (8068 of 50000 training and 1017 of 10000 test images)"), "{table}");
}

#[test]
fn genuine_sets_are_described() {
    let Some(data) = genuine_images("cifar-10-batches-bin") else { return };
    let data = data.to_str().unwrap();
    let info = |name: &str| {
        stdout(&succeeds(empssl(std::path::Path::new("."), &["data", "info", name, "--data", data, "--partial"])))
    };
    let (cifar10, cifar100) = (info("cifar10"), info("cifar100"));
    for part in ["images   8068 of 50000", "images   1017 of 10000", "classes  10", "airplane"] {
        assert!(cifar10.contains(part), "{cifar10}");
    }
    for part in ["images   486 of 50000", "images   916 of 10000", "classes  100", "32x32 to 32x32"] {
        assert!(cifar100.contains(part), "{cifar100}");
    }
}
