//! Other forms of official records: pickles and archives.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// A pickle of a batch as Python 2 writes it with protocol 2, made of official records.
pub(crate) fn pickled(records: &[u8], keys: &[&str]) -> Vec<u8> {
    let rows: Vec<&[u8]> = records.chunks_exact(keys.len() + 3072).collect();
    let count = (rows.len() as u32).to_le_bytes();
    let mut pickle =
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R".to_vec();
    pickle.extend([&b"(K\x01J"[..], &count, b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"].concat());
    pickle.extend(
        [
            &b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"[..],
            &(3072 * rows.len() as u32).to_le_bytes(),
        ]
        .concat(),
    );
    rows.iter().for_each(|row| pickle.extend(&row[keys.len()..]));
    pickle.extend(b"tb");
    for (place, key) in keys.iter().enumerate() {
        pickle.extend([&[b'U', key.len() as u8][..], key.as_bytes(), b"]("].concat());
        rows.iter().for_each(|row| pickle.extend([b'K', row[place]]));
        pickle.push(b'e');
    }
    pickle.extend(b"u.");
    pickle
}

/// A pickle of a list of names, one a line of `text`.
pub(crate) fn pickled_names(text: &[u8], key: &str) -> Vec<u8> {
    let names = text.split(|&byte| byte == b'\n').filter(|name| !name.is_empty());
    let names: Vec<u8> = names.flat_map(|name| [&[b'U', name.len() as u8][..], name].concat()).collect();
    [b"\x80\x02}U", &[key.len() as u8][..], key.as_bytes(), b"](", &names, b"es."].concat()
}

/// Writes the files of a folder into a `.tar.gz`, the last of them first.
pub(crate) fn pack(folder: &Path, archive: &Path) {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let file = std::fs::File::create(archive).expect("a new file");
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    for path in paths.iter().rev() {
        let name = path.strip_prefix(folder.parent().expect("a parent")).expect("a file below");
        tar.append_path_with_name(path, name).expect("room");
    }
    tar.into_inner().expect("room").finish().expect("room").flush().expect("room");
}
