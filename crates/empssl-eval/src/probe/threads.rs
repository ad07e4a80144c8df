//! How many threads a step of a probe is shared between.

/// Products in one step up to which a single thread computes it: ten classes of 4096 features in batches of 100 count
/// as small, a hundred such classes do not.
const SMALL_STEP: i64 = 1 << 23;

/// Holds libtorch to one thread during small steps, until it is dropped.
///
/// A small step is a dozen operations of some ten microseconds. Sharing each between two free cores saves little, and
/// when another program keeps a core busy, every operation waits for that core's turn: seconds become minutes.
pub(super) struct Threads {
    n_threads_before: i32,
}

impl Threads {
    /// For steps of so many products, images times features times outputs.
    pub(super) fn for_step(n_products: i64) -> Self {
        let n_threads_before = tch::get_num_threads();
        if n_products <= SMALL_STEP {
            tch::set_num_threads(1);
        }
        Self { n_threads_before }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        tch::set_num_threads(self.n_threads_before);
    }
}
