//! Files that come back, bytes that are the same every time, and files that are refused.

use std::fs;
use std::path::PathBuf;

use super::*;

fn named(entries: &[(&str, Tensor)]) -> Vec<(String, Tensor)> {
    entries.iter().map(|(key, tensor)| ((*key).to_owned(), tensor.shallow_clone())).collect()
}

fn sample() -> Vec<(String, Tensor)> {
    let grid = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
    named(&[
        ("half", grid.to_kind(Kind::BFloat16)),
        ("grid", grid.shallow_clone()),
        ("turned", grid.transpose(0, 1)),
        ("count", Tensor::from(7i64)),
        ("flags", grid.gt(2.0)),
        ("empty", Tensor::zeros([0, 4], (Kind::Double, Device::Cpu))),
    ])
}

fn specs(tensors: &[(String, Tensor)]) -> Vec<TensorSpec> {
    let spec =
        |(name, tensor): &(String, Tensor)| TensorSpec { name: name.clone(), kind: tensor.kind(), size: tensor.size() };
    tensors.iter().map(spec).collect()
}

fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &TextMetadata) -> Result<(), SafetensorsError> {
    let mut writer = SafetensorsWriter::create(path, specs(tensors), metadata.clone())?;
    tensors.iter().enumerate().try_for_each(|(index, (_, tensor))| writer.append(index, tensor))?;
    writer.finish(None)
}

fn texts(entries: &[(&str, &str)]) -> TextMetadata {
    entries.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
}

/// A folder with one good file in it.
fn folder_with_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    write(&path, &sample(), &texts(&[("note", "é \"quoted\""), ("a", "")])).unwrap();
    (folder, path)
}

#[track_caller]
fn refusal(path: &Path) -> String {
    let error = SafetensorsFile::open(path).unwrap_err();
    assert!(matches!(error, SafetensorsError::Format(_)), "{error:?}");
    error.to_string()
}

/// A file of one tensor `w` of a byte, whose entry in the header is `entry`.
fn write_by_hand(path: &Path, entry: &str, data: &[u8]) {
    let header = format!("{{\"w\":{entry}}}");
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()).unwrap();
}

#[test]
fn what_is_written_is_read_in_kind_shape_and_value() {
    let (_folder, path) = folder_with_file();
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(*file.metadata(), texts(&[("note", "é \"quoted\""), ("a", "")]));
    assert_eq!((file.has_checksum(), file.n_bytes() as u64), (true, fs::metadata(&path).unwrap().len()));
    for (key, expected) in sample() {
        let found = file.tensor(&key).unwrap();
        assert_eq!((found.kind(), found.size()), (expected.kind(), expected.size()), "{key}");
        assert!(found.equal(&expected), "{key}");
    }
    // Wide numbers come first in the file, others in the order given.
    let order: Vec<_> = file.specs().into_iter().map(|spec| spec.name).collect();
    assert_eq!(order, ["count", "empty", "grid", "turned", "half", "flags"]);
    assert!(file.tensor("none").unwrap_err().to_string().contains("no tensor `none`"));
}

/// These bytes must never change: files of earlier versions are compared with new ones.
#[test]
fn the_bytes_of_a_file_are_these() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let tensors = named(&[("a", Tensor::from_slice(&[1u8, 2])), ("w", Tensor::from_slice(&[1.5f32]))]);
    write(&path, &tensors, &texts(&[("step", "7")])).unwrap();
    let header = "{\"__metadata__\":{\"crc32\":\"a1921840\",\"step\":\"7\"},\
                  \"a\":{\"data_offsets\":[4,6],\"dtype\":\"U8\",\"shape\":[2]},\
                  \"w\":{\"data_offsets\":[0,4],\"dtype\":\"F32\",\"shape\":[1]}}       ";
    let bytes = fs::read(&path).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes[8..bytes.len() - 6]), header);
    assert_eq!(bytes[..8], (header.len() as u64).to_le_bytes());
    assert_eq!(bytes[bytes.len() - 6..], [0, 0, 0xc0, 0x3f, 1, 2]);
}

