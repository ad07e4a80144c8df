//! Cells over slots: each slot takes the next cell that nobody has taken.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::cell::Status;
use super::plan::Cell;
use super::slots::Slot;
use super::work::Bench;

/// Runs cells until none is left or an interrupt came; `ended` hears of each. One cell's failure stops no other.
pub(crate) fn run(cells: &[Cell], slots: &[Slot], bench: &Bench<'_>, ended: &(dyn Fn() + Sync)) {
    let (next, talking) = (AtomicUsize::new(0), Mutex::new(()));
    let work = |slot: &Slot| {
        while (bench.interrupts)() == 0 {
            let Some(cell) = cells.get(next.fetch_add(1, Ordering::SeqCst)) else { return };
            if let Err(failure) = bench.run(cell, slot) {
                (bench.say)(&format!("{}: FAILED: {failure}", cell.name));
            }
            let _one_at_a_time = talking.lock();
            ended();
        }
    };
    thread::scope(|scope| {
        for slot in slots {
            scope.spawn(|| work(slot));
        }
    });
}

/// How many of the cells have come how far.
pub(crate) fn count(cells: &[Cell], status: Status) -> usize {
    cells.iter().filter(|cell| cell.shown_status() == status).count()
}
