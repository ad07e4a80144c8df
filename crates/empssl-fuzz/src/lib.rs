//! Fuzzing of parsers of bytes from outside, on stable Rust and always with the same inputs.
//!
//! A [`Target`] is a parser with some good inputs. The harness damages these in ways that parsers get wrong
//! (`mutate`): bits, lengths, truncations, splices. Input number k of a target is a function of its name and k alone, so
//! what fails once fails again. A parser must not panic, must come to an end, and must not ask for memory out of
//! proportion to its input.
//!
//! A crate with parsers lists them in a unit test that calls [`hold`]; `cargo test` runs some thousands of inputs per
//! parser. For a long run, give the number per parser:
//!
//! ```text
//! EMPSSL_FUZZ_INPUTS=1000000 cargo test --release -p empssl-data -p empssl-pickle --lib fuzz -- --nocapture
//! ```
//!
//! `EMPSSL_FUZZ_FIRST=K` starts at input K, to repeat one that failed; `EMPSSL_FUZZ_ONLY=NAME` runs one parser.
//!
//! Tests only: no other crate depends on this one outside its `[dev-dependencies]`. It counts every allocation of the
//! process, which no program should.

mod mutate;
mod stream;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rayon::prelude::*;

use crate::stream::Stream;

/// Inputs per parser in an ordinary test run.
const FEW: u64 = 20_000;
/// How long one input may take before it counts as a hang; three thousand times what the slowest takes.
const HANG: Duration = Duration::from_secs(30);

/// A parser of outside bytes.
#[derive(Debug)]
pub struct Target {
    /// What messages call it.
    pub name: &'static str,
    /// Parses; whether the bytes were accepted.
    pub parse: fn(&[u8]) -> bool,
    /// Inputs that are accepted.
    pub seeds: Vec<Vec<u8>>,
    /// Puts right what would stop the parser at once, such as a checksum; applied to half of the inputs.
    pub repair: fn(&mut [u8]),
    /// Bytes that the parser may hold at any time: so many, and so many per byte of its input.
    pub memory: [u64; 2],
}

impl Target {
    /// A parser that needs no repair and may hold 64 KiB and 16 bytes per byte of its input.
    pub fn new(name: &'static str, parse: fn(&[u8]) -> bool, seeds: Vec<Vec<u8>>) -> Self {
        Self { name, parse, seeds, repair: |_| (), memory: [64 << 10, 16] }
    }

    /// Input `number`: the seeds as they are come first.
    fn input(&self, number: u64) -> Vec<u8> {
        if let Some(seed) = self.seeds.get(number as usize) {
            return seed.clone();
        }
        let mut stream = Stream::new(self.name, number);
        let mut input = mutate::mutated(&self.seeds, &mut stream);
        if stream.chance(0.5) {
            (self.repair)(&mut input);
        }
        input
    }

    /// Runs inputs `first` to `first + count - 1`.
    fn run(&self, first: u64, count: u64) -> Tally {
        let watchdog = Watchdog::start(self.name);
        let mut tally = Tally::default();
        for number in first..first + count {
            watchdog.current.store(number, Ordering::Relaxed);
            let input = self.input(number);
            let accepted = self.check(number, &input);
            assert!(accepted || number >= self.seeds.len() as u64, "{} refuses its seed {number}", self.name);
            tally.inputs += 1;
            tally.accepted += u64::from(accepted);
        }
        tally
    }

    /// Parses one input under observation.
    fn check(&self, number: u64, input: &[u8]) -> bool {
        let mut outcome = Ok(false);
        let used = allocation_counter::measure(|| outcome = catch_unwind(AssertUnwindSafe(|| (self.parse)(input))));
        let what = format!("{}, input {number} of {} bytes", self.name, input.len());
        // Before the memory: printing where the panic was takes some, too.
        let accepted = outcome.unwrap_or_else(|_| panic!("{what}: the parser panicked, see above"));
        let [fixed, each] = self.memory;
        let (peak, allowed) = (used.bytes_max, fixed + each * input.len() as u64);
        assert!(peak <= allowed, "{what}: {peak} bytes of memory, {allowed} are in proportion");
        accepted
    }
}

