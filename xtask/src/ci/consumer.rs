//! A crate outside the workspace that depends on `empssl-loss` by path, made from the lines that docs/library.md gives.
//!
//! The page marks each file by a comment before its fenced block, and the commands to run the same way; see [`PARTS`].
//! What readers are told and what is checked are therefore one text.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::failure::{Code, Context, Failure, Outcome};
use crate::workspace::Workspace;
use crate::{process, setup};

/// The page with the blocks.
const PAGE: &str = "docs/library.md";

/// The blocks the page must hold, each after a line `<!-- consumer: NAME -->`.
const PARTS: [&str; 5] = ["Cargo.toml", ".cargo/config.toml", "build.rs", "src/main.rs", COMMANDS];

/// The block of commands; the others are files.
const COMMANDS: &str = "commands";

/// What stands for the checkout's folder on the page.
const PLACEHOLDER: &str = "/path/to/empssl";

/// Runs the check.
pub(super) fn run(workspace: &Workspace) -> Outcome {
    let page = workspace.join(PAGE);
    let page = fs::read_to_string(&page).at(Code::Check, "read", &page)?;
    let blocks = blocks(&page)?;
    // A folder outside the checkout, whose settings of cargo would else hold there too.
    let folder = env::temp_dir().join(format!("empssl-consumer-{}", std::process::id()));
    let outcome = check(&blocks, &folder, workspace);
    let _ = fs::remove_dir_all(&folder);
    outcome
}

/// Writes the files into the folder and runs the commands there.
fn check(blocks: &[(&str, String)], folder: &Path, workspace: &Workspace) -> Outcome {
    for (name, text) in blocks.iter().filter(|(name, _)| *name != COMMANDS) {
        write(&folder.join(name), &text.replace(PLACEHOLDER, &workspace.root().display().to_string()))?;
    }
    share_build(folder, workspace)?;
    let commands = blocks.iter().filter(|(name, _)| *name == COMMANDS).flat_map(|(_, text)| text.lines());
    commands.filter(|line| !line.trim().is_empty()).try_for_each(|line| shell(line, folder, workspace))
}

/// The page's blocks by name, all of [`PARTS`].
fn blocks(page: &str) -> Outcome<Vec<(&'static str, String)>> {
    PARTS
        .into_iter()
        .map(|name| {
            let marker = format!("<!-- consumer: {name} -->");
            let text = block_after(page, &marker);
            text.map(|text| (name, text)).ok_or_else(|| {
                Failure::check(format!("{PAGE} lacks the line `{marker}` with a fenced block right after it"))
            })
        })
        .collect()
}

fn block_after(page: &str, marker: &str) -> Option<String> {
    let mut lines = page.lines().skip_while(|line| line.trim() != marker).skip(1);
    let fence = lines.find(|line| !line.trim().is_empty())?;
    fence.starts_with("```").then(|| lines.take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect())
}

fn write(path: &Path, text: &str) -> Outcome {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).at(Code::Check, "create the folder", folder)?;
    fs::write(path, text).at(Code::Check, "write", path)
}

/// With our versions and profiles cargo finds torch-sys built already; compiling it takes minutes and shows nothing new.
fn share_build(folder: &Path, workspace: &Workspace) -> Outcome {
    let (lock, manifest) = (workspace.join("Cargo.lock"), workspace.join("Cargo.toml"));
    fs::copy(&lock, folder.join("Cargo.lock")).at(Code::Check, "copy", &lock)?;
    let root = fs::read_to_string(&manifest).at(Code::Check, "read", &manifest)?;
    let path = folder.join("Cargo.toml");
    let own = fs::read_to_string(&path).at(Code::Check, "read", &path)?;
    let profiles = profiles(&root).ok_or_else(|| Failure::check("Cargo.toml has no profiles"))?;
    write(&path, &format!("{own}\n{profiles}"))
}

/// The `[profile.…]` tables of a manifest.
fn profiles(manifest: &str) -> Option<String> {
    let manifest: toml::Table = manifest.parse().ok()?;
    Some(toml::Table::from_iter([("profile".to_owned(), manifest.get("profile")?.clone())]).to_string())
}

fn shell(line: &str, folder: &Path, workspace: &Workspace) -> Outcome {
    let mut command = Command::new("sh");
    command.args(["-ec", line]).current_dir(folder).env("CARGO_TARGET_DIR", workspace.target());
    if !setup::is_users(workspace) {
        // Cargo set it for us; the crate outside has to find libtorch by its own lines.
        command.env_remove("LIBTORCH");
    }
    process::run(&mut command, Code::Check)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "text\n<!-- consumer: Cargo.toml -->\n\n```toml\n[package]\n\n[dependencies]\n```\nmore\n\
                          <!-- consumer: build.rs -->\nno block\n```rust\n```\n";

    #[test]
    fn a_block_is_read_whole_and_only_right_after_its_marker() {
        let block = |name: &str| block_after(SAMPLE, &format!("<!-- consumer: {name} -->"));
        assert_eq!(block("Cargo.toml").unwrap(), "[package]\n\n[dependencies]\n");
        assert_eq!(block("build.rs"), None);
        assert_eq!(block("absent"), None);
    }

    #[test]
    fn a_page_without_its_blocks_is_refused_by_name() {
        let message = blocks(SAMPLE).unwrap_err().to_string();
        assert!(message.contains("`<!-- consumer: .cargo/config.toml -->`"), "{message}");
    }

    #[test]
    fn only_profiles_are_taken_over() {
        let manifest =
            "[workspace]\nmembers = []\n[profile.dev]\nopt-level = 1\n[lints]\na = 1\n[profile.release]\nx = 2\n";
        assert_eq!(profiles(manifest).unwrap(), "[profile.dev]\nopt-level = 1\n\n[profile.release]\nx = 2\n");
    }
}
