//! The declaration of `shim/mapped.cpp`: tensors on memory of an owner's.

use std::ffi::{c_char, c_void};
use std::ptr::null_mut;

use tch::Tensor;

use super::{RawTensor, ShimError, check};

unsafe extern "C" {
    fn empssl_owned_bytes(
        bytes: *mut c_void,
        length: usize,
        owner: *mut c_void,
        release: unsafe extern "C" fn(*mut c_void),
        out: *mut RawTensor,
    ) -> *mut c_char;
}

/// The bytes of `owner` as a tensor of uint8, which keeps the owner alive, as every tensor does that shares its memory.
pub(crate) fn bytes_of_owner<T: AsMut<[u8]> + Stable + Send + 'static>(owner: T) -> Result<Tensor, ShimError> {
    let mut owner = Box::new(owner);
    let bytes = (*owner).as_mut();
    let (address, length) = (bytes.as_mut_ptr(), bytes.len());
    let mut tensor = null_mut();
    // SAFETY: the bytes live as long as the owner, which is handed over with them and which nobody here touches again;
    // `release` is for owners of this very type and is called once, by whichever thread drops the last tensor, which
    // `Send` allows. The pointer `tensor` is to a live local of the declared type.
    let made =
        unsafe { empssl_owned_bytes(address.cast(), length, Box::into_raw(owner).cast(), release::<T>, &mut tensor) };
    check(made)?;
    // SAFETY: the shim made the tensor with `new`, as tch makes its own, and hands it over.
    Ok(unsafe { Tensor::from_ptr(tensor.cast()) })
}

/// An owner whose bytes have a place of their own.
///
/// # Safety
/// [`AsMut`] gives the same bytes every time, and they stay where they are while the owner is moved.
pub(crate) unsafe trait Stable {}

// SAFETY: the pages of a map are where the system put them until it is dropped.
unsafe impl Stable for memmap2::MmapMut {}

/// # Safety
/// `owner` came from `Box::<T>::into_raw` and is given back once.
unsafe extern "C" fn release<T>(owner: *mut c_void) {
    // SAFETY: demanded of the caller.
    drop(unsafe { Box::from_raw(owner.cast::<T>()) });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Bytes that tell, by the count of the arc, whether they are still there.
    struct Told(Vec<u8>, #[expect(dead_code, reason = "counts the owners")] Arc<()>);

    // SAFETY: a vector's bytes are on the heap, and nothing here makes it grow.
    unsafe impl Stable for Told {}

    impl AsMut<[u8]> for Told {
        fn as_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }

    #[test]
    fn an_owner_lives_as_long_as_the_last_tensor_on_its_bytes_and_is_dropped_once() {
        let told = Arc::new(());
        let whole = bytes_of_owner(Told(vec![1, 2, 3, 4], Arc::clone(&told))).unwrap();
        let part = whole.narrow(0, 1, 2);
        drop(whole);
        assert_eq!((Arc::strong_count(&told), Vec::<u8>::try_from(&part).unwrap()), (2, vec![2, 3]));
        std::thread::spawn(move || drop(part)).join().unwrap();
        assert_eq!(Arc::strong_count(&told), 1);
    }

    #[test]
    fn no_bytes_are_a_tensor_without_elements() {
        assert_eq!(bytes_of_owner(Told(Vec::new(), Arc::new(()))).unwrap().numel(), 0);
    }
}
