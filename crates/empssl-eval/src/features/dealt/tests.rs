//! Batches that are dealt out: the bits of one process, whatever the number of ranks, and what is refused.

use std::path::Path;

use ndarray::Array5;

use super::*;
use crate::features::{BankFile, BankSpec, bytes_of};
use crate::testing::{OPTIONS, on_ranks, refusal};

/// Pixels in float64, and their squares in float32, of which there are two.
struct Two;

impl FeatureExtractor for Two {
    fn outputs(&self) -> Vec<&str> {
        vec!["pixels", "squares"]
    }

    fn extract(&self, patches: &Tensor, wanted: &[&str]) -> Vec<Tensor> {
        let pixels = patches.flatten(1, -1);
        let give = |name: &&str| match *name {
            "squares" => pixels.square().narrow(1, 0, 2).to_kind(Kind::Float),
            _ => pixels.shallow_clone(),
        };
        wanted.iter().map(give).collect()
    }
}

/// Twenty-three images in batches of five.
fn batches() -> Vec<PatchBatch> {
    let images: Vec<usize> = (0..23).collect();
    let batch = |images: &[usize]| {
        let labels: Vec<u32> = images.iter().map(|image| (image % 4) as u32).collect();
        let mut byte = images[0] as u8;
        let patches = Array5::from_shape_simple_fn((4, images.len(), 3, 1, 1), || {
            byte = byte.wrapping_mul(5).wrapping_add(7);
            byte
        });
        PatchBatch::new(patches, Some(labels), images.to_vec()).unwrap()
    };
    images.chunks(5).map(batch).collect()
}

fn spec() -> BankSpec {
    let kept = Kept { outputs: vec!["pixels".to_owned(), "squares".to_owned()], counts: vec![1, 4] };
    BankSpec { identity: [].into(), kept, ids: (0..23).map(|image| 100 + image).collect(), n_classes: 4 }
}

fn own(group: &ProcessGroup) -> impl Iterator<Item = Result<PatchBatch, DataError>> {
    batches().into_iter().skip(group.rank()).step_by(group.world()).map(Ok)
}

/// What a rank does that is not the first.
fn serve(group: &ProcessGroup) -> Result<Vec<f64>, EvalError> {
    walk_among(group, &Two, own(group), &spec().kept, &OPTIONS, 23, &mut |_| panic!("only rank 0 sees features"))
}

/// All numbers of a file, and the images that were told of while it was written.
fn numbers(file: &BankFile) -> Vec<Vec<u8>> {
    let Kept { outputs, counts } = file.kept();
    let features = outputs.iter().flat_map(|output| counts.iter().map(move |count| (output, *count)));
    let mut all: Vec<Tensor> = features.map(|(output, count)| file.features(output, count).unwrap()).collect();
    all.extend([file.labels().unwrap(), file.ids().unwrap()]);
    all.iter().map(|tensor| bytes_of(tensor).unwrap()).collect()
}

fn build(group: &ProcessGroup, path: &Path) -> Result<(BankFile, Vec<usize>), EvalError> {
    let mut told = Vec::new();
    let batches = own(group);
    let file = BankFile::build_among(group, (path, "test"), &spec(), &Two, batches, &OPTIONS, &mut |n| told.push(n));
    Ok((file?, told))
}

#[test]
fn one_two_four_and_seven_ranks_write_the_file_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let alone = batches().into_iter().map(Ok);
    let mut told = Vec::new();
    let one = BankFile::build(&path("one"), "test", &spec(), &Two, alone, &OPTIONS, &mut |n| told.push(n)).unwrap();
    let expected = numbers(&one);
    assert_eq!((expected.len(), &told), (6, &vec![5, 10, 15, 20, 23]));
    for world in [1, 2, 4, 7] {
        let file = path(&world.to_string());
        let found = on_ranks(world, |group| match group.rank() {
            0 => build(group, &file).map(Some),
            _ => serve(group).map(|_| None),
        });
        let found: Result<Vec<_>, _> = found.into_iter().collect();
        let Some((file, shown)) = found.unwrap().into_iter().flatten().next() else { panic!("rank 0 wrote no file") };
        assert_eq!(shown, told, "{world} ranks");
        assert!(numbers(&file) == expected, "{world} ranks have other bits");
        assert_eq!(file.bytes(), one.bytes());
        assert!(file.seconds(4).unwrap() >= file.seconds(1).unwrap());
    }
}

#[test]
fn a_rank_with_other_batches_is_refused_by_their_size() {
    let found = on_ranks(2, |group| {
        // Rank 1 walks the batches of rank 0, of which there is one more than of its own.
        let wrong = batches().into_iter().step_by(2).map(Ok);
        walk_among(group, &Two, wrong, &spec().kept, &OPTIONS, 23, &mut |_| Ok(()))
    });
    let found: Vec<String> = found.into_iter().map(refusal).collect();
    assert_eq!(found[1], "the images of a batch that was dealt out must be 0, found 3");
    assert!(found[0].contains("failed: the images of a batch that was dealt out must be 0"), "{}", found[0]);
}
