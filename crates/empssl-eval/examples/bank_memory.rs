//! The anonymous memory that banks take while they are computed and scored, at any size.
//!
//! ```text
//! cargo run --release -p empssl-eval --example bank_memory -- FOLDER [TRAIN TEST WIDTH EPOCHS]
//! ```
//!
//! The banks are written to FOLDER and removed with it by whoever made it; without sizes they are those of CIFAR-10 in
//! the published setting: 50,000 and 10,000 images of 4,096 features, 100 epochs of the probe.

#[path = "../tests/it/budget.rs"]
mod budget;

use budget::{Job, measure};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = arguments.iter().skip(1).filter_map(|text| text.parse().ok()).collect();
    let (Some(folder), 1 | 5) = (arguments.first(), arguments.len()) else {
        eprintln!("usage: bank_memory FOLDER [TRAIN TEST WIDTH EPOCHS]");
        std::process::exit(2);
    };
    let job = match numbers[..] {
        [train, test, width, epochs] => Job { train, test, width: width as i64, epochs },
        _ => Job { train: 50_000, test: 10_000, width: 4096, epochs: 100 },
    };
    let Some(measured) = measure(job, folder.as_ref()) else {
        eprintln!("this system does not tell the anonymous memory of a process");
        std::process::exit(1);
    };
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let [build, probe, knn, optimum] = measured.seconds;
    println!("{job:?}");
    println!("building: {:.0} MB anonymous, {build:.1} s", mb(measured.build));
    println!("building and scoring: {:.0} MB anonymous", mb(measured.build_and_score));
    println!("linear probe: top-1 {:.1} %, {probe:.1} s", measured.top1[0]);
    println!("weighted kNN: top-1 {:.1} %, {knn:.1} s", measured.top1[1]);
    println!("L-BFGS probe: top-1 {:.1} %, {optimum:.1} s", measured.top1[2]);
}
