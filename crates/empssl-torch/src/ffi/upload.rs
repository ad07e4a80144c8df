//! A copy that a device makes on its own, and the memory it reads until it is done.

use tch::Tensor;

use super::ShimError;

/// Tells when a device has done a piece of work.
pub trait Completion {
    /// Whether it is done, without waiting.
    ///
    /// # Errors
    /// When the device failed.
    fn is_complete(&self) -> Result<bool, ShimError>;

    /// Waits until it is done.
    ///
    /// # Errors
    /// When the device failed.
    fn wait(&self) -> Result<(), ShimError>;

    /// Puts everything that this thread asks the device of `tensor` to do from now on behind the work; the host does not
    /// wait. The memory of the tensor is kept for what this thread asks for, too.
    ///
    /// # Errors
    /// When the device failed.
    fn admit(&self, tensor: &Tensor) -> Result<(), ShimError>;
}

/// A copy under way, the tensor it goes to, and its source, which nobody else gets at before the copy is done.
///
/// Dropping it waits for the copy. Where the device does not tell whether it still reads the source, the source is never
/// let go of: a leak instead of bytes that change under a copy.
#[derive(Debug)]
pub struct Upload<S, C: Completion> {
    tensor: Tensor,
    done: C,
    /// In a box, so that the bytes stay where they are when this is moved; `None` once it was let go of.
    source: Option<Box<S>>,
}

impl<S: AsRef<[u8]> + 'static, C: Completion> Upload<S, C> {
    /// What `begin` makes of the bytes of `source`: a tensor that will hold them, and the word on when it does.
    ///
    /// # Errors
    /// Those of `begin`; nobody reads the bytes then.
    pub fn new<E>(source: S, begin: impl FnOnce(&[u8]) -> Result<(Tensor, C), E>) -> Result<Self, E> {
        let source = Box::new(source);
        let (tensor, done) = begin((*source).as_ref())?;
        Ok(Self { tensor, done, source: Some(source) })
    }
}

impl<S, C: Completion> Upload<S, C> {
    /// Drops the source, as soon as the copy is done.
    ///
    /// # Errors
    /// When the device failed; the source stays.
    pub fn release(&mut self) -> Result<(), ShimError> {
        if self.source.is_some() && !self.done.is_complete()? {
            self.done.wait()?;
        }
        self.source = None;
        Ok(())
    }

    /// The tensor, for what this thread asks the device to do from now on, and for nothing that runs elsewhere. Waits
    /// until the source can be dropped.
    ///
    /// # Errors
    /// When the device failed.
    pub fn into_tensor(mut self) -> Result<Tensor, ShimError> {
        self.done.admit(&self.tensor)?;
        self.release()?;
        Ok(self.tensor.shallow_clone())
    }
}

impl<S, C: Completion> Drop for Upload<S, C> {
    fn drop(&mut self) {
        if self.release().is_err() {
            std::mem::forget(self.source.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use tch::{Device, Kind};

    use super::*;

    /// What happened, in order.
    type Log = Rc<RefCell<Vec<&'static str>>>;

    /// Bytes that say when they are let go of.
    struct Source(Log);

    impl AsRef<[u8]> for Source {
        fn as_ref(&self) -> &[u8] {
            &[1, 2, 3]
        }
    }

    impl Drop for Source {
        fn drop(&mut self) {
            self.0.borrow_mut().push("let go");
        }
    }

    /// A copy that is complete once it was waited for, or broken for good.
    struct Late {
        log: Log,
        is_complete: Cell<bool>,
        is_broken: bool,
    }

    impl Late {
        fn say(&self, word: &'static str) -> Result<(), ShimError> {
            self.log.borrow_mut().push(word);
            if self.is_broken { Err(ShimError("broken".to_owned())) } else { Ok(()) }
        }
    }

    impl Completion for Late {
        fn is_complete(&self) -> Result<bool, ShimError> {
            if self.is_complete.get() { Ok(true) } else { self.say("asked").map(|()| false) }
        }

        fn wait(&self) -> Result<(), ShimError> {
            self.is_complete.set(true);
            self.say("waited")
        }

        fn admit(&self, _: &Tensor) -> Result<(), ShimError> {
            self.say("admitted")
        }
    }

    fn upload(is_complete: bool, is_broken: bool) -> (Log, Upload<Source, Late>) {
        let log = Log::default();
        let late = Late { log: Rc::clone(&log), is_complete: Cell::new(is_complete), is_broken };
        let begin = |bytes: &[u8]| {
            let tensor = Tensor::zeros([bytes.len() as i64], (Kind::Uint8, Device::Cpu));
            Ok::<_, ShimError>((tensor, late))
        };
        let upload = Upload::new(Source(Rc::clone(&log)), begin).unwrap();
        (log, upload)
    }

    #[test]
    fn the_source_is_let_go_of_after_the_copy_and_once() {
        let (log, mut pending) = upload(false, false);
        pending.release().unwrap();
        pending.release().unwrap();
        assert_eq!(pending.into_tensor().unwrap().size(), [3]);
        assert_eq!(*log.borrow(), ["asked", "waited", "let go", "admitted"]);
        let (log, mut complete) = upload(true, false);
        complete.release().unwrap();
        assert_eq!(*log.borrow(), ["let go"], "nobody waits for a copy that is complete");
    }

    #[test]
    fn a_tensor_that_is_taken_first_and_a_drop_wait_too() {
        let (log, taken) = upload(false, false);
        let _ = taken.into_tensor().unwrap();
        assert_eq!(*log.borrow(), ["admitted", "asked", "waited", "let go"]);
        let (log, dropped) = upload(false, false);
        drop(dropped);
        assert_eq!(*log.borrow(), ["asked", "waited", "let go"]);
    }

    #[test]
    fn the_source_of_a_copy_that_nobody_vouches_for_is_never_let_go_of() {
        let (log, mut broken) = upload(false, true);
        assert!(broken.release().is_err());
        drop(broken);
        assert_eq!(*log.borrow(), ["asked", "asked"]);
        let (log, broken) = upload(false, true);
        assert!(broken.into_tensor().is_err());
        assert_eq!(*log.borrow(), ["admitted", "asked"]);
    }

    #[test]
    fn a_copy_that_never_began_lets_its_source_go() {
        let log = Log::default();
        let refusal = Upload::<_, Late>::new(Source(Rc::clone(&log)), |_| Err("no memory"));
        assert_eq!(refusal.map(drop), Err("no memory"));
        assert_eq!(*log.borrow(), ["let go"]);
    }
}
