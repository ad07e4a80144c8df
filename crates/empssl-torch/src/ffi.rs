//! The one place that calls the shim: each file declares a part of `shim/shim.h` and gives it as safe Rust; everything
//! else of the crate is safe code.
#![expect(unsafe_code, reason = "calls into the C++ shim")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

use tch::Tensor;

pub mod autograd;
pub mod determinism;
mod groups;
pub mod lists;
pub mod memory;
mod nccl;
mod owned;
mod pinned;
pub mod precision;
pub mod script;
mod stream;
mod upload;
pub mod version;

pub use groups::Traffic;
pub(crate) use groups::{Listen, RawBuckets, RawGroup, RawStore};
pub(crate) use nccl::{NCCL_NAME, NcclObject};
pub use nccl::{NCCL_VARIABLE, NcclProblem};
pub(crate) use owned::bytes_of_owner;
pub use pinned::PinnedBytes;
pub use stream::{Event, Stream};
pub use upload::{Completion, Upload};

/// libtorch refused a request; the text is its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("libtorch: {0}")]
pub struct ShimError(pub String);

unsafe extern "C" {
    fn empssl_free(text: *mut c_char);
    fn empssl_device_synchronize(index: i64) -> *mut c_char;
    fn empssl_device_make_current(index: i64) -> *mut c_char;
    fn empssl_get_gradients() -> i32;
    fn empssl_set_gradients(on: i32);
}

/// An `at::Tensor *`, which is what tch holds.
type RawTensor = *mut c_void;

fn raw(tensor: &Tensor) -> RawTensor {
    tensor.as_ptr().cast_mut().cast()
}

fn raw_list(tensors: &[&Tensor]) -> Vec<RawTensor> {
    tensors.iter().map(|tensor| raw(tensor)).collect()
}

/// A text for the shim.
fn c_text(text: &str) -> Result<CString, ShimError> {
    CString::new(text).map_err(|_| ShimError(format!("`{}` holds a zero byte", text.escape_default())))
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

/// A pointer that the shim has handed over.
fn owned(pointer: *mut c_void) -> Result<NonNull<c_void>, ShimError> {
    NonNull::new(pointer).ok_or_else(|| ShimError("the shim handed nothing over".to_owned()))
}

fn check(error: *mut c_char) -> Result<(), ShimError> {
    match take_text(error) {
        None => Ok(()),
        Some(text) => Err(ShimError(sentence(&text))),
    }
}

/// The first line of an exception's text, and what NCCL adds as its last error, which is where the reason is.
fn sentence(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default().trim_end();
    let mut rest = text.lines().map(str::trim).skip_while(|line| !line.starts_with("Last error:"));
    let more = rest.next().map(|line| line.trim_start_matches("Last error:").trim());
    let reason = more.filter(|reason| !reason.is_empty()).or_else(|| rest.find(|line| !line.is_empty()));
    reason.map_or_else(|| first.to_owned(), |reason| format!("{first}: {reason}"))
}

pub(crate) fn device_synchronize(index: i64) -> Result<(), ShimError> {
    // SAFETY: plain integer argument.
    check(unsafe { empssl_device_synchronize(index) })
}

pub(crate) fn device_make_current(index: i64) -> Result<(), ShimError> {
    // SAFETY: plain integer argument.
    check(unsafe { empssl_device_make_current(index) })
}

pub(crate) fn gradients_recorded() -> bool {
    // SAFETY: reads a flag of this thread.
    unsafe { empssl_get_gradients() != 0 }
}

pub(crate) fn record_gradients(on: bool) {
    // SAFETY: sets a flag of this thread.
    unsafe { empssl_set_gradients(i32::from(on)) }
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
        Err(error) => Err(loaders_words(&error)),
    }
}

/// Why a shared library could not be opened; the error's own text says only which call failed.
fn loaders_words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
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
        let say: Symbol<unsafe extern "C" fn(*mut c_char, i32, i32) -> i32> = driver.get(b"cuDeviceGetName").ok()?;
        let (mut device, mut text) = (0, [0 as c_char; 128]);
        let failed = init(0) != 0 || get(&mut device, index) != 0 || say(text.as_mut_ptr(), 127, device) != 0;
        let said = (!failed).then(|| CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned());
        std::mem::forget(driver);
        said
    }
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn an_exception_is_one_line_and_ends_with_nccls_reason() {
        assert_eq!(sentence("a\nframe #0"), "a");
        assert_eq!(sentence(""), "");
        let nccl = "NCCL error in: a.cpp:9, invalid usage, NCCL version 2.28.9\nncclInvalidUsage: This usually reflects \
                    invalid usage.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0\n";
        let expected =
            "NCCL error in: a.cpp:9, invalid usage, NCCL version 2.28.9: Duplicate GPU detected : rank 1 and rank 0";
        assert_eq!(sentence(nccl), expected);
        assert_eq!(sentence("a\nLast error: b"), "a: b");
        assert_eq!(sentence("a\nLast error:\n"), "a");
    }
}
