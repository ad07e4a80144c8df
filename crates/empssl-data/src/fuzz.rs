//! Every parser of bytes from outside in this crate, held by the fuzzing harness (`empssl_fuzz`).

pub(crate) use empssl_fuzz::Target;

#[test]
fn no_parser_panics_hangs_or_takes_memory_out_of_proportion() {
    empssl_fuzz::hold(&targets());
}

fn targets() -> Vec<Target> {
    crate::dataset::fuzz_targets()
}

/// Writes the right checksum into every header of a tape archive, found by the sizes as they are now.
#[cfg(feature = "archives")]
pub(crate) fn repair_tar(bytes: &mut [u8]) {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    const SIZE: std::ops::Range<usize> = 124..136;
    let mut start = 0_usize;
    while let Some(header) = bytes.get_mut(start..start.saturating_add(512)) {
        header[CHECKSUM].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digit = |size: usize, &byte: &u8| size << 3 | usize::from(byte.wrapping_sub(b'0') & 7);
        let size = header[SIZE].iter().take(11).fold(0, digit);
        start = start.saturating_add(512).saturating_add(size.next_multiple_of(512));
    }
}
