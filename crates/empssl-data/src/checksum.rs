//! MD5 sums of files, as publishers of data sets give them. They tell damage apart, not malice.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use md5::{Digest, Md5};

use crate::error::DataError;
use crate::progress::{Observer, Progress, Stage, report};

/// Bytes read at once.
pub(crate) const BUFFER: usize = 256 << 10;

/// The MD5 sum of a file in lower-case hexadecimal.
pub(crate) fn md5_of(path: &Path, observer: &mut Observer<'_>) -> Result<String, DataError> {
    let io = |error| DataError::io(path, error);
    let mut file = File::open(path).map_err(io)?;
    let total = Some(file.metadata().map_err(io)?.len());
    let what = path.file_name().unwrap_or_default().to_string_lossy();
    let (mut hash, mut buffer, mut done) = (Md5::new(), vec![0; BUFFER], 0);
    loop {
        report(observer, Progress { stage: Stage::Checksum, what: &what, done, total })?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(n) => {
                hash.update(&buffer[..n]);
                done += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(io(error)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    #[test]
    fn known_sums_and_a_stop() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.bin");
        for (bytes, sum) in
            [(&b""[..], "d41d8cd98f00b204e9800998ecf8427e"), (b"abc", "900150983cd24fb0d6963f7d28e17f72")]
        {
            std::fs::write(&file, bytes).unwrap();
            assert_eq!(md5_of(&file, &mut |_| ControlFlow::Continue(())).unwrap(), sum);
        }
        let stopped = md5_of(&file, &mut |_| ControlFlow::Break(())).unwrap_err();
        assert!(matches!(stopped, DataError::Stopped { what } if what == "a.bin"));
        let missing = md5_of(&folder.path().join("b"), &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(missing.to_string().starts_with("cannot read"), "{missing}");
    }
}
