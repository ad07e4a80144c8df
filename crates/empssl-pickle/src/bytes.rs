//! Reading untrusted bytes: a cursor that never reads past the end, and the error for malformed bytes.

/// Why bytes are malformed; the caller adds which file they are from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl Fault {
    /// A fault of the whole.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// A fault at one place, counted from 0.
    pub fn at(offset: usize, reason: impl std::fmt::Display) -> Self {
        Self(format!("{reason} at byte {offset}"))
    }
}

/// A place in some bytes, moving towards their end.
#[derive(Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    /// How many bytes are behind.
    pub(crate) place: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, place: 0 }
    }

    /// All bytes, those behind included.
    pub(crate) fn whole(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes ahead.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.place..]
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let Some(taken) = self.rest().get(..count) else {
            let reason = format!("{count} bytes are needed and {} are left", self.rest().len());
            return Err(Fault::at(self.place, reason));
        };
        self.place += count;
        Ok(taken)
    }

    /// The next bytes, as many as the array has.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next byte.
    ///
    /// # Errors
    /// When none is left.
    pub fn byte(&mut self) -> Result<u8, Fault> {
        self.array().map(|[byte]| byte)
    }

    /// The bytes before the next line feed, which is passed over.
    ///
    /// # Errors
    /// When there is none.
    pub fn line(&mut self) -> Result<&'a [u8], Fault> {
        let Some(length) = self.rest().iter().position(|&byte| byte == b'\n') else {
            return Err(Fault::at(self.place, "a line without an end"));
        };
        let line = self.take(length)?;
        self.place += 1;
        Ok(line)
    }
}

/// Bytes of unknown content as one short printable text.
pub fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 60;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]).escape_debug().to_string();
    if bytes.len() > MOST { text + "..." } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_gives_what_is_there_and_no_more() {
        let mut cursor = Cursor::new(b"ab\ncd");
        assert_eq!(cursor.line(), Ok(&b"ab"[..]));
        assert_eq!(cursor.line(), Err(Fault::new("a line without an end at byte 3")));
        assert_eq!((cursor.byte(), cursor.rest(), cursor.place), (Ok(b'c'), &b"d"[..], 4));
        assert_eq!(cursor.array::<2>(), Err(Fault::new("2 bytes are needed and 1 are left at byte 4")));
        assert_eq!(
            cursor.take(usize::MAX).unwrap_err(),
            Fault::at(4, format!("{} bytes are needed and 1 are left", usize::MAX))
        );
        assert_eq!((cursor.take(1), cursor.take(0)), (Ok(&b"d"[..]), Ok(&b""[..])));
    }

    #[test]
    fn foreign_bytes_are_shown_short_and_printable() {
        assert_eq!(shown(b"os\x1b\xff"), "os\\u{1b}\u{fffd}");
        assert_eq!(shown(&[b'a'; 100]).len(), 63);
    }
}
