//! Damaged inputs for parsers of bytes from outside: good ones after changes of the kinds that parsers get wrong.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Inputs per parser.
const INPUTS: u32 = 20_000;
/// The most changes made to one input.
const MOST_CHANGES: usize = 6;
/// How far from either end headers and trailers reach; half of all changes are made there.
const MARGIN: usize = 160;
/// Lengths, counts and offsets that are often handled wrongly.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 40, 1 << 63, u64::MAX];

/// A parser of bytes from outside.
#[derive(Debug, Clone)]
pub struct Parser {
    /// What messages call it.
    pub name: &'static str,
    /// Parses; whether the bytes were accepted.
    pub parse: fn(&[u8]) -> bool,
    /// Inputs that are accepted.
    pub good: Vec<Vec<u8>>,
    /// Puts right what would stop the parser at once, such as a checksum; applied to half of the inputs.
    pub repair: fn(&mut [u8]),
    /// Bytes that the parser may hold at any time: so many, and so many per byte of its input.
    pub memory: [u64; 2],
}

impl Parser {
    /// A parser that needs no repair and may hold 64 KiB and 16 bytes per byte of its input.
    pub fn new(name: &'static str, parse: fn(&[u8]) -> bool, good: Vec<Vec<u8>>) -> Self {
        Self { name, parse, good, repair: |_| (), memory: [64 << 10, 16] }
    }

    /// Parses the good inputs and 20,000 damaged ones, always the same; the variable `PROPTEST_CASES` asks for more. A
    /// parser that hangs shows as a test without an end.
    ///
    /// # Panics
    /// When the parser panics, takes memory out of proportion, refuses a good input or accepts every damaged one.
    pub fn hold(&self) {
        for (number, input) in self.good.iter().enumerate() {
            let accepted = self.check(input).unwrap_or_else(|error| panic!("{}: {error}", self.name));
            assert!(accepted, "{} refuses its good input {number}", self.name);
        }
        let config = Config::default();
        let cases = config.cases.max(INPUTS);
        let config = Config { cases, failure_persistence: None, ..config };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let refused = std::cell::Cell::new(0_u64);
        let held = runner.run(&(damaged(&self.good), any::<bool>()), |(mut input, repaired)| {
            if repaired {
                (self.repair)(&mut input);
            }
            let accepted = self.check(&input)?;
            refused.set(refused.get() + u64::from(!accepted));
            Ok(())
        });
        held.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert!(refused.get() > 0, "{} accepts everything", self.name);
    }

    /// Parses one input; whether it was accepted.
    fn check(&self, input: &[u8]) -> Result<bool, TestCaseError> {
        let mut outcome = Ok(false);
        // Unwinding must not pass the measurement.
        let used = allocation_counter::measure(|| outcome = catch_unwind(AssertUnwindSafe(|| (self.parse)(input))));
        let accepted = outcome.unwrap_or_else(|panic| resume_unwind(panic));
        let [fixed, each] = self.memory;
        let (peak, allowed) = (used.bytes_max, fixed + each * input.len() as u64);
        prop_assert!(peak <= allowed, "{} bytes of memory, {} are in proportion", peak, allowed);
        Ok(accepted)
    }
}

/// One of the `good` inputs after a few changes.
pub fn damaged(good: &[Vec<u8>]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let good = good.to_vec();
    let longest = 2 * good.iter().map(Vec::len).max().unwrap_or(0) + 64;
    (any::<u64>(), vec(any::<[u64; 12]>(), 1..=MOST_CHANGES)).prop_map(move |(which, changes)| {
        let mut input = good[Draws(&[which]).below(good.len())].clone();
        for numbers in changes {
            let mut draws = Draws(&numbers);
            let other = &good[draws.below(good.len())];
            change(&mut input, other, &mut draws);
            input.truncate(longest);
        }
        input
    })
}

/// The random numbers of one change, zeros once they are spent.
struct Draws<'a>(&'a [u64]);

impl Draws<'_> {
    fn next(&mut self) -> u64 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// A number from 0 to `n - 1`; the tiny preference that a product has for some of them does no harm here.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

