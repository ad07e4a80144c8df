//! The declarations of `shim/streams.cpp`: page-locked memory, and copies on a stream of their own.

use std::ffi::{c_char, c_void};
use std::ptr::{NonNull, null_mut};

use tch::Tensor;

use super::{RawTensor, ShimError, check, raw};
use crate::stream::Event;
use crate::upload::Upload;

unsafe extern "C" {
    fn empssl_pinned(bytes: usize, out: *mut RawTensor) -> *mut c_char;
    fn empssl_stream_from_pool(index: i64, out: *mut RawStream) -> *mut c_char;
    fn empssl_upload(
        bytes: *const c_void,
        sizes: *const i64,
        n_sizes: usize,
        stream: RawStream,
        out: *mut RawTensor,
        done: *mut *mut c_void,
    ) -> *mut c_char;
    fn empssl_event_query(event: *const c_void, is_complete: *mut i32) -> *mut c_char;
    fn empssl_event_wait(event: *const c_void) -> *mut c_char;
    fn empssl_event_admit(event: *const c_void, tensor: RawTensor) -> *mut c_char;
    fn empssl_event_free(event: *mut c_void);
}

/// A stream as libtorch numbers it; streams live as long as the process.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RawStream {
    device: i64,
    id: i64,
}

/// A `c10::Event` of the shim's.
#[derive(Debug)]
pub(crate) struct RawEvent(NonNull<c_void>);

impl Drop for RawEvent {
    fn drop(&mut self) {
        // SAFETY: the event came from the shim and is given back once.
        unsafe { empssl_event_free(self.0.as_ptr()) }
    }
}

/// Page-locked bytes, all 0.
pub(crate) fn pinned(bytes: usize) -> Result<Tensor, ShimError> {
    let mut tensor = null_mut();
    // SAFETY: the pointer is to a live local of the declared type.
    check(unsafe { empssl_pinned(bytes, &mut tensor) })?;
    // SAFETY: the shim made the tensor with `new`, as tch makes its own, and hands it over.
    Ok(unsafe { Tensor::from_ptr(tensor.cast()) })
}

pub(crate) fn stream_from_pool(index: i64) -> Result<RawStream, ShimError> {
    let mut stream = RawStream::default();
    // SAFETY: `RawStream` is repr(C) with the fields of `empssl_stream` in the same order.
    check(unsafe { empssl_stream_from_pool(index, &mut stream) })?;
    Ok(stream)
}

/// Begins the copy of bytes into a tensor of these `sizes`, of as many elements as there are bytes.
pub(crate) fn upload<S: AsRef<[u8]> + 'static>(
    source: S,
    sizes: &[i64],
    stream: RawStream,
) -> Result<Upload<S, Event>, ShimError> {
    Upload::new(source, |bytes| {
        let (mut tensor, mut done) = (null_mut(), null_mut());
        let from = bytes.as_ptr().cast();
        // SAFETY: the sizes are as many as said and their product is the number of bytes, checked by the caller. The
        // bytes are read until the event is complete, and so long the `Upload` that is being made keeps them where they
        // are, lets nobody at them and is forgotten rather than freed where the event does not tell. After an error
        // nobody reads them.
        check(unsafe { empssl_upload(from, sizes.as_ptr(), sizes.len(), stream, &mut tensor, &mut done) })?;
        // SAFETY: the shim made the tensor with `new`, as tch makes its own, and hands it over.
        let tensor = unsafe { Tensor::from_ptr(tensor.cast()) };
        let done = NonNull::new(done).ok_or_else(|| ShimError("a copy came without its event".to_owned()))?;
        Ok((tensor, Event(RawEvent(done))))
    })
}

pub(crate) fn event_is_complete(event: &RawEvent) -> Result<bool, ShimError> {
    let mut is_complete = 0;
    // SAFETY: the event lives, and the pointer is to a live local of the declared type.
    check(unsafe { empssl_event_query(event.0.as_ptr(), &mut is_complete) })?;
    Ok(is_complete != 0)
}

pub(crate) fn event_wait(event: &RawEvent) -> Result<(), ShimError> {
    // SAFETY: the event lives.
    check(unsafe { empssl_event_wait(event.0.as_ptr()) })
}

pub(crate) fn event_admit(event: &RawEvent, tensor: &Tensor) -> Result<(), ShimError> {
    // SAFETY: the event and the tensor live.
    check(unsafe { empssl_event_admit(event.0.as_ptr(), raw(tensor)) })
}
