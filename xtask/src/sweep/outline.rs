//! What a run would be, as `empssl recipe --json` says it.

use std::path::Path;
use std::process::Command;

use empssl_report::outline::Outline;

use crate::failure::{Code, Failure, Outcome};
use crate::process;
use crate::reproduce::images::{ImageSet, MayFetch};
use crate::reproduce::program::Program;
use crate::workspace::Workspace;

/// How `empssl` ends when images are missing or wrong.
const BAD_DATA: i32 = 3;

/// Asks the program; a public set that is missing is fetched where that is wanted.
pub(crate) fn outline(
    set: &ImageSet,
    recipe: &Path,
    changes: &[String],
    program: &Program,
    may_fetch: MayFetch,
    workspace: &Workspace,
) -> Outcome<Outline> {
    let mut command = question(set, recipe, changes, program);
    let answer = match ask(&mut command)? {
        Err(said) if set.dir == Some(workspace.join("data")) => {
            set.fetch(may_fetch, program, workspace).map_err(|failure| {
                Failure::new(failure.code, format!("{failure} (`{}` says: {said})", process::shown(&command)))
            })?;
            ask(&mut command)?
        }
        answer => answer,
    };
    let text = answer.map_err(Failure::usage)?;
    let unreadable = |error| Failure::new(Code::Child, format!("`{}`: {error}", process::shown(&command)));
    serde_json::from_str(&text).map_err(unreadable)
}

/// Makes sure that a set that lies in the default place is there.
pub(crate) fn demand_images(
    set: &ImageSet,
    recipe: &Path,
    program: &Program,
    may_fetch: MayFetch,
    workspace: &Workspace,
) -> Outcome {
    match set.dir == Some(workspace.join("data")) {
        true => outline(set, recipe, &[], program, may_fetch, workspace).map(drop),
        false => Ok(()),
    }
}

fn question(set: &ImageSet, recipe: &Path, changes: &[String], program: &Program) -> Command {
    let mut command = program.command();
    command.arg("recipe").arg(recipe).arg("--json");
    set.add_to(&mut command);
    command.args(changes.iter().flat_map(|change| ["--set", change]));
    command
}

/// What the program prints; where images are missing or wrong, its sentence.
fn ask(command: &mut Command) -> Outcome<Result<String, String>> {
    let output = command.output().map_err(|error| process::not_started(command, &error))?;
    if output.status.success() {
        return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("error: ").to_owned();
    match output.status.code() {
        Some(BAD_DATA) => Ok(Err(said)),
        _ => Err(Failure::new(Code::Child, format!("`{}`: {said}", process::shown(command)))),
    }
}
