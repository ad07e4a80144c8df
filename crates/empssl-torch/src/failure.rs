//! Turns a panic of tch's plain operators into an error.
//!
//! Past the checks at the door the project uses tch's plain operators, which panic when libtorch throws. What is left
//! to fail there is the machine: out of memory above all, a device that went away. [`catch`] wraps a whole phase, keeps
//! the default panic message off the screen and returns what libtorch said. Any other panic is a bug and goes on.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use crate::ffi::{self, ShimError};

/// What libtorch threw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TorchFailure {
    /// An allocation failed.
    #[error("out of memory: {needed} more were needed{}", free_text(*.free))]
    OutOfMemory {
        /// The size of the allocation that failed.
        needed: Bytes,
        /// What was free at that time, where the allocator tells.
        free: Option<Bytes>,
    },
    /// Anything else, in libtorch's own words.
    #[error("libtorch: {0}")]
    Other(String),
}

impl TorchFailure {
    /// The failure that a message of libtorch tells of.
    pub fn of(message: &str) -> Self {
        // CUDA: "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which 1.21
        // GiB is free." CPU: "DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes."
        let after = |marker: &str| message.split_once(marker).map(|(_, rest)| rest);
        let cuda = after("Tried to allocate ").filter(|_| message.contains("out of memory"));
        let cpu = after("you tried to allocate ").filter(|_| message.contains("DefaultCPUAllocator"));
        let free = after("of which ").and_then(parse_bytes).map(Bytes);
        match cuda.or(cpu).and_then(parse_bytes) {
            Some(needed) => Self::OutOfMemory { needed: Bytes(needed), free },
            None => Self::Other(message.to_owned()),
        }
    }
}

fn free_text(free: Option<Bytes>) -> String {
    free.map_or(String::new(), |free| format!(" and {free} were free"))
}

/// A number of bytes, shown in binary units as `1.50 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
        let (mut value, mut unit) = (self.0 as f64, 0);
        while value >= 1024.0 && unit + 1 < units.len() {
            (value, unit) = (value / 1024.0, unit + 1);
        }
        if unit == 0 { write!(f, "{} {}", self.0, units[0]) } else { write!(f, "{value:.2} {}", units[unit]) }
    }
}

/// Runs `body`; an exception of libtorch comes back as an error.
///
/// Gradient mode is restored when the body was left by a panic inside `tch::no_grad`.
///
/// # Errors
/// What libtorch threw.
///
/// # Panics
/// When `body` panics for another reason: the panic goes on, with its message.
pub fn catch<T>(body: impl FnOnce() -> T) -> Result<T, TorchFailure> {
    install_hook();
    let gradients = ffi::gradients_recorded();
    DEPTH.set(DEPTH.get() + 1);
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    let payload = match outcome {
        Ok(value) => return Ok(value),
        Err(payload) => payload,
    };
    ffi::record_gradients(gradients);
    let text = payload.downcast_ref::<String>().map(String::as_str).unwrap_or_default();
    match torch_message(text) {
        Some(message) => Err(TorchFailure::of(&message)),
        None => {
            // Whoever reads standard error may be gone, and a second panic would hide the first.
            let _ = std::io::stderr().write_all(format!("{}\n", SILENCED.take()).as_bytes());
            panic::resume_unwind(payload)
        }
    }
}

/// Panics with a refusal of libtorch as tch's plain operators do, so that [`catch`] makes an error of it again.
///
/// # Panics
/// Always.
pub fn throw(refusal: ShimError) -> ! {
    panic!("{:?}", tch::TchError::Torch(refusal.0))
}

thread_local! {
    /// How many `catch` calls this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// The message of the last panic that the hook kept to itself.
    static SILENCED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Puts a hook before the one in place, which keeps panics inside `catch` off the screen until they are understood.
fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if DEPTH.get() == 0 {
                previous(info);
            } else {
                SILENCED.set(info.to_string());
            }
        }));
    });
}

/// libtorch's message, when `panic_text` is what tch's plain operators panic with.
fn torch_message(panic_text: &str) -> Option<String> {
    // tch unwraps a `TchError::Torch(text)`, so the text arrives in its debug form.
    let (_, debug) = panic_text.split_once("Torch(\"")?;
    let message = debug.strip_suffix("\")").unwrap_or(debug);
    let first_line = message.split("\\n").next().unwrap_or(message);
    Some(first_line.replace("\\\"", "\"").replace("\\'", "'"))
}

/// Reads `2.00 GiB ...` or `123 bytes ...`.
fn parse_bytes(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let value: f64 = words.next()?.parse().ok()?;
    let unit = words.next()?.trim_end_matches(['.', ',', ';']);
    let shift = match unit {
        "bytes" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    Some((value * (1u64 << shift) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn a_libtorch_exception_becomes_its_first_line() {
        let failure = catch(|| {
            Tensor::ones([2, 3], (Kind::Float, Device::Cpu)).mm(&Tensor::ones([2, 3], (Kind::Float, Device::Cpu)))
        });
        let text = failure.unwrap_err().to_string();
        assert!(text.starts_with("libtorch: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"), "{text}");
        assert!(!text.contains('\n') && !text.contains("\\n"), "{text}");
    }

    #[test]
    fn running_out_of_memory_tells_how_much_was_needed() {
        let failure = catch(|| Tensor::empty([1 << 50], (Kind::Uint8, Device::Cpu))).unwrap_err();
        assert_eq!(failure, TorchFailure::OutOfMemory { needed: Bytes(1 << 50), free: None });
    }

    #[test]
    fn the_cuda_allocators_message_is_understood() {
        let message = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.18 GiB of which \
                       512.00 MiB is free. Including non-PyTorch memory, this process has 78.6 GiB memory in use.";
        let failure = TorchFailure::of(message);
        let expected = TorchFailure::OutOfMemory { needed: Bytes(5 << 29), free: Some(Bytes(512 << 20)) };
        assert_eq!(failure, expected);
        assert_eq!(failure.to_string(), "out of memory: 2.50 GiB more were needed and 512.00 MiB were free");
    }

    #[test]
    fn gradients_are_recorded_again_after_a_failure_without_them() {
        let failure = catch(|| tch::no_grad(|| Tensor::from_slice(&[1.0f32]).reshape([3])));
        assert!(failure.is_err());
        assert!(ffi::gradients_recorded());
    }

    #[test]
    fn what_is_thrown_is_caught_with_its_words() {
        let failure = catch(|| -> () { throw(ShimError("rank \"2\" is gone".to_owned())) }).unwrap_err();
        assert_eq!(failure, TorchFailure::Other("rank \"2\" is gone".to_owned()));
    }

    #[test]
    fn another_panic_goes_on() {
        let outcome = panic::catch_unwind(|| catch(|| panic!("a bug of ours")));
        assert!(outcome.is_err());
    }

    #[test]
    fn bytes_are_shown_in_binary_units() {
        assert_eq!(Bytes(1023).to_string(), "1023 bytes");
        assert_eq!(Bytes(1536).to_string(), "1.50 KiB");
        assert_eq!(Bytes(3 << 40).to_string(), "3.00 TiB");
    }
}
