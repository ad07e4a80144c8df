//! A stream of a CUDA device beside the one it computes on, for copies that overlap with computing.

use std::ffi::{c_char, c_void};
use std::ptr::{NonNull, null_mut};

use tch::{Device, Tensor};

use super::upload::{Completion, Upload};
use super::{RawTensor, ShimError, check, owned, raw};
use crate::device;
use crate::failure::TorchFailure;

unsafe extern "C" {
    fn empssl_stream_from_pool(index: i64, out: *mut Stream) -> *mut c_char;
    fn empssl_upload(
        bytes: *const c_void,
        sizes: *const i64,
        n_sizes: usize,
        stream: Stream,
        out: *mut RawTensor,
        done: *mut *mut c_void,
    ) -> *mut c_char;
    fn empssl_event_query(event: *const c_void, is_complete: *mut i32) -> *mut c_char;
    fn empssl_event_wait(event: *const c_void) -> *mut c_char;
    fn empssl_event_admit(event: *const c_void, tensor: RawTensor) -> *mut c_char;
    fn empssl_event_free(event: *mut c_void);
}

/// A queue of work of one CUDA device. What is in it runs in order, and beside what is in other queues.
///
/// It is a number of libtorch's; streams live as long as the process.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stream {
    device: i64,
    id: i64,
}

impl Stream {
    /// A stream of libtorch's pool, which is not the one that operators of this program run on.
    ///
    /// # Errors
    /// When `device` is no CUDA device of this machine: the CPU has no streams, it does at once what it is asked to.
    pub fn new(device: Device) -> Result<Self, ShimError> {
        let Device::Cuda(index) = device else {
            return Err(ShimError(format!("{device:?} has no streams to copy on; they are for CUDA devices")));
        };
        device::reach(index)?;
        Self::from_pool(index as i64)
    }

    fn from_pool(index: i64) -> Result<Self, ShimError> {
        let mut stream = Self::default();
        // SAFETY: `Stream` is repr(C) with the fields of `empssl_stream` in the same order.
        check(unsafe { empssl_stream_from_pool(index, &mut stream) })?;
        Ok(stream)
    }

    /// Asks for a copy of the bytes of `source` into a new tensor of the stream's device, of type uint8 and of these
    /// `sizes`, and returns without waiting for it.
    ///
    /// It overlaps with the device's computing, and the host goes on, where the bytes lie in [`super::PinnedBytes`];
    /// other memory is copied correctly, while the host waits.
    ///
    /// # Errors
    /// When there are not as many bytes as the sizes say, device memory runs out, or libtorch refuses.
    pub fn upload<S: AsRef<[u8]> + 'static>(&self, source: S, sizes: &[i64]) -> Result<Upload<S, Event>, TorchFailure> {
        check_sizes(source.as_ref().len(), sizes)?;
        let upload = Upload::new(source, |bytes| {
            let (mut tensor, mut done) = (null_mut(), null_mut());
            let from = bytes.as_ptr().cast();
            // SAFETY: the sizes are as many as said and their product is the number of bytes. The bytes are read until
            // the event is complete, and so long the `Upload` that is being made keeps them where they are, lets nobody
            // at them and is forgotten rather than freed where the event does not tell. After an error nobody reads them.
            check(unsafe { empssl_upload(from, sizes.as_ptr(), sizes.len(), *self, &mut tensor, &mut done) })?;
            // SAFETY: the shim made the tensor with `new`, as tch makes its own, and hands it over.
            let tensor = unsafe { Tensor::from_ptr(tensor.cast()) };
            Ok((tensor, Event(owned(done)?)))
        });
        upload.map_err(|error: ShimError| TorchFailure::of(&error.0))
    }
}

fn check_sizes(bytes: usize, sizes: &[i64]) -> Result<(), TorchFailure> {
    let factors = sizes.iter().map(|&size| usize::try_from(size).ok());
    let expected = factors.into_iter().try_fold(1_usize, |product, size| product.checked_mul(size?));
    if expected == Some(bytes) {
        return Ok(());
    }
    Err(TorchFailure::Other(format!("a tensor of size {sizes:?} cannot be made from {bytes} bytes")))
}

