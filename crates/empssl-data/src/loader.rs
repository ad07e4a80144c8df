//! Walking a data set in batches: the order, the worker threads, the bounded queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use ndarray::{Array5, Axis};
use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::patch::{PatchKey, PatchSampler};
use crate::rng::shuffled;

/// What is seen of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// n random patches.
    Augmented,
    /// The whole image, resized to s x s (unchanged if it has that size) and not augmented; n is 1.
    Whole,
}

/// The order of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Random, another one for every seed and epoch.
    Shuffled,
    /// As they are in the data set.
    Sequential,
}

/// How to walk a data set.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Patches per image, n.
    pub n_patches: usize,
    /// Images per batch, b.
    pub batch_size: usize,
    /// What is seen of an image.
    pub view: View,
    /// The order of the images.
    pub order: Order,
    /// Leave out the last batch if it has fewer than b images.
    pub drop_last: bool,
    /// The seed of the run.
    pub seed: u64,
    /// The pass over the data; part of the address of every random number.
    pub epoch: u64,
    /// The batch to start with. The batches before it are not made, so resuming costs nothing.
    pub first_batch: usize,
    /// Threads that make patches. Their number changes the speed, never the bytes.
    pub n_workers: usize,
    /// Finished batches that may wait. Besides them one batch is being made and one is the caller's.
    pub prefetch: usize,
}

impl LoaderConfig {
    fn check(&self, images: usize, side: usize) -> Result<(), DataError> {
        let counts = [("n_patches", self.n_patches), ("batch_size", self.batch_size), ("n_workers", self.n_workers)];
        if let Some((key, count)) = counts.into_iter().find(|&(_, count)| count == 0) {
            return Err(DataError::setting(key, count, "at least 1"));
        }
        if u32::try_from(self.n_patches).is_err() {
            return Err(DataError::setting("n_patches", self.n_patches, format!("at most {}", u32::MAX)));
        }
        if self.batch_bytes(images, side).is_none() {
            let expected = format!("patches of side {side} of {} images that fit the memory", self.batch_size);
            return Err(DataError::setting("n_patches", self.n_patches, expected));
        }
        if self.view == View::Whole && self.n_patches != 1 {
            return Err(DataError::setting("n_patches", self.n_patches, "1 where the view is the whole image"));
        }
        if self.n_batches(images) == 0 {
            return Err(DataError::TooFewImages { images, batch_size: self.batch_size });
        }
        if self.first_batch > self.n_batches(images) {
            let expected = format!("at most {}, the batches of an epoch", self.n_batches(images));
            return Err(DataError::setting("first_batch", self.first_batch, expected));
        }
        Ok(())
    }

    /// The bytes of a batch; `None` if no machine could address them.
    fn batch_bytes(&self, images: usize, side: usize) -> Option<usize> {
        let factors = [self.n_patches, self.batch_size.min(images), 3, side, side];
        let bytes = factors.into_iter().try_fold(1, usize::checked_mul)?;
        isize::try_from(bytes).is_ok().then_some(bytes)
    }

    fn n_batches(&self, images: usize) -> usize {
        if self.drop_last { images / self.batch_size } else { images.div_ceil(self.batch_size) }
    }
}

/// The patches of b images.
#[derive(Clone, Debug)]
pub struct PatchBatch {
    /// `[n, b, 3, s, s]`: the patch axis comes first, so that flattening the first two gives the patch-major rows that
    /// the network and the loss expect.
    pub patches: Array5<u8>,
    /// The class of every image, `[b]`; `None` for images without labels.
    pub labels: Option<Vec<u32>>,
    /// The index of every image in the data set, `[b]`.
    pub indices: Vec<usize>,
}

/// Yields the batches of one epoch in order, made ahead of time by worker threads.
///
/// The first error ends the iteration. Dropping the loader early stops the workers within one image's time.
#[derive(Debug)]
pub struct PatchLoader {
    n_batches: usize,
    next_batch: usize,
    queue: Option<Receiver<Result<PatchBatch, DataError>>>,
    stop: Arc<AtomicBool>,
    producer: Option<JoinHandle<()>>,
}