#[test]
fn rows_may_come_by_turns_and_texts_at_the_end() {
    let (folder, path) = folder_with_file();
    let rows = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([4, 3]);
    let tensors = named(&[("rows", rows.shallow_clone()), ("labels", Tensor::from_slice(&[3i64, 1, 4, 1]))]);
    write(&path, &tensors, &texts(&[("seconds", "1.5")])).unwrap();
    let other = folder.path().join("other.safetensors");
    let mut writer = SafetensorsWriter::create(&other, specs(&tensors), texts(&[("seconds", "0.0")])).unwrap();
    for (start, length) in [(0, 1), (1, 3)] {
        (0..2).for_each(|index| writer.append(index, &tensors[index].1.narrow(0, start, length)).unwrap());
    }
    writer.set_text("seconds", "1.5".to_owned());
    writer.finish(None).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&other).unwrap());
}

#[test]
fn what_does_not_fill_its_room_is_refused_and_leaves_nothing() {
    let (folder, path) = folder_with_file();
    let before = fs::read(&path).unwrap();
    let writer = || SafetensorsWriter::create(&path, specs(&sample()[1..2]), texts(&[("a", "b")])).unwrap();
    let refused = |error: SafetensorsError| error.to_string();
    let mut short = writer();
    short.append(0, &Tensor::from_slice(&[1.0f32])).unwrap();
    assert_eq!(refused(short.finish(None).unwrap_err()), "`grid` cannot be written: 20 of its 24 bytes were not given");
    for wrong in [Tensor::zeros([7], (Kind::Float, Device::Cpu)), Tensor::from_slice(&[1.0f64])] {
        assert!(refused(writer().append(0, &wrong).unwrap_err()).contains("do not belong there"));
    }
    let mut longer = writer();
    longer.append(0, &sample()[1].1).unwrap();
    longer.set_text("a", "much longer than before".to_owned());
    assert!(refused(longer.finish(None).unwrap_err()).contains("longer or shorter"));
    assert_eq!((fs::read(&path).unwrap(), fs::read_dir(folder.path()).unwrap().count()), (before, 1));
}

#[test]
fn equal_content_gives_equal_bytes_and_replaces_the_old_file() {
    let (folder, path) = folder_with_file();
    let before = fs::read(&path).unwrap();
    let metadata = SafetensorsFile::open(&path).unwrap().metadata().clone();
    write(&path, &sample(), &metadata).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
}