/// A place in a stream's work, a `c10::Event`: complete once the device has got there.
#[derive(Debug)]
pub struct Event(NonNull<c_void>);

impl Completion for Event {
    fn is_complete(&self) -> Result<bool, ShimError> {
        let mut is_complete = 0;
        // SAFETY: the event lives, and the pointer is to a live local of the declared type.
        check(unsafe { empssl_event_query(self.0.as_ptr(), &mut is_complete) })?;
        Ok(is_complete != 0)
    }

    fn wait(&self) -> Result<(), ShimError> {
        // SAFETY: the event lives.
        check(unsafe { empssl_event_wait(self.0.as_ptr()) })
    }

    fn admit(&self, tensor: &Tensor) -> Result<(), ShimError> {
        // SAFETY: the event and the tensor live.
        check(unsafe { empssl_event_admit(self.0.as_ptr(), raw(tensor)) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event came from the shim and is given back once.
        unsafe { empssl_event_free(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::PinnedBytes;

    #[test]
    fn the_cpu_and_devices_that_are_not_there_have_no_streams() {
        let error = Stream::new(Device::Cpu).unwrap_err().to_string();
        assert_eq!(error, "libtorch: Cpu has no streams to copy on; they are for CUDA devices");
        assert!(Stream::new(Device::Cuda(4096)).is_err());
    }

    /// What lies below the check at the door: without CUDA's part of libtorch it is an error too, not a crash.
    #[test]
    fn the_shim_says_when_there_is_no_cuda() {
        if device::open().is_ok() {
            eprintln!("skipped: this machine has a CUDA device");
            return;
        }
        assert!(Stream::from_pool(0).is_err());
        let error = Stream::default().upload(vec![1_u8; 6], &[2, 3]).unwrap_err().to_string();
        assert!(error.to_lowercase().contains("cuda"), "{error}");
    }

    #[test]
    fn sizes_must_hold_all_bytes_and_no_more() {
        assert_eq!(check_sizes(24, &[2, 3, 4]), Ok(()));
        assert_eq!(check_sizes(0, &[2, 0]), Ok(()));
        for (bytes, sizes) in [(23, &[2, 3, 4][..]), (1, &[-1]), (0, &[i64::MAX, i64::MAX])] {
            let error = check_sizes(bytes, sizes).unwrap_err().to_string();
            assert_eq!(error, format!("libtorch: a tensor of size {sizes:?} cannot be made from {bytes} bytes"));
        }
    }

    /// Copies and kernels that read them in turn, with more rounds than there are buffers, each buffer overwritten as
    /// soon as it comes back.
    #[test]
    fn uploads_arrive_whole_while_the_device_computes() {
        if let Err(problem) = device::open() {
            eprintln!("skipped: copies that overlap with computing: {problem}");
            return;
        }
        let device = Device::Cuda(0);
        let (stream, bytes) = (Stream::new(device).unwrap(), 1 << 22);
        let matrix = Tensor::ones([2048, 2048], (Kind::Float, device));
        let mut sums = Vec::new();
        let send = |round: u8| {
            let mut buffer = PinnedBytes::new(bytes).unwrap();
            buffer.as_mut().fill(round);
            stream.upload(buffer, &[bytes as i64]).unwrap()
        };
        let mut sent = send(0);
        for round in 1..40 {
            let next = send(round);
            let work = matrix.mm(&matrix).sum(Kind::Float) * 0.0;
            sent.release().unwrap();
            sums.push(sent.into_tensor().unwrap().sum(Kind::Double) + work);
            sent = next;
        }
        for (round, sum) in sums.iter().enumerate() {
            assert_eq!(sum.double_value(&[]), (round * bytes) as f64, "round {round}");
        }
    }
}