impl PatchLoader {
    /// Checks the settings and starts the workers.
    ///
    /// # Errors
    /// When a setting cannot work, the images do not fill one batch, or no thread can be started.
    pub fn new(dataset: &Dataset, sampler: &PatchSampler, config: &LoaderConfig) -> Result<Self, DataError> {
        config.check(dataset.len(), sampler.side())?;
        dataset.check_serves(sampler.config())?;
        let n_batches = config.n_batches(dataset.len());
        let no_threads = |reason: &dyn ToString| DataError::NoThreads { reason: reason.to_string() };
        let name = |worker| format!("patches-{worker}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(config.n_workers).thread_name(name).build();
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, queue) = bounded(config.prefetch);
        let producer = Producer {
            dataset: dataset.clone(),
            sampler: sampler.clone(),
            config: config.clone(),
            order: match config.order {
                Order::Shuffled => shuffled(dataset.len(), config.seed, config.epoch),
                Order::Sequential => (0..dataset.len()).collect(),
            },
            stop: Arc::clone(&stop),
            pool: pool.map_err(|error| no_threads(&error))?,
        };
        let thread = std::thread::Builder::new().name("batches".into());
        let producer = thread.spawn(move || producer.run(&sender)).map_err(|error| no_threads(&error))?;
        Ok(Self { n_batches, next_batch: config.first_batch, queue: Some(queue), stop, producer: Some(producer) })
    }

    /// The number of batches in the epoch, including those before the first one asked for.
    pub fn n_batches(&self) -> usize {
        self.n_batches
    }
}

impl Iterator for PatchLoader {
    type Item = Result<PatchBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.next_batch;
        if batch >= self.n_batches {
            return None;
        }
        let received = self.queue.as_ref()?.recv();
        let item = received.unwrap_or(Err(DataError::LoaderStopped { batch }));
        self.next_batch = if item.is_ok() { batch + 1 } else { self.n_batches };
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.n_batches - self.next_batch;
        (left.min(1), Some(left))
    }
}

impl Drop for PatchLoader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A producer that waits for room in the queue wakes up when the queue is gone.
        self.queue = None;
        if let Some(producer) = self.producer.take() {
            // A panic of the producer was reported by `next`; there is nothing to add here.
            let _ = producer.join();
        }
    }
}

/// Makes batches one after the other, the images of a batch in parallel.
struct Producer {
    dataset: Dataset,
    sampler: PatchSampler,
    config: LoaderConfig,
    order: Vec<usize>,
    stop: Arc<AtomicBool>,
    pool: rayon::ThreadPool,
}

