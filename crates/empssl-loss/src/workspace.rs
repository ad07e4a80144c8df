//! Memory that is used again in the next step.

use std::sync::{Mutex, PoisonError};

use tch::{Device, Tensor};

/// At most one tensor, kept between the steps of a training loop.
///
/// Only on the CPU: there the allocator hands large blocks back to the system, and touching fresh pages costs more than
/// computing what goes into them. A GPU's allocator keeps its blocks by itself.
#[derive(Debug, Default)]
pub(crate) struct Workspace(Mutex<Option<Tensor>>);

impl Workspace {
    /// The kept tensor, when it is of the form of `like`; its values mean nothing. Taken, it is the caller's alone.
    pub(crate) fn take(&self, like: &Tensor) -> Option<Tensor> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.filter(|kept| kept.size() == like.size() && kept.kind() == like.kind() && like.device() == Device::Cpu)
    }

    /// Keeps a tensor that nobody else reads any more.
    pub(crate) fn keep(&self, tensor: Tensor) {
        if tensor.device() == Device::Cpu {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(tensor);
        }
    }
}

/// A copy works on memory of its own.
impl Clone for Workspace {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn memory_comes_back_to_the_same_form_only() {
        let zeros = |size: &[i64], kind| Tensor::zeros(size, (kind, Device::Cpu));
        let workspace = Workspace::default();
        let (same, address) = (zeros(&[2, 3], Kind::Float), zeros(&[2, 3], Kind::Float));
        let pointer = address.data_ptr();
        workspace.keep(address);
        assert!(workspace.clone().take(&same).is_none());
        let taken = workspace.take(&same).unwrap();
        assert_eq!(taken.data_ptr(), pointer);
        assert!(workspace.take(&same).is_none(), "it was handed out twice");
        for other in [zeros(&[3, 2], Kind::Float), zeros(&[2, 3], Kind::Double)] {
            workspace.keep(zeros(&[2, 3], Kind::Float));
            assert!(workspace.take(&other).is_none());
        }
    }
}
