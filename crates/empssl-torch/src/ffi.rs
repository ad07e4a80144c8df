//! The declarations of `shim/shim.h` and the one place that calls them; everything else of the crate is safe code.
#![expect(unsafe_code, reason = "calls into the C++ shim")]

use std::ffi::{CStr, c_char, c_void};

use tch::Tensor;

use crate::memory::DeviceMemory;

/// libtorch refused a request; the text is its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("libtorch: {0}")]
pub struct ShimError(pub String);

unsafe extern "C" {
    fn empssl_free(text: *mut c_char);
    fn empssl_libtorch_version() -> *const c_char;
    fn empssl_libtorch_path() -> *mut c_char;
    fn empssl_cuda_device_count(registered: *mut i32, count: *mut i64) -> *mut c_char;
    fn empssl_device_synchronize(index: i64) -> *mut c_char;
    fn empssl_get_gradients() -> i32;
    fn empssl_set_gradients(on: i32);
    fn empssl_backward(output: *const c_void, gradient: *const c_void) -> *mut c_char;
    fn empssl_set_tf32(convolutions: i32, products: i32) -> *mut c_char;
    fn empssl_get_tf32(convolutions: *mut i32, products: *mut i32) -> *mut c_char;
    fn empssl_set_deterministic(on: i32) -> *mut c_char;
    fn empssl_get_deterministic(on: *mut i32) -> *mut c_char;
    fn empssl_get_device_memory(index: i64, out: *mut DeviceMemory) -> *mut c_char;
    fn empssl_reset_peak_device_memory(index: i64) -> *mut c_char;
}

/// Takes a text made by malloc; `None` for the null pointer.
fn take_text(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the shim returns null or a null-terminated text of its own, which is read before it is given back once.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        empssl_free(text);
        Some(owned)
    }
}

fn check(error: *mut c_char) -> Result<(), ShimError> {
    match take_text(error) {
        None => Ok(()),
        Some(text) => Err(ShimError(text.lines().next().unwrap_or_default().to_owned())),
    }
}

pub(crate) fn libtorch_version() -> String {
    // SAFETY: returns a string constant of the shim.
    unsafe { CStr::from_ptr(empssl_libtorch_version()) }.to_string_lossy().into_owned()
}

pub(crate) fn libtorch_path() -> Option<String> {
    // SAFETY: takes no argument; the text is taken over.
    take_text(unsafe { empssl_libtorch_path() })
}

/// Whether CUDA's part of libtorch is loaded, and how many devices it sees.
pub(crate) fn cuda_device_count() -> Result<(bool, i64), ShimError> {
    let (mut registered, mut count) = (0, 0);
    // SAFETY: both pointers are to live locals of the declared types.
    check(unsafe { empssl_cuda_device_count(&mut registered, &mut count) })?;
    Ok((registered != 0, count))
}

pub(crate) fn device_synchronize(index: i64) -> Result<(), ShimError> {
    // SAFETY: plain integer argument.
    check(unsafe { empssl_device_synchronize(index) })
}

pub(crate) fn gradients_recorded() -> bool {
    // SAFETY: reads a flag of this thread.
    unsafe { empssl_get_gradients() != 0 }
}

pub(crate) fn record_gradients(on: bool) {
    // SAFETY: sets a flag of this thread.
    unsafe { empssl_set_gradients(i32::from(on)) }
}

pub(crate) fn backward(output: &Tensor, gradient: &Tensor) -> Result<(), ShimError> {
    // SAFETY: a tch tensor points to an `at::Tensor`; both are borrowed for the length of the call, and libtorch takes
    // references of its own to what it keeps.
    check(unsafe { empssl_backward(output.as_ptr().cast(), gradient.as_ptr().cast()) })
}

/// TF32 in (convolutions, matrix products).
pub(crate) fn set_tf32_each(convolutions: bool, products: bool) -> Result<(), ShimError> {
    // SAFETY: plain integer arguments.
    check(unsafe { empssl_set_tf32(i32::from(convolutions), i32::from(products)) })
}

/// TF32 in (convolutions, matrix products).
pub(crate) fn tf32() -> Result<(bool, bool), ShimError> {
    let (mut convolutions, mut products) = (0, 0);
    // SAFETY: both pointers are to live locals of the declared types.
    check(unsafe { empssl_get_tf32(&mut convolutions, &mut products) })?;
    Ok((convolutions != 0, products != 0))
}

pub(crate) fn set_deterministic(on: bool) -> Result<(), ShimError> {
    // SAFETY: plain integer argument.
    check(unsafe { empssl_set_deterministic(i32::from(on)) })
}

pub(crate) fn deterministic() -> Result<bool, ShimError> {
    let mut on = 0;
    // SAFETY: the pointer is to a live local of the declared type.
    check(unsafe { empssl_get_deterministic(&mut on) })?;
    Ok(on != 0)
}

pub(crate) fn device_memory(index: i64) -> Result<DeviceMemory, ShimError> {
    let mut memory = DeviceMemory::default();
    // SAFETY: `DeviceMemory` is repr(C) with the fields of `empssl_device_memory` in the same order.
    check(unsafe { empssl_get_device_memory(index, &mut memory) })?;
    Ok(memory)
}

pub(crate) fn reset_peak_device_memory(index: i64) -> Result<(), ShimError> {
    // SAFETY: plain integer argument.
    check(unsafe { empssl_reset_peak_device_memory(index) })
}

/// Opens a shared library for good, its symbols visible to every library opened later.
pub(crate) fn open_globally(path: &std::path::Path) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the initialisers of libtorch's own libraries run, as they do when a program links them. The handle is
    // never closed, because the operators register themselves for the life of the process.
    match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The name of CUDA device `index` as the driver gives it.
pub(crate) fn cuda_device_name(index: i32) -> Option<String> {
    use libloading::os::unix::{Library, Symbol};
    // SAFETY: the driver's documented C interface: cuInit(flags), cuDeviceGet(*device, ordinal) and
    // cuDeviceGetName(*text, length, device), each returning 0 on success; the buffer's length is passed.
    unsafe {
        let driver = Library::new("libcuda.so.1").ok()?;
        let init: Symbol<unsafe extern "C" fn(u32) -> i32> = driver.get(b"cuInit").ok()?;
        let get: Symbol<unsafe extern "C" fn(*mut i32, i32) -> i32> = driver.get(b"cuDeviceGet").ok()?;
        let get_name: Symbol<unsafe extern "C" fn(*mut c_char, i32, i32) -> i32> =
            driver.get(b"cuDeviceGetName").ok()?;
        let (mut device, mut text) = (0, [0 as c_char; 128]);
        let failed = init(0) != 0 || get(&mut device, index) != 0 || get_name(text.as_mut_ptr(), 127, device) != 0;
        let name = (!failed).then(|| CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned());
        std::mem::forget(driver);
        name
    }
}