impl Producer {
    fn run(&self, queue: &Sender<Result<PatchBatch, DataError>>) {
        let LoaderConfig { batch_size, first_batch, .. } = self.config;
        let n_batches = self.config.n_batches(self.order.len());
        for indices in self.order.chunks(batch_size).take(n_batches).skip(first_batch) {
            let Some(batch) = self.pool.install(|| self.make(indices)).transpose() else { return };
            let failed = batch.is_err();
            if queue.send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// Makes one batch, or nothing if the loader was dropped meanwhile.
    fn make(&self, indices: &[usize]) -> Result<Option<PatchBatch>, DataError> {
        let side = self.sampler.side();
        let mut patches = Array5::zeros((self.config.n_patches, indices.len(), 3, side, side));
        let images = patches.axis_iter_mut(Axis(1)).into_par_iter().zip(indices);
        images.try_for_each(|(mut patches, &index)| {
            if self.stop.load(Ordering::Relaxed) {
                return Ok::<(), DataError>(());
            }
            let image = self.dataset.image(index)?;
            for (patch, mut out) in (0_u32..).zip(patches.outer_iter_mut()) {
                let Some(out) = out.as_slice_mut() else { unreachable!("one patch of a batch is contiguous") };
                let key = PatchKey { seed: self.config.seed, epoch: self.config.epoch, image: index as u64, patch };
                match self.config.view {
                    View::Augmented => self.sampler.sample(image.view(), key, out),
                    View::Whole => self.sampler.whole(image.view(), out),
                }
            }
            Ok(())
        })?;
        if self.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let labels = self.dataset.labels().map(|labels| indices.iter().map(|&index| labels[index]).collect());
        Ok(Some(PatchBatch { patches, labels, indices: indices.to_vec() }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::dataset::{OnBadImage, OpenOptions, Split, open};
    use crate::patch::PatchConfig;

    static IMAGES: LazyLock<Dataset> = LazyLock::new(|| {
        let options =
            OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        open(&options, Split::Test).unwrap().subset(&(100..123).collect::<Vec<_>>()).unwrap()
    });

    fn sampler() -> PatchSampler {
        PatchSampler::new(&PatchConfig::cifar32()).unwrap()
    }

    fn config() -> LoaderConfig {
        LoaderConfig {
            n_patches: 3,
            batch_size: 5,
            view: View::Augmented,
            order: Order::Shuffled,
            drop_last: false,
            seed: 7,
            epoch: 2,
            first_batch: 0,
            n_workers: 2,
            prefetch: 1,
        }
    }

    fn batches(config: &LoaderConfig) -> Vec<PatchBatch> {
        PatchLoader::new(&IMAGES, &sampler(), config).unwrap().map(Result::unwrap).collect()
    }

    fn same(a: &[PatchBatch], b: &[PatchBatch]) -> bool {
        let same =
            |a: &PatchBatch, b: &PatchBatch| a.patches == b.patches && a.indices == b.indices && a.labels == b.labels;
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
                    let ours = batch.patches.index_axis(Axis(0), patch as usize);
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
            assert_eq!(PatchLoader::new(&IMAGES, &sampler(), &config).unwrap().n_batches(), 5);
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
        assert_ne!(base[0].patches, other[0].patches);
    }

    #[test]
    fn an_incomplete_batch_can_be_dropped() {
        let batches = batches(&LoaderConfig { drop_last: true, ..config() });
        assert_eq!(batches.iter().map(|batch| batch.patches.dim()).collect::<Vec<_>>(), [(3, 5, 3, 32, 32); 4]);
    }

    #[test]
    fn the_whole_view_is_the_image_itself() {
        let config = LoaderConfig { n_patches: 1, view: View::Whole, order: Order::Sequential, ..config() };
        let batch = batches(&config).remove(1);
        for (place, &index) in batch.indices.iter().enumerate() {
            let image = IMAGES.image(index).unwrap();
            let ours = batch.patches.index_axis(Axis(0), 0);
            assert_eq!(ours.index_axis(Axis(0), place), image.view().permuted_axes([2, 0, 1]));
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

    /// Runs `work` on a thread and fails, rather than hangs, if it does not end.
    fn within_ten_seconds(work: impl FnOnce() + Send + 'static) {
        let (done, wait) = mpsc::channel();
        std::thread::spawn(move || {
            work();
            done.send(()).unwrap();
        });
        wait.recv_timeout(Duration::from_secs(10)).expect("still running after ten seconds, or panicked");
    }

    #[test]
    fn dropping_the_loader_early_does_not_hang() {
        within_ten_seconds(|| {
            for (taken, prefetch) in [(0, 0), (0, 3), (1, 0), (2, 1), (5, 1)] {
                let mut loader = PatchLoader::new(&IMAGES, &sampler(), &LoaderConfig { prefetch, ..config() }).unwrap();
                assert_eq!(loader.by_ref().take(taken).filter(Result::is_ok).count(), taken);
            }
        });
    }

    #[test]
    fn dropping_the_loader_does_not_wait_for_the_batch_being_made() {
        within_ten_seconds(|| {
            // A batch of hours.
            let config = LoaderConfig { n_patches: 1 << 16, batch_size: 1 << 20, ..config() };
            let images = IMAGES.subset(&[0; 23]).unwrap();
            let small = PatchSampler::new(&PatchConfig { side: 1, ..PatchConfig::cifar32() }).unwrap();
            drop(PatchLoader::new(&images, &small, &config).unwrap());
        });
    }

    #[test]
    fn a_bad_file_ends_the_iteration_with_its_name() {
        within_ten_seconds(|| {
            let root = tempfile::tempdir().unwrap();
            let class = root.path().join("train/x");
            std::fs::create_dir_all(&class).unwrap();
            for file in ["a.png", "c.png"] {
                image::RgbImage::new(65, 65).save(class.join(file)).unwrap();
            }
            std::fs::write(class.join("b.png"), b"\x89PNG\r\n\x1a\n but no more").unwrap();
            let root = Some(root.path().to_owned());
            let options = OpenOptions { name: "folder".into(), root, partial: false, on_bad_image: OnBadImage::Fail };
            let images = open(&options, Split::Train).unwrap();
            let config = LoaderConfig { batch_size: 1, order: Order::Sequential, ..config() };
            let mut loader = PatchLoader::new(&images, &sampler(), &config).unwrap();
            assert!(loader.next().unwrap().is_ok());
            let message = loader.next().unwrap().unwrap_err().to_string();
            assert!(message.starts_with("bad image") && message.contains("b.png"), "{message}");
            assert!(loader.next().is_none());
        });
    }
}
