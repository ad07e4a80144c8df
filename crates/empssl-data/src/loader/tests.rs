//! Whole loaders: which batches they yield, byte for byte, and which settings they refuse.

mod bounds;
mod ends;

use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use ndarray::Axis;
use proptest::prelude::*;

use super::*;
use crate::options::{OnBadImage, OpenOptions, Split};
use crate::patch::{PatchConfig, PatchKey};
use crate::sets::open;

static IMAGES: LazyLock<Dataset> = LazyLock::new(|| {
    let options = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
    open(&options, Split::Test).unwrap().subset(&(100..123).collect::<Vec<_>>()).unwrap()
});

fn sampler() -> PatchSampler {
    PatchSampler::new(&PatchConfig::cifar32()).unwrap()
}

pub(super) fn config() -> LoaderConfig {
    LoaderConfig {
        n_patches: 3,
        batch_size: 5,
        view: View::Augmented,
        order: Order::Shuffled,
        drop_last: false,
        seed: 7,
        epoch: 2,
        first_batch: 0,
        n_batches: None,
        rank: 0,
        world: 1,
        n_workers: 2,
        prefetch: 1,
    }
}

fn batches(config: &LoaderConfig) -> Vec<PatchBatch> {
    PatchLoader::new(&IMAGES, &sampler(), config).unwrap().map(Result::unwrap).collect()
}

