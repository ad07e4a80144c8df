//! How loaders end: dropped early, by a bad file, by a panic.

use std::sync::mpsc;
use std::time::Duration;

use ndarray::{Array3, CowArray, Ix3};

use super::*;

/// Runs `work` on a thread and fails, rather than hangs, if it does not end.
pub(super) fn within_ten_seconds(work: impl FnOnce() + Send + 'static) {
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

/// Images without a file, whose every value is their number; some fail or panic.
pub(super) struct Numbers {
    pub(super) failing: Vec<usize>,
    pub(super) panicking: Vec<usize>,
}

impl ImageSource for Numbers {
    fn labels(&self, _: &[usize]) -> Option<Vec<u32>> {
        None
    }

    fn image(&self, index: usize) -> Result<CowArray<'_, u8, Ix3>, DataError> {
        assert!(!self.panicking.contains(&index), "no patch of {index}");
        if self.failing.contains(&index) {
            return Err(DataError::IndexOutOfRange { index, len: 0 });
        }
        Ok(Array3::from_elem((4, 4, 3), index as u8).into())
    }
}

/// A loader of 64 images in their order, in batches of 16.
pub(super) fn numbers(
    failing: &[usize],
    panicking: &[usize],
    config: &LoaderConfig,
    memory: impl BatchMemory + 'static,
) -> PatchLoader {
    let source = Numbers { failing: failing.to_vec(), panicking: panicking.to_vec() };
    let config = LoaderConfig { batch_size: 16, order: Order::Sequential, ..config.clone() };
    let crops = PatchConfig { side: 2, jitter_p: 0.0, grayscale_p: 0.0, solarize_p: 0.0, ..PatchConfig::cifar32() };
    let crops = PatchSampler::new(&crops).unwrap();
    PatchLoader::start(Box::new(source), 64, &crops, &config, Arc::new(memory)).unwrap()
}

/// How many batches came before the error, and its message.
fn failure(mut loader: PatchLoader) -> (usize, String) {
    let mut good = 0;
    loop {
        match loader.next().expect("an error before the end") {
            Ok(_) => good += 1,
            Err(error) => {
                assert!(loader.next().is_none(), "an error ends the iteration");
                return (good, error.to_string());
            }
        }
    }
}

#[test]
fn a_panic_of_a_worker_is_an_error_with_the_image() {
    within_ten_seconds(|| {
        for (n_workers, prefetch) in [(1, 0), (2, 1), (7, 4)] {
            let config = LoaderConfig { n_workers, prefetch, ..config() };
            let (good, message) = failure(numbers(&[], &[37], &config, HeapMemory));
            assert_eq!((good, message.as_str()), (2, "making the patches of image 37 panicked: no patch of 37"));
        }
    });
}

#[test]
fn of_several_failures_the_first_image_is_named_however_fast_the_others_were() {
    within_ten_seconds(|| {
        for round in 0..50 {
            let config = LoaderConfig { n_workers: 1 + round % 7, prefetch: round % 4, ..config() };
            let (good, message) = failure(numbers(&[29, 23, 40, 63], &[30], &config, HeapMemory));
            assert_eq!((good, message.as_str()), (1, "image index 23 is out of range: the set has 0 images"));
        }
    });
}

/// Memory that does something else than giving a good buffer.
struct Failing(fn(usize) -> Result<Box<dyn PatchBuffer>, DataError>);

impl BatchMemory for Failing {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
        (self.0)(bytes)
    }
}

#[test]
fn memory_that_fails_ends_the_iteration_with_its_reason() {
    within_ten_seconds(|| {
        let message = |then| {
            let config = LoaderConfig { prefetch: 3, ..config() };
            failure(numbers(&[], &[], &config, Failing(then))).1
        };
        let none = |bytes| Err(DataError::NoMemory { bytes, reason: "the device is full".into() });
        let expected = "no memory for a batch of 576 bytes: the device is full; use fewer patches or smaller batches";
        assert_eq!(message(none), expected);
        let short = message(|bytes| Ok(Box::new(vec![0; bytes - 1])));
        assert_eq!(short, "the memory for a batch has 575 bytes, expected at least 576");
        let panicking = message(|_| panic!("no device"));
        assert!(panicking.starts_with("the loader stopped before batch 0: one of its threads panicked"), "{panicking}");
    });
}

#[test]
fn the_heap_refuses_what_no_machine_has() {
    let bytes = 1 << 61;
    let message = HeapMemory.allocate(bytes).err().unwrap().to_string();
    assert!(message.starts_with(&format!("no memory for a batch of {bytes} bytes: ")), "{message}");
}
