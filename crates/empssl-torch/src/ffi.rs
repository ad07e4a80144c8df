//! The declarations of `shim/shim.h` and the one place that calls them; everything else of the crate is safe code.
#![expect(unsafe_code, reason = "calls into the C++ shim")]

use std::ffi::{CStr, c_char, c_void};

use tch::Tensor;

use crate::memory::DeviceMemory;

mod groups;
mod nccl;
mod owned;
mod script;
mod streams;

pub(crate) use groups::{Listen, RawBuckets, RawGroup, RawStore};
pub(crate) use nccl::{NcclObject, NcclRefusal};
pub(crate) use owned::bytes_of_owner;
pub(crate) use script::RawModule;
pub(crate) use streams::{
    RawEvent, RawStream, event_admit, event_is_complete, event_wait, pinned, stream_from_pool, upload,
};

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
    fn empssl_device_make_current(index: i64) -> *mut c_char;
    fn empssl_get_gradients() -> i32;
    fn empssl_set_gradients(on: i32);
    fn empssl_backward(output: *const c_void, gradient: *const c_void) -> *mut c_char;
    fn empssl_set_tf32(convolutions: i32, products: i32) -> *mut c_char;
    fn empssl_get_tf32(convolutions: *mut i32, products: *mut i32) -> *mut c_char;
    fn empssl_set_deterministic(on: i32) -> *mut c_char;
    fn empssl_get_deterministic(on: *mut i32) -> *mut c_char;
    fn empssl_get_device_memory(index: i64, out: *mut DeviceMemory) -> *mut c_char;
    fn empssl_reset_peak_device_memory(index: i64) -> *mut c_char;
    fn empssl_keep_freed_memory() -> i32;
    fn empssl_lists_norms(out: RawTensor, tensors: *const RawTensor, n: usize) -> *mut c_char;
    fn empssl_lists_copy(to: *const RawTensor, from: *const RawTensor, n: usize) -> *mut c_char;
    fn empssl_lists_add(to: *const RawTensor, terms: *const RawTensor, n: usize, factor: f64) -> *mut c_char;
    fn empssl_lists_sgd(
        parameters: *const RawTensor,
        gradients: *const RawTensor,
        buffers: *const RawTensor,
        n: usize,
        lr: f64,
        momentum: f64,
        nesterov: i32,
    ) -> *mut c_char;
    fn empssl_lists_drop_gradients(parameters: *const RawTensor, n: usize);
    fn empssl_addcdiv(
        out: RawTensor,
        term: RawTensor,
        dividend: RawTensor,
        divisor: RawTensor,
        factor: f64,
    ) -> *mut c_char;
    fn empssl_operators_start() -> *mut c_char;
    fn empssl_operators_stop(names: *mut *mut c_char) -> *mut c_char;
}

/// An `at::Tensor *`, which is what tch holds.
type RawTensor = *mut c_void;

fn raw(tensor: &Tensor) -> RawTensor {
    tensor.as_ptr().cast_mut().cast()
}

fn raw_list(tensors: &[&Tensor]) -> Vec<RawTensor> {
    tensors.iter().map(|tensor| raw(tensor)).collect()
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

pub(crate) fn keep_freed_memory() -> bool {
    // SAFETY: sets two parameters of malloc, which any thread may do at any time.
    unsafe { empssl_keep_freed_memory() != 0 }
}

pub(crate) fn norms(out: &Tensor, tensors: &[&Tensor]) -> Result<(), ShimError> {
    let tensors = raw_list(tensors);
    // SAFETY: the pointers are to live tensors, and the list is as long as said.
    check(unsafe { empssl_lists_norms(raw(out), tensors.as_ptr(), tensors.len()) })
}

pub(crate) fn copy(to: &[&Tensor], from: &[&Tensor]) -> Result<(), ShimError> {
    check_lengths(to, &[from])?;
    let (to, from) = (raw_list(to), raw_list(from));
    // SAFETY: the pointers are to live tensors, and both lists are as long as said.
    check(unsafe { empssl_lists_copy(to.as_ptr(), from.as_ptr(), to.len()) })
}

pub(crate) fn add(to: &[&Tensor], terms: &[&Tensor], factor: f64) -> Result<(), ShimError> {
    check_lengths(to, &[terms])?;
    let (to, terms) = (raw_list(to), raw_list(terms));
    // SAFETY: the pointers are to live tensors, and both lists are as long as said.
    check(unsafe { empssl_lists_add(to.as_ptr(), terms.as_ptr(), to.len(), factor) })
}

pub(crate) fn sgd(
    [parameters, gradients, buffers]: [&[&Tensor]; 3],
    lr: f64,
    momentum: f64,
    nesterov: bool,
) -> Result<(), ShimError> {
    check_lengths(parameters, &[gradients, buffers])?;
    let [parameters, gradients, buffers] = [parameters, gradients, buffers].map(raw_list);
    let [p, g, b] = [&parameters, &gradients, &buffers].map(|list| list.as_ptr());
    // SAFETY: the pointers are to live tensors, and the three lists are as long as said.
    check(unsafe { empssl_lists_sgd(p, g, b, parameters.len(), lr, momentum, i32::from(nesterov)) })
}

pub(crate) fn drop_gradients(parameters: &[&Tensor]) {
    let parameters = raw_list(parameters);
    // SAFETY: the pointers are to live tensors, and the list is as long as said.
    unsafe { empssl_lists_drop_gradients(parameters.as_ptr(), parameters.len()) }
}

pub(crate) fn addcdiv(out: &Tensor, [term, dividend, divisor]: [&Tensor; 3], factor: f64) -> Result<(), ShimError> {
    // SAFETY: the pointers are to live tensors.
    check(unsafe { empssl_addcdiv(raw(out), raw(term), raw(dividend), raw(divisor), factor) })
}

fn check_lengths(first: &[&Tensor], others: &[&[&Tensor]]) -> Result<(), ShimError> {
    match others.iter().find(|other| other.len() != first.len()) {
        None => Ok(()),
        Some(other) => Err(ShimError(format!("lists of {} and {} tensors do not pair", first.len(), other.len()))),
    }
}

pub(crate) fn start_recording_operators() -> Result<(), ShimError> {
    // SAFETY: takes no argument; what it changes belongs to this thread.
    check(unsafe { empssl_operators_start() })
}

pub(crate) fn stop_recording_operators() -> Result<String, ShimError> {
    let mut names = std::ptr::null_mut();
    // SAFETY: the pointer is to a live local of the declared type; the text is taken over.
    check(unsafe { empssl_operators_stop(&mut names) })?;
    Ok(take_text(names).unwrap_or_default())
}

/// The numbers of a tensor, to be written.
///
/// # Safety
/// `T` is the tensor's element type; the tensor lies in host memory and fills as much of it as it has elements, without
/// gaps; nothing else reads or writes that memory while the slice lives.
#[expect(clippy::mut_from_ref, reason = "tch hands the address of a shared tensor's memory out; see Safety")]
pub(crate) unsafe fn elements_mut<T>(tensor: &Tensor) -> &mut [T] {
    if tensor.numel() == 0 {
        return &mut []; // A tensor without elements has no memory.
    }
    // SAFETY: demanded of the caller. The memory lives as long as the tensor, which is borrowed for as long.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) }
}

/// The numbers of a tensor, to be read.
///
/// # Safety
/// As [`elements_mut`], except that others may read as well.
pub(crate) unsafe fn elements<T>(tensor: &Tensor) -> &[T] {
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: demanded of the caller. The memory lives as long as the tensor, which is borrowed for as long.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast_const().cast(), tensor.numel()) }
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
