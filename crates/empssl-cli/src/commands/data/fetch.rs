//! `empssl data fetch`

use std::path::Path;

use super::watch::Watch;
use crate::error::CliError;
use crate::print;
use crate::print::output;

pub(super) fn run(name: &str, data: &Path) -> Result<(), CliError> {
    let mut watch = Watch::new()?;
    let fetched = empssl_data::fetch::fetch(name, data, &mut |progress| watch.see(progress))?;
    drop(watch);
    for part in &fetched {
        let how = if part.was_there { "already complete" } else { "complete" };
        output(format_args!("{}: {how}", part.path.display()));
    }
    print::line(format_args!("next: empssl data verify {name} --data {}", data.display()));
    Ok(())
}
