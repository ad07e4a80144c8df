//! The prefetcher against a device whose copies end late, and memory that notices who writes to it when.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use empssl_data::{OnBadImage, OpenOptions, PatchConfig, Split};

use super::*;
use crate::config::tests::config;

/// What happened to the batch of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Its copy was asked for.
    Begun(usize),
    /// Its copy ended.
    Done(usize),
    /// Later work was put behind its copy.
    Admitted(usize),
    /// Its step was asked for.
    Stepped(usize),
}

/// A device and a host, shared by everything that happens to them.
#[derive(Clone, Default)]
struct World(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    log: Vec<What>,
    n_begun: usize,
    /// Addresses of the buffers that copies read.
    read: HashSet<usize>,
    /// What was done to such a buffer.
    breaches: Vec<&'static str>,
    n_buffers: usize,
    is_broken: bool,
    /// The copy that is refused.
    refused: Option<usize>,
}

impl World {
    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn log(&self, what: What) {
        self.with(|state| state.log.push(what));
    }

    fn check(&self, buffer: &[u8], breach: &'static str) {
        let address = buffer.as_ptr() as usize;
        self.with(|state| {
            if state.read.contains(&address) {
                state.breaches.push(breach);
            }
        });
    }

    fn breaches(&self) -> Vec<&'static str> {
        self.with(|state| state.breaches.clone())
    }

    fn n_done(&self) -> usize {
        self.with(|state| state.log.iter().filter(|what| matches!(what, What::Done(_))).count())
    }
}

impl BatchMemory for World {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
        self.with(|state| state.n_buffers += 1);
        Ok(Box::new(Watched { bytes: vec![0; bytes], world: self.clone() }))
    }
}

/// A buffer that tells when it is written to or freed.
struct Watched {
    bytes: Vec<u8>,
    world: World,
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Watched {
    fn as_mut(&mut self) -> &mut [u8] {
        self.world.check(&self.bytes, "written to");
        &mut self.bytes
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.world.check(&self.bytes, "freed");
    }
}

/// Copies that end when they were asked after so many times, or waited for.
struct Late(World, u32);

impl Copier for Late {
    fn begin(&self, batch: PatchBatch) -> Result<Box<dyn PendingCopy>, TrainError> {
        let (number, refused) = self.0.with(|state| {
            state.n_begun += 1;
            (state.n_begun - 1, state.refused)
        });
        if refused == Some(number) {
            return Err(TrainError::Observer("refused".to_owned()));
        }
        self.0.log(What::Begun(number));
        let from = on_host(&batch);
        let upload = Upload::new(batch, |bytes| {
            let (to, address) = (from.zeros_like(), bytes.as_ptr() as usize);
            self.0.with(|state| state.read.insert(address));
            let patience = Cell::new(self.1);
            let copy = Copy { world: self.0.clone(), number, address, patience, from, to: to.shallow_clone() };
            Ok::<_, TrainError>((to, copy))
        });
        Ok(Box::new(upload?))
    }
}

struct Copy {
    world: World,
    number: usize,
    address: usize,
    patience: Cell<u32>,
    from: Tensor,
    to: Tensor,
}

impl Copy {
    fn end(&self) {
        if self.world.with(|state| state.read.remove(&self.address)) {
            self.to.shallow_clone().copy_(&self.from);
            self.world.log(What::Done(self.number));
        }
    }

    fn answer(&self) -> Result<(), ShimError> {
        if self.world.with(|state| state.is_broken) { Err(ShimError("the device is lost".to_owned())) } else { Ok(()) }
    }
}

impl Completion for Copy {
    fn is_complete(&self) -> Result<bool, ShimError> {
        self.answer()?;
        match self.patience.get().checked_sub(1) {
            None => self.end(),
            Some(left) => self.patience.set(left),
        }
        Ok(self.world.with(|state| !state.read.contains(&self.address)))
    }

