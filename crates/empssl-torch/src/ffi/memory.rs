//! Memory of a CUDA device, as libtorch's allocator accounts for it, and what the host does with freed memory.

use std::ffi::c_char;

use tch::Device;

use super::{ShimError, check};
use crate::device;

unsafe extern "C" {
    fn empssl_get_device_memory(index: i64, out: *mut DeviceMemory) -> *mut c_char;
    fn empssl_reset_peak_device_memory(index: i64) -> *mut c_char;
    fn empssl_keep_freed_memory() -> i32;
}

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
    let Device::Cuda(index) = device else { return Ok(None) };
    device::reach(index)?;
    let mut memory = DeviceMemory::default();
    // SAFETY: `DeviceMemory` is repr(C) with the fields of `empssl_device_memory` in the same order.
    check(unsafe { empssl_get_device_memory(index as i64, &mut memory) })?;
    Ok(Some(memory))
}

/// Starts a new peak from what is allocated now; does nothing on the CPU.
///
/// # Errors
/// When the device does not exist or libtorch cannot reach it.
pub fn reset_peak(device: Device) -> Result<(), ShimError> {
    let Device::Cuda(index) = device else { return Ok(()) };
    device::reach(index)?;
    // SAFETY: plain integer argument.
    check(unsafe { empssl_reset_peak_device_memory(index as i64) })
}

/// Lets this process keep the blocks it frees, however large, for its next requests; `false` where the C library is not
/// glibc or refused one of the two settings.
///
/// glibc hands blocks of more than 32 MiB back to the system as soon as they are freed and gets zeroed pages for the
/// next one. A step of training frees and requests gigabytes in such blocks, and the page faults cost several times
/// the arithmetic on what is in them. Call it once, at the start of the program; it serves the main thread, on which a
/// training loop should run, more than others. Memory then stays with the process until it ends.
pub fn keep_freed_memory() -> bool {
    // SAFETY: sets two parameters of malloc, which any thread may do at any time.
    unsafe { empssl_keep_freed_memory() != 0 }
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