/// What a run came to.
#[derive(Default)]
struct Tally {
    inputs: u64,
    accepted: u64,
}

/// Ends the process when one input takes for ever, which no assertion could notice.
struct Watchdog {
    /// The input that is being parsed.
    current: Arc<AtomicU64>,
    /// Dropped at the end of the run, which ends the watch.
    _running: Sender<()>,
}

impl Watchdog {
    fn start(name: &'static str) -> Self {
        let (sender, receiver) = channel::<()>();
        let current = Arc::new(AtomicU64::new(u64::MAX));
        let watched = Arc::clone(&current);
        std::thread::spawn(move || {
            let mut before = None;
            while receiver.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
                let now = Some(watched.load(Ordering::Relaxed));
                if now == before {
                    eprintln!("{name}, input {now:?}: no end after {HANG:?}");
                    std::process::abort();
                }
                before = now;
            }
        });
        Self { current, _running: sender }
    }
}

/// Runs every target on some thousands of inputs each, or on as many as the environment says.
///
/// # Panics
/// When a parser panics, takes memory out of proportion, refuses one of its seeds or accepts everything; when two
/// targets have the same name, or an environment variable is no number.
pub fn hold(targets: &[Target]) {
    let mut names: Vec<_> = targets.iter().map(|target| target.name).collect();
    names.sort_unstable();
    names.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "two targets have one name"));
    let (first, inputs) = (setting("EMPSSL_FUZZ_FIRST").unwrap_or(0), setting("EMPSSL_FUZZ_INPUTS").unwrap_or(FEW));
    let only = std::env::var("EMPSSL_FUZZ_ONLY").ok();
    let wanted = |target: &&Target| only.as_ref().is_none_or(|name| name == target.name);
    targets.par_iter().filter(wanted).for_each(|target| {
        let Tally { inputs, accepted } = target.run(first, inputs);
        println!("{:<24}{inputs:>12} inputs {accepted:>12} accepted", target.name);
        assert!(accepted < inputs || inputs == 1, "{} accepts everything", target.name);
    });
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target whose parser does what it must not on an input of a certain length.
    fn target(parse: fn(&[u8]) -> bool) -> Target {
        Target::new("a parser", parse, vec![vec![1, 2, 3]])
    }

    fn complaint(run: impl FnOnce()) -> String {
        let caught = catch_unwind(AssertUnwindSafe(run)).err().and_then(|panic| panic.downcast::<String>().ok());
        caught.map_or(String::new(), |message| *message)
    }

    #[test]
    fn inputs_are_repeatable_and_differ() {
        let inputs = |target: Target| (0..50).map(|number| target.input(number)).collect::<Vec<_>>();
        let first = inputs(target(|_| true));
        assert_eq!(first, inputs(target(|_| true)));
        assert!(first.windows(2).any(|pair| pair[0] != pair[1]));
        assert_ne!(first, inputs(Target { name: "another", ..target(|_| true) }));
    }

    #[test]
    fn the_harness_notices_panics_refused_seeds_and_memory() {
        let of = |parse| {
            complaint(move || {
                target(parse).run(0, 1);
            })
        };
        assert_eq!(of(|_| true), "");
        assert!(of(|bytes| bytes[3] == 0).contains("input 0 of 3 bytes: the parser panicked"));
        assert!(of(|_| false).contains("refuses its seed 0"));
        assert!(of(|_| !std::hint::black_box(vec![1_u8; 1 << 20]).is_empty()).contains("1048576 bytes of memory"));
    }

    #[test]
    fn a_parser_that_refuses_nothing_and_a_name_used_twice_are_noticed() {
        hold(&[target(|bytes| bytes == [1, 2, 3])]);
        assert!(complaint(|| hold(&[target(|_| true)])).contains("accepts everything"));
        assert!(complaint(|| hold(&[target(|_| true), target(|_| true)])).contains("two targets have one name"));
    }
}
