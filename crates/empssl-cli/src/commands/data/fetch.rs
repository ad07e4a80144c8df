//! `empssl data fetch`

use std::path::Path;

use super::watch::Watch;
use crate::commands::say;
use crate::error::CliError;

pub(super) fn run(name: &str, data: &Path) -> Result<(), CliError> {
    let mut watch = Watch::new()?;
    let fetched = empssl_data::fetch::fetch(name, data, &mut |progress| watch.see(progress))?;
    drop(watch);
    for part in &fetched {
        let how = match part.was_there {
            // A file was compared with its checksum, of a folder the sizes of a few files.
            true if part.path.is_dir() => "found, its content not checked",
            true => "already complete",
            false => "complete",
        };
        say(format_args!("{}: {how}", part.path.display()));
    }
    eprintln!("next: empssl data verify {name} --data {}", data.display());
    Ok(())
}
