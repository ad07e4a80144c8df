//! Names inside archives, as relative paths that stay below one folder.

use std::path::PathBuf;

/// Longest name in bytes, longest part of it, and most parts.
const MAX_NAME: usize = 1024;
const MAX_PART: usize = 255;
const MAX_DEPTH: usize = 32;

/// The relative path that a name in an archive stands for; a closing `/` and parts that are `.` are dropped.
///
/// # Errors
/// With the reason, when the name is empty, absolute, not UTF-8 or too long, climbs with `..`, or holds a character
/// that means something else on another system: a backslash, a colon, a control character.
pub(crate) fn relative(name: &[u8]) -> Result<PathBuf, &'static str> {
    if name.len() > MAX_NAME {
        return Err("its name is too long");
    }
    let name = std::str::from_utf8(name).map_err(|_| "its name is not UTF-8")?;
    if name.starts_with('/') {
        return Err("its name is an absolute path");
    }
    if name.chars().any(|c| c.is_control() || c == '\\' || c == ':') {
        return Err("its name holds a backslash, a colon or a control character");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err("its name climbs out of the folder");
    }
    if parts.is_empty() {
        return Err("its name is empty");
    }
    if parts.len() > MAX_DEPTH || parts.iter().any(|part| part.len() > MAX_PART) {
        return Err("its name nests too deeply or has too long a part");
    }
    Ok(parts.iter().collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn honest_names_pass() {
        for (name, path) in [("a/b.bin", "a/b.bin"), ("./a//b/", "a/b"), ("a/./b c.JPEG", "a/b c.JPEG"), ("..a", "..a")]
        {
            assert_eq!(relative(name.as_bytes()), Ok(PathBuf::from(path)), "{name}");
        }
    }

    #[test]
    fn every_way_out_is_refused() {
        for (name, reason) in [
            ("/etc/passwd", "absolute"),
            ("../x", "climbs"),
            ("a/../../x", "climbs"),
            ("a/..", "climbs"),
            ("..\\x", "backslash"),
            ("C:/x", "colon"),
            ("a\0b", "control"),
            ("", "empty"),
            ("./", "empty"),
        ] {
            let found = relative(name.as_bytes()).unwrap_err();
            assert!(found.contains(reason), "{name:?}: {found}");
        }
        assert!(relative(&[0xff, b'a']).unwrap_err().contains("UTF-8"));
        assert!(relative("a/".repeat(33).as_bytes()).unwrap_err().contains("deeply"));
        assert!(relative("a".repeat(256).as_bytes()).unwrap_err().contains("long a part"));
        assert!(relative("a/".repeat(600).as_bytes()).unwrap_err().contains("too long"));
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_below(name in "[a./\\\\:\u{0}\u{e9}]{0,24}") {
            if let Ok(path) = relative(name.as_bytes()) {
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.components().all(plain) && path.components().count() > 0, "{path:?}");
            }
        }
    }
}
