//! What of a folder belongs to a set of images: image files and folders, and nothing hidden.

use std::io;
use std::path::Path;

pub(crate) use super::image_folder::is_image;

/// The images directly in a folder with their sizes, and its folders, sorted by name.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(Vec<u8>, Option<u64>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().into_encoded_bytes();
        if name.starts_with(b".") {
            continue;
        }
        // Links count as what they lead to, as they do for whoever opens the set.
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        if metadata.is_dir() {
            found.push((name, None));
        } else if is_image(&entry.path()) {
            found.push((name, Some(metadata.len())));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether an image lies directly in a folder.
pub(crate) fn holds_image(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).any(|path| is_image(&path) && path.is_file())
}
