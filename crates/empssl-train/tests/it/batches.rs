//! Patches that are sent ahead to a CUDA device, where there is one.

use std::sync::atomic::AtomicBool;

use empssl_data::{OnBadImage, OpenOptions, PatchConfig, PatchSampler, Split};
use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use empssl_model::{Network, NetworkConfig, ResNetConfig, Stem};
use empssl_torch::device;
use empssl_train::{BatchSource, CheckpointPlan, LarsConfig, Length, MemoryMode, Outcome, Share, TrainConfig, Trainer};
use tch::{Device, Kind, Tensor};

/// So many images.
const IMAGES: usize = 14;

pub(crate) fn source() -> BatchSource {
    let options = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
    let images = empssl_data::open(&options, Split::Test).unwrap();
    let dataset = images.subset(&(0..IMAGES).collect::<Vec<_>>()).unwrap();
    let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
    BatchSource { dataset, sampler, n_workers: 2, prefetch: 1 }
}

/// Three steps an epoch, eight epochs.
pub(crate) fn config(log_every: u64) -> TrainConfig {
    TrainConfig {
        n_patches: 2,
        batch_size: 4,
        length: Length::Epochs(8),
        lr: 0.1,
        t_max: None,
        memory: MemoryMode::Whole,
        tf32: false,
        seed: 7,
        max_steps: None,
        log_every,
        checkpoint_every: None,
        snapshot_epochs: Vec::new(),
    }
}

pub(crate) fn trainer(config: TrainConfig, device: Device) -> Trainer {
    let resnet = ResNetConfig { base_width: 4, ..ResNetConfig::resnet18(Stem::Cifar) };
    let network = Network::new(&NetworkConfig { resnet, hidden: 16, projection: 8 }, 1, Kind::Float, device).unwrap();
    let loss = EmpSslLoss::new(&EmpSslLossConfig::paper()).unwrap();
    Trainer::new(network, loss, &LarsConfig::paper(), config, IMAGES).unwrap()
}

#[test]
fn patches_that_are_sent_ahead_to_cuda_are_those_of_the_loader() {
    if let Err(problem) = device::open() {
        eprintln!("skipped: patches sent ahead: {problem}");
        return;
    }
    let (source, config, device) = (source(), config(100), Device::Cuda(0));
    let matrix = Tensor::ones([2048, 2048], (Kind::Float, device));
    let mut arrived = Vec::new();
    for batch in source.batches(&config, 1..24, device, Share::WHOLE).unwrap() {
        let patches = batch.unwrap().patches;
        // Keeps the device busy, so that the host and the copies run ahead of it.
        let busy = matrix.mm(&matrix).sum(Kind::Float) * 0.0;
        arrived.push(patches.to_kind(Kind::Float) + busy);
    }
    let mut on_host = source.batches(&config, 1..24, Device::Cpu, Share::WHOLE).unwrap();
    for (step, arrived) in arrived.iter().enumerate() {
        let truth = on_host.next().unwrap().unwrap().patches.to_kind(Kind::Float);
        assert_eq!(arrived.to_device(Device::Cpu), truth, "step {step}");
    }
    assert!(on_host.next().is_none());
}

#[test]
fn a_run_on_cuda_takes_all_its_steps() {
    if let Err(problem) = device::open() {
        eprintln!("skipped: a run on CUDA: {problem}");
        return;
    }
    let mut trainer = trainer(config(5), Device::Cuda(0));
    let outcome = trainer.run(&source(), &CheckpointPlan::default(), &AtomicBool::new(false), &mut ()).unwrap();
    assert_eq!((outcome, trainer.steps_done()), (Outcome::Finished, 24));
}