/// Makes one change.
fn change(input: &mut Vec<u8>, other: &[u8], draws: &mut Draws<'_>) {
    let at = place(input.len(), draws);
    match draws.below(10) {
        0 | 1 => with(input, at, |byte| *byte ^= 1 << draws.below(8)),
        2 => with(input, at, |byte| *byte = draws.next() as u8),
        3 => with(input, at, |byte| *byte = NUMBERS[draws.below(6)] as u8),
        4 => with(input, at, |byte| *byte = b'0' + draws.below(10) as u8),
        5 => input.truncate(at),
        6 => set_number(input, at, draws),
        7 => drop(input.drain(range(at, input.len(), draws))),
        8 => {
            let copy = input[range(at, input.len(), draws)].to_vec();
            let to = place(input.len(), draws);
            input.splice(to..to, copy);
        }
        _ => {
            let start = place(other.len(), draws);
            let piece = other[range(start, other.len(), draws)].to_vec();
            let replaced = if draws.below(2) == 0 { at..at } else { at..(at + piece.len()).min(input.len()) };
            input.splice(replaced, piece);
        }
    }
}

/// A place from 0 to `len`, often near one of the ends.
fn place(len: usize, draws: &mut Draws<'_>) -> usize {
    let near = draws.below(len.min(MARGIN) + 1);
    match draws.below(4) {
        0 => near,
        1 => len - near,
        _ => draws.below(len + 1),
    }
}

/// A range that begins at `at`, short more often than long.
fn range(at: usize, len: usize, draws: &mut Draws<'_>) -> Range<usize> {
    let most = if draws.below(10) < 7 { (len - at).min(16) } else { len - at };
    at..at + draws.below(most + 1)
}

fn with(input: &mut [u8], at: usize, change: impl FnOnce(&mut u8)) {
    if let Some(byte) = input.get_mut(at) {
        change(byte);
    }
}

/// Overwrites one, two, four or eight bytes with a telling number, or one near the length of the input, in either order.
fn set_number(input: &mut [u8], at: usize, draws: &mut Draws<'_>) {
    let near_length = (input.len() as u64 + 2).wrapping_sub(draws.below(5) as u64);
    let number = if draws.below(10) < 3 { near_length } else { NUMBERS[draws.below(NUMBERS.len())] };
    let width = 1 << draws.below(4);
    let little = number.to_le_bytes();
    let mut bytes = little[..width].to_vec();
    if draws.below(2) == 0 {
        bytes.reverse();
    }
    input.iter_mut().skip(at).zip(bytes).for_each(|(byte, new)| *byte = new);
}

#[cfg(test)]
mod tests {
    use proptest::strategy::ValueTree;

    use super::*;

    fn inputs(count: usize) -> Vec<Vec<u8>> {
        let good = [vec![7_u8; 300], (0..=255).collect(), vec![]];
        let mut runner = TestRunner::deterministic();
        (0..count).map(|_| damaged(&good).new_tree(&mut runner).unwrap().current()).collect()
    }

    #[test]
    fn every_kind_of_change_happens_and_stays_within_bounds() {
        let inputs = inputs(2_000);
        assert!(inputs.iter().all(|input| input.len() <= 664));
        assert!(inputs.iter().any(|input| input.len() > 300) && inputs.iter().any(Vec::is_empty));
        assert!(inputs.iter().any(|input| input.len() == 300 && input.windows(4).any(|bytes| bytes == [0xff; 4])));
        let distinct: std::collections::BTreeSet<_> = inputs.iter().collect();
        assert!(distinct.len() > 1_300, "{}", distinct.len());
    }

    #[test]
    fn inputs_are_the_same_every_time() {
        assert_eq!(inputs(50), inputs(50));
    }

    fn complaint(parse: fn(&[u8]) -> bool) -> String {
        let parser = Parser::new("a parser", parse, vec![vec![1, 2, 3]]);
        let caught = catch_unwind(AssertUnwindSafe(|| parser.hold())).err();
        caught.and_then(|panic| panic.downcast::<String>().ok()).map_or(String::new(), |message| *message)
    }

    #[test]
    fn panics_refused_good_inputs_memory_and_indifference_are_noticed() {
        assert_eq!(complaint(|bytes| bytes == [1, 2, 3]), "");
        assert!(complaint(|bytes| bytes.len() == 3 || bytes[9] == 0).contains("index out of bounds"));
        assert!(complaint(|_| false).contains("a parser refuses its good input 0"));
        assert!(
            complaint(|_| !std::hint::black_box(vec![1_u8; 1 << 20]).is_empty()).contains("1048576 bytes of memory")
        );
        assert!(complaint(|_| true).contains("a parser accepts everything"));
    }
}
