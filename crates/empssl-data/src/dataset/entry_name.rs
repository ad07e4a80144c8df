//! Names of files within archives: which are accepted.

/// Longest name in bytes, longest part of it, and most parts.
const MAX_NAME: usize = 1024;
const MAX_PART: usize = 255;
const MAX_DEPTH: usize = 32;

/// Refuses a name that is no plain path below the archive's root. Such a path has one way to be written, since files
/// are found again by it; a folder's may end in `/`.
///
/// # Errors
/// With the reason, when the name is empty, absolute or too long, climbs with `..`, takes detours by `.` or `//`, or
/// holds a character that means something else on another system: a backslash, a colon, a control character.
pub(crate) fn check_entry_name(name: &str) -> Result<(), &'static str> {
    if name.len() > MAX_NAME {
        return Err("its name is too long");
    }
    if name.starts_with('/') {
        return Err("its name is an absolute path");
    }
    if name.chars().any(|c| c.is_control() || c == '\\' || c == ':') {
        return Err("its name holds a backslash, a colon or a control character");
    }
    let parts: Vec<&str> = name.trim_end_matches('/').split('/').collect();
    if parts.contains(&"..") {
        return Err("its name climbs out of the folder");
    }
    if parts.iter().all(|part| matches!(*part, "" | ".")) {
        return Err("its name is empty");
    }
    if parts.len() > MAX_DEPTH || parts.iter().any(|part| part.len() > MAX_PART) {
        return Err("its name nests too deeply or has too long a part");
    }
    let detours = parts.iter().any(|part| matches!(*part, "" | "."));
    if detours { Err("its name takes detours") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use empssl_golden::damage::Parser;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_pass() {
        for name in ["a/b.bin", "a/b/", "a/b c.JPEG", "..a"] {
            assert_eq!(check_entry_name(name), Ok(()), "{name}");
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
            ("./a", "detours"),
            ("a//b", "detours"),
        ] {
            let found = check_entry_name(name).unwrap_err();
            assert!(found.contains(reason), "{name:?}: {found}");
        }
        assert!(check_entry_name(&"a/".repeat(33)).unwrap_err().contains("deeply"));
        assert!(check_entry_name(&"a".repeat(256)).unwrap_err().contains("long a part"));
        assert!(check_entry_name(&"a/".repeat(600)).unwrap_err().contains("too long"));
    }

    #[test]
    fn damaged_names_are_refused_or_plain() {
        let parse = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|name| check_entry_name(name).is_ok());
        let good = ["set/train/cat/0.png", "cifar-10-batches-bin/data_batch_1.bin", "a/b/"];
        Parser::new("name in archive", parse, good.map(|name| name.as_bytes().to_vec()).to_vec()).hold();
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_below(name in "[a./\\\\:\u{0}\u{e9}]{0,24}") {
            if check_entry_name(&name).is_ok() {
                let path = std::path::Path::new(&name);
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.components().all(plain) && path.components().count() > 0, "{path:?}");
            }
        }
    }
}
