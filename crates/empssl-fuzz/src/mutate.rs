//! Damage of the kinds that parsers get wrong.

use crate::stream::Stream;

/// The most changes made to one input.
const MOST_CHANGES: usize = 6;
/// How far from either end headers and trailers reach; half of all changes are made there.
const MARGIN: usize = 160;
/// Lengths, counts and offsets that are often handled wrongly.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 40, 1 << 63, u64::MAX];

/// One of the seeds after a few changes.
pub(super) fn mutated(seeds: &[Vec<u8>], stream: &mut Stream) -> Vec<u8> {
    let mut input = seeds[stream.below(seeds.len())].clone();
    let longest = 2 * seeds.iter().map(Vec::len).max().unwrap_or(0) + 64;
    for _ in 0..=stream.below(MOST_CHANGES) {
        let other = &seeds[stream.below(seeds.len())];
        change(&mut input, other, stream);
        input.truncate(longest);
    }
    input
}

/// Makes one change.
fn change(input: &mut Vec<u8>, other: &[u8], stream: &mut Stream) {
    let at = place(input.len(), stream);
    match stream.below(10) {
        0 | 1 => with(input, at, |byte| *byte ^= 1 << stream.below(8)),
        2 => with(input, at, |byte| *byte = stream.bits() as u8),
        3 => with(input, at, |byte| *byte = NUMBERS[stream.below(6)] as u8),
        4 => with(input, at, |byte| *byte = b'0' + stream.below(10) as u8),
        5 => input.truncate(at),
        6 => set_number(input, at, stream),
        7 => drop(input.drain(range(at, input.len(), stream))),
        8 => {
            let copy = input[range(at, input.len(), stream)].to_vec();
            let to = place(input.len(), stream);
            input.splice(to..to, copy);
        }
        _ => {
            let piece = other[range(place(other.len(), stream), other.len(), stream)].to_vec();
            let replaced = if stream.chance(0.5) { at..at } else { at..(at + piece.len()).min(input.len()) };
            input.splice(replaced, piece);
        }
    }
}

/// A place from 0 to `len`, often near one of the ends.
fn place(len: usize, stream: &mut Stream) -> usize {
    let near = stream.below(len.min(MARGIN) + 1);
    match stream.below(4) {
        0 => near,
        1 => len - near,
        _ => stream.below(len + 1),
    }
}

/// A range that begins at `at`, short more often than long.
fn range(at: usize, len: usize, stream: &mut Stream) -> std::ops::Range<usize> {
    let most = if stream.chance(0.7) { (len - at).min(16) } else { len - at };
    at..at + stream.below(most + 1)
}

fn with(input: &mut [u8], at: usize, change: impl FnOnce(&mut u8)) {
    if let Some(byte) = input.get_mut(at) {
        change(byte);
    }
}

/// Overwrites one, two, four or eight bytes with a telling number, or one near the length of the input, in either order.
fn set_number(input: &mut [u8], at: usize, stream: &mut Stream) {
    let near_length = (input.len() as u64 + 2).wrapping_sub(stream.below(5) as u64);
    let number = if stream.chance(0.3) { near_length } else { NUMBERS[stream.below(NUMBERS.len())] };
    let width = 1 << stream.below(4);
    let little = number.to_le_bytes();
    let mut bytes = little[..width].to_vec();
    if stream.chance(0.5) {
        bytes.reverse();
    }
    input.iter_mut().skip(at).zip(bytes).for_each(|(byte, new)| *byte = new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_happens_and_stays_within_bounds() {
        let seeds = vec![vec![7_u8; 300], (0..=255).collect(), vec![]];
        let inputs: Vec<Vec<u8>> = (0..2_000).map(|number| mutated(&seeds, &mut Stream::new("x", number))).collect();
        assert!(inputs.iter().all(|input| input.len() <= 664));
        assert!(inputs.iter().any(|input| input.len() > 300) && inputs.iter().any(Vec::is_empty));
        assert!(inputs.iter().any(|input| input.len() == 300 && input.windows(4).any(|bytes| bytes == [0xff; 4])));
        let changed = inputs.iter().filter(|input| !seeds.contains(input)).count();
        assert!(changed > 1_300, "{changed}");
    }
}