    fn wait(&self) -> Result<(), ShimError> {
        self.answer()?;
        self.end();
        Ok(())
    }

    fn admit(&self, _: &Tensor) -> Result<(), ShimError> {
        self.answer()?;
        self.world.log(What::Admitted(self.number));
        Ok(())
    }
}

/// Never ends by itself.
const NEVER: u32 = u32::MAX;

static IMAGES: LazyLock<Dataset> = LazyLock::new(|| {
    let options = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
    let images = empssl_data::open(&options, Split::Test).unwrap();
    images.subset(&(0..14).collect::<Vec<_>>()).unwrap()
});

fn source(prefetch: usize) -> BatchSource {
    let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
    BatchSource { dataset: IMAGES.clone(), sampler, n_workers: 2, prefetch }
}

/// Four epochs of three steps.
const STEPS: u64 = 12;

/// Two patches of four images a step, three steps an epoch.
fn settings() -> TrainConfig {
    TrainConfig { n_patches: 2, batch_size: 4, ..config() }
}

fn load(source: &BatchSource, memory: Arc<dyn BatchMemory>) -> impl Iterator<Item = LoadedBatch> + use<> {
    source.load(&settings(), 0..STEPS, Share::WHOLE, memory).unwrap()
}

/// The batches of a device whose copies are late.
fn late(batches: impl Iterator<Item = LoadedBatch> + 'static, world: &World, patience: u32) -> DevicePrefetcher {
    DevicePrefetcher::new(batches, Box::new(Late(world.clone(), patience)))
}

/// What the loader makes.
fn truth(source: &BatchSource) -> Vec<(u64, Tensor)> {
    let loaded = load(source, Arc::new(HeapMemory)).map(Result::unwrap);
    loaded.map(|(epoch, batch)| (epoch, on_host(&batch))).collect()
}

#[test]
fn late_copies_arrive_whole_from_buffers_that_nobody_wrote_to_meanwhile() {
    for (prefetch, patience) in [(0, NEVER), (1, NEVER), (3, NEVER), (1, 0), (0, 1), (3, 1)] {
        let (source, world) = (source(prefetch), World::default());
        let mut batches = late(load(&source, Arc::new(world.clone())), &world, patience);
        for (step, (epoch, truth)) in truth(&source).into_iter().enumerate() {
            let batch = batches.next().unwrap().unwrap();
            world.log(What::Stepped(step));
            assert_eq!(batch.epoch, epoch);
            assert_eq!(batch.patches, truth, "step {step}, prefetch {prefetch}, patience {patience}");
        }
        assert!(batches.next().is_none());
        assert_eq!(world.breaches(), [""; 0], "prefetch {prefetch}, patience {patience}");
        let n_buffers = world.with(|state| state.n_buffers);
        assert!(n_buffers <= prefetch + 2, "{n_buffers} buffers for {STEPS} steps, prefetch {prefetch}");
    }
}

#[test]
fn the_next_copy_begins_before_a_step_and_the_step_comes_after_its_own() {
    let (source, world) = (source(1), World::default());
    let mut batches = late(load(&source, Arc::new(HeapMemory)), &world, 2);
    for step in 0..STEPS as usize {
        let _ = batches.next().unwrap().unwrap();
        world.log(What::Stepped(step));
    }
    let log = world.with(|state| state.log.clone());
    let place = |what| log.iter().position(|&entry| entry == what).unwrap_or_else(|| panic!("no {what:?} in {log:?}"));
    for step in 0..STEPS as usize {
        assert!(place(What::Admitted(step)) < place(What::Stepped(step)), "{log:?}");
        if step + 1 < STEPS as usize {
            assert!(place(What::Begun(step + 1)) < place(What::Stepped(step)), "{log:?}");
            assert!(place(What::Done(step + 1)) > place(What::Stepped(step)), "a copy was waited for early: {log:?}");
        }
    }
}

#[test]
fn batches_that_are_dropped_early_wait_for_their_copies() {
    for steps in 0..4 {
        let (source, world) = (source(1), World::default());
        let mut batches = late(load(&source, Arc::new(world.clone())), &world, NEVER);
        for _ in 0..steps {
            let _ = batches.next().unwrap().unwrap();
        }
        drop(batches);
        let n_begun = world.with(|state| state.n_begun);
        assert_eq!((world.breaches(), world.n_done()), (vec![], n_begun), "after {steps} steps");
        assert!(n_begun > steps || steps == 0, "nothing was under way");
    }
}

#[test]
fn a_device_that_is_lost_is_an_error_and_keeps_the_buffers_it_may_still_read() {
    let (source, world) = (source(1), World::default());
    let mut batches = late(load(&source, Arc::new(world.clone())), &world, NEVER);
    let _ = batches.next().unwrap().unwrap();
    world.with(|state| state.is_broken = true);
    let error = batches.next().unwrap().unwrap_err().to_string();
    assert_eq!(error, "libtorch: the device is lost");
    drop(batches);
    assert_eq!(world.breaches(), [""; 0]);
    assert_eq!(world.with(|state| state.read.len()), 1, "a buffer whose copy may be under way was given back");
}

#[test]
fn errors_are_told_at_their_turn() {
    let (source, world) = (source(1), World::default());
    let failing = || {
        let mut loaded: Vec<LoadedBatch> = load(&source, Arc::new(HeapMemory)).take(2).collect();
        loaded.push(Err(TrainError::Observer("no patches".to_owned())));
        loaded.into_iter()
    };
    let mut batches = late(failing(), &world, 0);
    for _ in 0..2 {
        let _ = batches.next().unwrap().unwrap();
    }
    assert_eq!(batches.next().unwrap().unwrap_err().to_string(), "no patches");
    assert!(batches.next().is_none());
    let world = World::default();
    world.with(|state| state.refused = Some(1));
    let mut batches = late(failing(), &world, 0);
    let _ = batches.next().unwrap().unwrap();
    assert_eq!(batches.next().unwrap().unwrap_err().to_string(), "refused");
}

#[test]
fn the_cpu_is_handed_what_the_loader_made_from_any_step_on() {
    let source = source(1);
    let truth = truth(&source);
    for first in [0, 2, 3] {
        let mut batches = source.batches(&settings(), first..STEPS, Device::Cpu, Share::WHOLE).unwrap();
        for (epoch, truth) in &truth[first as usize..] {
            let batch = batches.next().unwrap().unwrap();
            assert_eq!((batch.epoch, &batch.patches), (*epoch, truth));
        }
        assert!(batches.next().is_none());
    }
}

#[test]
fn a_loader_that_failed_is_not_asked_again() {
    struct None;
    impl BatchMemory for None {
        fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
            Err(DataError::NoMemory { bytes, reason: "none".to_owned() })
        }
    }
    let source = source(1);
    let loaded: Vec<LoadedBatch> = load(&source, Arc::new(None)).collect();
    assert_eq!(loaded.len(), 1);
    assert!(loaded[0].is_err());
}

#[test]
fn cuda_without_a_device_and_pinned_memory_without_cuda_are_one_clear_error() {
    let Err(problem) = empssl_torch::device::open() else {
        eprintln!("skipped: this machine has a CUDA device");
        return;
    };
    let batches = source(1).batches(&settings(), 0..STEPS, Device::Cuda(0), Share::WHOLE);
    let error = batches.map(drop).unwrap_err().to_string();
    assert_eq!(error, format!("libtorch: CUDA device 0 cannot be reached: {problem}"));
    let error = PinnedMemory.allocate(64).map(drop).unwrap_err().to_string();
    let start = "no memory for a batch of 64 bytes: the GPU needs it page-locked, and it could not be had (libtorch: ";
    assert!(error.starts_with(start) && error.ends_with("use fewer patches or smaller batches"), "{error}");
}
