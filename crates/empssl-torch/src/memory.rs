//! Memory of a CUDA device, as libtorch's allocator accounts for it.

use tch::Device;

use crate::device;
use crate::ffi::{self, ShimError};

/// Bytes on one CUDA device.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes in live tensors.
    pub allocated: u64,
    /// The largest `allocated` since the process began or [`reset_peak`] was called.
    pub peak: u64,
    /// Bytes that libtorch holds from the driver, live tensors and its cache together.
    pub reserved: u64,
    /// Bytes the driver could still give to anyone.
    pub free: u64,
    /// Bytes the device has.
    pub total: u64,
}

/// The memory of `device`; `None` for the CPU, whose memory belongs to the operating system.
///
/// # Errors
/// When the device does not exist or libtorch cannot reach it.
pub fn device_memory(device: Device) -> Result<Option<DeviceMemory>, ShimError> {
    match device {
        Device::Cuda(index) => {
            opened(index)?;
            ffi::device_memory(index as i64).map(Some)
        }
        _ => Ok(None),
    }
}

/// Starts a new peak from what is allocated now; does nothing on the CPU.
///
/// # Errors
/// When the device does not exist or libtorch cannot reach it.
pub fn reset_peak(device: Device) -> Result<(), ShimError> {
    match device {
        Device::Cuda(index) => {
            opened(index)?;
            ffi::reset_peak_device_memory(index as i64)
        }
        _ => Ok(()),
    }
}

/// libtorch looks for CUDA once in a process, so CUDA is opened before the first question about a device.
fn opened(index: usize) -> Result<(), ShimError> {
    match device::open() {
        Ok(_) => Ok(()),
        Err(problem) => Err(ShimError(format!("CUDA device {index} cannot be reached: {problem}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_no_device_memory_and_a_missing_device_is_an_error() {
        assert_eq!(device_memory(Device::Cpu), Ok(None));
        assert_eq!(reset_peak(Device::Cpu), Ok(()));
        assert!(device_memory(Device::Cuda(4096)).is_err());
        assert!(reset_peak(Device::Cuda(4096)).is_err());
    }
}