#[test]
fn a_bit_that_flipped_is_noticed_where_the_file_has_a_checksum() {
    let (_folder, path) = folder_with_file();
    let whole = fs::read(&path).unwrap();
    let note = whole.windows(6).position(|text| text == b"quoted").unwrap();
    for (byte, bit) in [(note, 1), (whole.len() - 60, 1), (whole.len() - 1, 0x80)] {
        let mut damaged = whole.clone();
        damaged[byte] ^= bit;
        fs::write(&path, &damaged).unwrap();
        assert!(refusal(&path).contains("it is damaged: its crc32 is"), "byte {byte}");
    }
    // Of the wrong length, it is the checksum that is damaged.
    write_by_hand(&path, r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"crc32":"7"}"#, &[7]);
    assert!(refusal(&path).contains("and it was 7 when"));
    write_by_hand(&path, r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#, &[7]);
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!((file.has_checksum(), file.tensor("w").unwrap()), (false, Tensor::from_slice(&[7u8])));
}

#[test]
fn a_text_that_looks_like_the_checksum_does_no_harm() {
    let (_folder, path) = folder_with_file();
    let entry = checksum_entry(UNFILLED);
    let metadata = texts(&[("a", &entry), ("z", &entry)]);
    write(&path, &sample(), &metadata).unwrap();
    assert_eq!(*SafetensorsFile::open(&path).unwrap().metadata(), metadata);
}

#[test]
fn a_missing_file_and_a_folder_cannot_be_read() {
    let (folder, _) = folder_with_file();
    for path in [folder.path().join("absent.safetensors"), folder.path().to_owned()] {
        let error = SafetensorsFile::open(&path).unwrap_err();
        assert!(matches!(error, SafetensorsError::Io(_)), "{error:?}");
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let (_folder, path) = folder_with_file();
    let whole = fs::read(&path).unwrap();
    for length in [0, 4, 8, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(refusal(&path).contains("truncated"), "cut to {length} bytes");
    }
    fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    refusal(&path);
}

#[test]
fn foreign_files_are_refused_with_a_hint() {
    let (_folder, path) = folder_with_file();
    fs::write(&path, b"PK\x03\x04 and the rest of an archive").unwrap();
    assert!(refusal(&path).contains("`empssl import`"));
    for foreign in [&b"just some text that is long enough"[..], b"\x89PNG\r\n\x1a\n", &[0xff; 64]] {
        fs::write(&path, foreign).unwrap();
        assert!(refusal(&path).contains("another format"));
    }
    write_by_hand(&path, r#"{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}"#, &[0]);
    assert!(refusal(&path).contains("`w` holds F8_E4M3 numbers"));
}

#[test]
fn headers_that_lie_are_refused() {
    let (_folder, path) = folder_with_file();
    for entry in [
        r#"{"dtype":"F32","shape":[3,-2],"data_offsets":[0,24]}"#,
        r#"{"dtype":"F32","shape":[3,9223372036854775807],"data_offsets":[0,24]}"#,
        r#"{"dtype":"F32","shape":[3,2],"data_offsets":[0,18446744073709551615]}"#,
        r#"{"dtype":"F32","shape":[3,2],"data_offsets":[1,25]}"#,
        r#"{"dtype":"F32","shape":[3,2],"data_offsets":[24,0]}"#,
        r#"{"dtype":"F32","shape":[3,2],"data_offsets":[0,20]}"#,
        r#"{"dtype":"F16","shape":[3,2],"data_offsets":[0,24]}"#,
        r#"{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"v":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}"#,
        r#"{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"__metadata__":{"crc32":7}"#,
    ] {
        write_by_hand(&path, entry, &[0; 24]);
        assert!(refusal(&path).contains("truncated, damaged or of another format"), "{entry}");
    }
    // No room is made for what a length says.
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, 33] {
        fs::write(&path, [&length.to_le_bytes()[..], &[b' '; 32]].concat()).unwrap();
        assert!(refusal(&path).starts_with("invalid header length"), "{length}");
    }
}

#[test]
fn a_failed_write_leaves_the_old_file_and_no_temporary_one() {
    let (folder, path) = folder_with_file();
    let absent = folder.path().join("absent").join("w.safetensors");
    assert!(matches!(write(&absent, &sample(), &TextMetadata::new()), Err(SafetensorsError::Io(_))));
    // A folder in the place of the file makes the very end fail.
    let occupied = folder.path().join("occupied");
    fs::create_dir_all(occupied.join("inner")).unwrap();
    assert!(write(&occupied, &sample(), &TextMetadata::new()).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file is left");
    SafetensorsFile::open(&path).unwrap();
}

#[test]
fn names_and_numbers_that_the_format_lacks_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let number = || Tensor::from(1.0f32);
    let complex = Tensor::zeros([2], (Kind::ComplexFloat, Device::Cpu));
    let bad = [
        (named(&[("w", number()), ("w", number())]), "`w`", "twice"),
        (named(&[("__metadata__", number())]), "`__metadata__`", "reserves"),
        (named(&[("z", complex)]), "`z`", "ComplexFloat"),
    ];
    for (tensors, key, reason) in bad {
        let message = write(&path, &tensors, &TextMetadata::new()).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains(reason), "{message}");
    }
    let sizes = TensorSpec { name: "w".to_owned(), kind: Kind::Float, size: vec![-1] };
    let error = SafetensorsWriter::create(&path, vec![sizes], TextMetadata::new()).unwrap_err().to_string();
    assert!(error.contains("[-1] are no sizes"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
