//! TF32: whether float32 convolutions and products may run on tensor cores with a 10-bit mantissa.
//!
//! libtorch allows it in cuDNN by default and not in cuBLAS; a recipe's precision sets both, so that `fp32` means
//! float32 everywhere.

use std::ffi::c_char;

use super::{ShimError, check};

unsafe extern "C" {
    fn empssl_set_tf32(convolutions: i32, products: i32) -> *mut c_char;
    fn empssl_get_tf32(convolutions: *mut i32, products: *mut i32) -> *mut c_char;
}

/// The state of the two switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tf32 {
    /// Convolutions (cuDNN).
    pub convolutions: bool,
    /// Matrix products (cuBLAS).
    pub products: bool,
}

/// Reads the switches.
///
/// # Errors
/// When the switches were set by other code through libtorch's two interfaces in contradiction to each other.
pub fn tf32() -> Result<Tf32, ShimError> {
    let (mut convolutions, mut products) = (0, 0);
    // SAFETY: both pointers are to live locals of the declared types.
    check(unsafe { empssl_get_tf32(&mut convolutions, &mut products) })?;
    Ok(Tf32 { convolutions: convolutions != 0, products: products != 0 })
}

/// Sets both switches, for the whole process.
///
/// # Errors
/// As [`tf32`].
pub fn set_tf32(allowed: bool) -> Result<(), ShimError> {
    set_each(Tf32 { convolutions: allowed, products: allowed })
}

fn set_each(Tf32 { convolutions, products }: Tf32) -> Result<(), ShimError> {
    // SAFETY: plain integer arguments.
    check(unsafe { empssl_set_tf32(i32::from(convolutions), i32::from(products)) })
}

/// Both switches in a chosen position until this is dropped, then as they were.
///
/// The switches belong to the process: two threads must not hold scopes at the same time.
#[derive(Debug)]
#[must_use = "the switches go back when this is dropped"]
pub struct Tf32Scope {
    before: Tf32,
}

impl Tf32Scope {
    /// Puts both switches to `allowed`.
    ///
    /// # Errors
    /// As [`tf32`].
    pub fn new(allowed: bool) -> Result<Self, ShimError> {
        let before = tf32()?;
        set_tf32(allowed)?;
        Ok(Self { before })
    }
}

impl Drop for Tf32Scope {
    fn drop(&mut self) {
        // They were both read and set before, and libtorch refuses neither a second time.
        let _ = set_each(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, because the switches belong to the process.
    #[test]
    fn both_switches_follow_and_a_scope_puts_them_back() {
        let (on, off) = ([true, true], [false, false]);
        let state = || tf32().map(|state| [state.convolutions, state.products]).unwrap();
        set_tf32(true).unwrap();
        assert_eq!(state(), on);
        {
            let _exact = Tf32Scope::new(false).unwrap();
            assert_eq!(state(), off);
            let _inner = Tf32Scope::new(true).unwrap();
            assert_eq!(state(), on);
        }
        assert_eq!(state(), on);
        set_tf32(false).unwrap();
        assert_eq!(state(), off);
        let left_by_a_panic = std::panic::catch_unwind(|| {
            let _scope = Tf32Scope::new(true).unwrap();
            assert_eq!(state(), off, "the scope is in force");
        });
        assert!(left_by_a_panic.is_err());
        assert_eq!(state(), off);
        set_each(Tf32 { convolutions: true, products: false }).unwrap();
        drop(Tf32Scope::new(true).unwrap());
        assert_eq!(state(), [true, false], "each switch has its own state to go back to");
        set_tf32(false).unwrap();
    }
}
