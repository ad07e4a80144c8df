//! Which operators of libtorch a piece of code calls: evidence for tests of speed, where a clock would only guess.

use crate::ffi::{self, ShimError};

/// Runs `body` and names the operators it called on this thread, in order, as `aten::add`.
///
/// An operator that another operator calls is not listed: on a GPU a list is what the host has to launch.
///
/// # Errors
/// When the operators of this thread are being recorded already.
pub fn recorded<T>(body: impl FnOnce() -> T) -> Result<(T, Vec<String>), ShimError> {
    /// Stops the recording also when `body` panics.
    struct Recording;
    impl Drop for Recording {
        fn drop(&mut self) {
            let _ = ffi::stop_recording_operators();
        }
    }
    ffi::start_recording_operators()?;
    let recording = Recording;
    let value = body();
    std::mem::forget(recording);
    let names = ffi::stop_recording_operators()?;
    Ok((value, names.lines().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn operators_are_named_in_order_and_those_inside_others_are_not() {
        let ones = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
        let (sum, names) = recorded(|| (&ones + 1.0).sum(Kind::Float).double_value(&[])).unwrap();
        assert_eq!(sum, 12.0);
        assert_eq!(names[..2], ["aten::add", "aten::sum"]);
        assert!(names[2..].iter().any(|name| name.contains("item")), "reading a number goes unseen: {names:?}");
        let (_, names) = recorded(|| ones.linear(&ones, None::<Tensor>)).unwrap();
        assert_eq!(names, ["aten::linear"]);
        assert!(recorded(|| ()).unwrap().1.is_empty(), "the recording went on");
    }

    #[test]
    fn a_recording_within_another_is_refused_and_a_panic_ends_one() {
        let inner = recorded(|| recorded(|| ()).map(|_| ())).unwrap().0;
        assert!(inner.unwrap_err().to_string().contains("being recorded already"));
        assert!(std::panic::catch_unwind(|| recorded(|| panic!("on purpose"))).is_err());
        recorded(|| ()).unwrap();
    }
}
