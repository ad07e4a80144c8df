//! What a command computes on: the device, its threads and the memory that was used.

use empssl_torch::{determinism, device, memory, precision};
use tch::Device;

use crate::args::DeviceArgs;
use crate::error::CliError;
use crate::host;
use crate::report::{self, Machine, PeakBytes};

/// Sets up the device and the threads, before the first tensor, with float32 everywhere: training in another precision
/// asks for it where it is due, and everything else, evaluation above all, never does.
pub(crate) fn prepare(compute: &DeviceArgs) -> Result<Device, CliError> {
    // Opening CUDA comes first: libtorch looks for it once, and everything after may be what makes it look.
    let device = device::select(compute.choice())?;
    determinism::set_deterministic(compute.deterministic)?;
    precision::set_tf32(false)?;
    let threads = compute.threads.unwrap_or_else(host::n_processors).max(1);
    tch::set_num_threads(threads as i32);
    Ok(device)
}

/// What the present process runs on.
pub(crate) fn describe(device: Device) -> Machine {
    Machine {
        device: device_text(device),
        device_name: device::name(device),
        threads: tch::get_num_threads() as usize,
        versions: report::versions(),
        commit: std::env::var("EMPSSL_COMMIT").ok().filter(|commit| !commit.is_empty()),
    }
}

/// The device as `--device` names it.
pub(crate) fn device_text(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// Starts new peaks of host and device memory.
pub(crate) fn reset_peaks(device: Device) -> Result<(), CliError> {
    host::reset_peak();
    Ok(memory::reset_peak(device)?)
}

/// The peaks since [`reset_peaks`].
pub(crate) fn peaks(device: Device) -> Result<PeakBytes, CliError> {
    let device = memory::device_memory(device)?.map(|memory| memory.peak);
    Ok(PeakBytes { host: host::peak_bytes(), device })
}