fn same(a: &[PatchBatch], b: &[PatchBatch]) -> bool {
    let same =
        |a: &PatchBatch, b: &PatchBatch| a.patches() == b.patches() && a.indices == b.indices && a.labels == b.labels;
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

fn refusal(config: &LoaderConfig) -> String {
    PatchLoader::new(&IMAGES, &sampler(), config).unwrap_err().to_string()
}

#[test]
fn every_image_comes_once_with_its_label_and_its_own_patches() {
    let batches = batches(&config());
    assert_eq!(batches.iter().map(|batch| batch.indices.len()).collect::<Vec<_>>(), [5, 5, 5, 5, 3]);
    let mut seen = Vec::new();
    for batch in &batches {
        for (place, &index) in batch.indices.iter().enumerate() {
            seen.push(index);
            assert_eq!(batch.labels.as_ref().unwrap()[place], IMAGES.labels().unwrap()[index]);
            for patch in 0..3 {
                let mut expected = vec![0; 3 * 32 * 32];
                let key = PatchKey { seed: 7, epoch: 2, image: index as u64, patch };
                sampler().sample(IMAGES.image(index).unwrap().view(), key, &mut expected);
                let patches = batch.patches();
                let ours = patches.index_axis(Axis(0), patch as usize);
                assert_eq!(ours.index_axis(Axis(0), place).as_slice().unwrap(), expected);
            }
        }
    }
    assert_ne!(seen, (0..23).collect::<Vec<_>>());
    seen.sort_unstable();
    assert_eq!(seen, (0..23).collect::<Vec<_>>());
}

#[test]
fn the_number_of_workers_and_the_queue_change_no_byte() {
    let one = batches(&LoaderConfig { n_workers: 1, ..config() });
    for (n_workers, prefetch) in [(2, 1), (7, 0), (7, 9)] {
        assert!(same(&one, &batches(&LoaderConfig { n_workers, prefetch, ..config() })), "{n_workers} {prefetch}");
    }
}

#[test]
fn resuming_in_the_middle_gives_the_rest() {
    let whole = batches(&config());
    for first_batch in 0..=5 {
        let config = LoaderConfig { first_batch, ..config() };
        assert!(same(&whole[first_batch..], &batches(&config)), "from {first_batch}");
        assert_eq!(PatchLoader::new(&IMAGES, &sampler(), &config).unwrap().batches_per_epoch(), 5);
    }
}

#[test]
fn one_loader_for_a_run_gives_the_batches_of_its_epochs() {
    for (order, drop_last) in [(Order::Shuffled, true), (Order::Shuffled, false), (Order::Sequential, false)] {
        let config = LoaderConfig { order, drop_last, ..config() };
        let epochs = (2..5).flat_map(|epoch| batches(&LoaderConfig { epoch, ..config.clone() }));
        let (epochs, per_epoch) = (epochs.collect::<Vec<_>>(), if drop_last { 4 } else { 5 });
        assert_eq!(epochs.len(), 3 * per_epoch);
        for (first_batch, n_batches) in [(0, 3 * per_epoch), (3, 2), (3, 0), (per_epoch, per_epoch + 1), (1, 9)] {
            let config = LoaderConfig { first_batch, n_batches: Some(n_batches), ..config.clone() };
            let mut loader = PatchLoader::new(&IMAGES, &sampler(), &config).unwrap();
            assert_eq!(loader.size_hint().1, Some(n_batches));
            let run: Vec<_> = loader.by_ref().map(Result::unwrap).collect();
            assert!(same(&epochs[first_batch..][..n_batches], &run), "{n_batches} from {first_batch}");
            assert_eq!(loader.size_hint().1, Some(0));
        }
    }
}

#[test]
fn seed_and_epoch_change_order_and_patches() {
    let base = batches(&config());
    for other in [LoaderConfig { seed: 8, ..config() }, LoaderConfig { epoch: 3, ..config() }] {
        let other = batches(&other);
        assert_ne!(base[0].indices, other[0].indices);
    }
    let sequential = LoaderConfig { order: Order::Sequential, ..config() };
    let other = batches(&LoaderConfig { epoch: 3, ..sequential.clone() });
    let base = batches(&sequential);
    assert_eq!((&base[0].indices, &other[0].indices), (&vec![0, 1, 2, 3, 4], &vec![0, 1, 2, 3, 4]));
    assert_ne!(base[0].patches(), other[0].patches());
}

#[test]
fn an_incomplete_batch_can_be_dropped() {
    let batches = batches(&LoaderConfig { drop_last: true, ..config() });
    assert_eq!(batches.iter().map(|batch| batch.patches().dim()).collect::<Vec<_>>(), [(3, 5, 3, 32, 32); 4]);
}

#[test]
fn the_whole_view_is_the_image_itself() {
    let config = LoaderConfig { n_patches: 1, view: View::Whole, order: Order::Sequential, ..config() };
    let batch = batches(&config).remove(1);
    for (place, &index) in batch.indices.iter().enumerate() {
        let image = IMAGES.image(index).unwrap();
        let patches = batch.patches();
        let ours = patches.index_axis(Axis(0), 0);
        assert_eq!(ours.index_axis(Axis(0), place), image.view().permuted_axes([2, 0, 1]));
    }
}

#[test]
fn patches_drawn_by_pixels_do_not_depend_on_the_place_of_an_image() {
    let patches = |view, places: [usize; 5]| {
        let config = LoaderConfig { view, order: Order::Sequential, ..config() };
        let set = IMAGES.subset(&places).unwrap();
        let batch = PatchLoader::new(&set, &sampler(), &config).unwrap().next().unwrap().unwrap();
        let image = |place: usize| batch.patches().index_axis(Axis(1), place).iter().copied().collect::<Vec<u8>>();
        (0..5).map(image).collect::<Vec<_>>()
    };
    // The first picture comes twice.
    let one = patches(View::AugmentedByPixels, [0, 1, 2, 3, 0]);
    let other = patches(View::AugmentedByPixels, [3, 0, 2, 1, 7]);
    assert_eq!([&one[0], &one[1], &one[2], &one[3]], [&other[1], &other[3], &other[2], &other[0]]);
    assert_eq!(one[0], one[4]);
    assert!((1..4).all(|place| one[0] != one[place]));
    let by_place = patches(View::Augmented, [0, 1, 2, 3, 0]);
    assert_ne!(by_place[0], by_place[4]);
}

#[test]
fn the_grid_view_is_the_sampler_s_grid() {
    let config = LoaderConfig { n_patches: 4, view: View::Grid { flip: true }, order: Order::Sequential, ..config() };
    let batch = batches(&config).remove(0);
    let mut expected = vec![0; 3 * 32 * 32];
    for (patch, place) in [(0, 0), (1, 4), (2, 0), (3, 3)] {
        let (image, grid) = (IMAGES.image(place).unwrap(), crate::PatchGrid::new(4, true).unwrap());
        sampler().grid(image.view(), &grid, patch, &mut expected);
        let patches = batch.patches();
        let ours = patches.index_axis(Axis(0), patch);
        assert_eq!(ours.index_axis(Axis(0), place).as_slice().unwrap(), expected);
    }
    assert!(same(&batches(&config), &batches(&LoaderConfig { seed: 8, epoch: 9, ..config.clone() })));
}

/// The slices of one batch side by side.
fn joined(parts: &[PatchBatch]) -> PatchBatch {
    let views: Vec<_> = parts.iter().map(PatchBatch::patches).collect();
    let labels = parts.iter().flat_map(|part| part.labels.clone().unwrap()).collect();
    let indices = parts.iter().flat_map(|part| part.indices.clone()).collect();
    PatchBatch::new(ndarray::concatenate(Axis(1), &views).unwrap(), Some(labels), indices).unwrap()
}

#[test]
fn ranks_side_by_side_are_the_batch_of_one_process() {
    // 23 images: the last batch of 8 has 7, that of 20 has 3, fewer than ranks.
    for (batch_size, world, first_batch) in [(8, 2, 0), (8, 4, 1), (20, 4, 0), (20, 5, 1)] {
        let one = LoaderConfig { batch_size, first_batch, ..config() };
        let mut ranks: Vec<_> = (0..world)
            .map(|rank| {
                let config = LoaderConfig { rank, world, n_workers: 1 + rank, ..one.clone() };
                batches(&config).into_iter()
            })
            .collect();
        let union: Vec<_> = std::iter::from_fn(|| {
            let parts: Vec<_> = ranks.iter_mut().filter_map(Iterator::next).collect();
            (parts.len() == world).then(|| joined(&parts))
        })
        .collect();
        assert!(ranks.iter_mut().all(|rank| rank.next().is_none()));
        assert!(same(&batches(&one), &union), "b {batch_size}, {world} ranks, from {first_batch}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_way_of_loading_gives_the_same_bytes(
        (len, per_rank, world) in (1_usize..30, 1_usize..6, 1_usize..5),
        (drop_last, resumed) in (any::<bool>(), 0.0_f64..=1.0),
        (n_workers, prefetch) in (1_usize..4, 0_usize..4),
    ) {
        let images = IMAGES.subset(&(0..len).map(|image| image % 23).collect::<Vec<_>>()).unwrap();
        let small = PatchSampler::new(&PatchConfig { side: 4, ..PatchConfig::cifar32() }).unwrap();
        let one = LoaderConfig { batch_size: per_rank * world, drop_last, n_workers: 1, ..config() };
        prop_assume!(!drop_last || len >= one.batch_size);
        let load = |config: &LoaderConfig| -> Vec<PatchBatch> {
            PatchLoader::new(&images, &small, config).unwrap().map(Result::unwrap).collect()
        };
        let whole = load(&one);
        let first_batch = (resumed * whole.len() as f64) as usize;
        let ranks: Vec<_> = (0..world)
            .map(|rank| load(&LoaderConfig { rank, world, first_batch, n_workers, prefetch, ..one.clone() }))
            .collect();
        prop_assert!(ranks.iter().all(|rank| rank.len() == whole.len() - first_batch));
        for (batch, expected) in whole[first_batch..].iter().enumerate() {
            let parts = ranks.iter().map(|rank| rank[batch].patches()).collect::<Vec<_>>();
            prop_assert_eq!(ndarray::concatenate(Axis(1), &parts).unwrap(), expected.patches());
            let indices: Vec<usize> = ranks.iter().flat_map(|rank| rank[batch].indices.clone()).collect();
            prop_assert_eq!(&indices, &expected.indices);
        }
    }
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let zero = |key| format!("`{key}` is 0, expected at least 1");
    assert_eq!(refusal(&LoaderConfig { n_patches: 0, ..config() }), zero("n_patches"));
    assert_eq!(refusal(&LoaderConfig { batch_size: 0, ..config() }), zero("batch_size"));
    assert_eq!(refusal(&LoaderConfig { n_workers: 0, ..config() }), zero("n_workers"));
    let huge = refusal(&LoaderConfig { n_patches: 1 << 32, ..config() });
    assert!(huge.starts_with("`n_patches` is 4294967296, expected at most"), "{huge}");
    let large = PatchSampler::new(&PatchConfig { side: 4096, ..PatchConfig::cifar32() }).unwrap();
    let everything = LoaderConfig { n_patches: u32::MAX as usize, batch_size: 1 << 40, ..config() };
    let images = IMAGES.subset(&[0; 100]).unwrap();
    let unaddressable = PatchLoader::new(&images, &large, &everything).unwrap_err().to_string();
    assert!(unaddressable.ends_with("that fit the memory"), "{unaddressable}");
    let whole = refusal(&LoaderConfig { view: View::Whole, ..config() });
    assert!(whole.starts_with("`n_patches` is 3, expected 1 where"), "{whole}");
    let odd = refusal(&LoaderConfig { n_patches: 3, view: View::Grid { flip: true }, ..config() });
    assert!(odd.starts_with("`n_patches` is 3, expected twice a product"), "{odd}");
    assert_eq!(refusal(&LoaderConfig { world: 0, ..config() }), zero("world"));
    let rank = refusal(&LoaderConfig { rank: 5, world: 5, ..config() });
    assert_eq!(rank, "`rank` is 5, expected less than `world`, which is 5");
    let world = refusal(&LoaderConfig { world: 2, ..config() });
    assert_eq!(world, "`batch_size` is 5, expected a multiple of `world`, which is 2");
    let late = refusal(&LoaderConfig { first_batch: 6, ..config() });
    assert!(late.starts_with("`first_batch` is 6, expected at most 5"), "{late}");
}

#[test]
fn fewer_images_than_one_batch_are_refused() {
    let message = refusal(&LoaderConfig { batch_size: 24, drop_last: true, ..config() });
    assert!(message.starts_with("23 images do not fill one batch of 24"), "{message}");
    let empty = IMAGES.subset(&[]).unwrap();
    let message = PatchLoader::new(&empty, &sampler(), &config()).unwrap_err().to_string();
    assert!(message.starts_with("0 images do not fill"), "{message}");
    assert_eq!(batches(&LoaderConfig { batch_size: 24, ..config() }).len(), 1);
}
