//! Published figures, a line for each recipe that stands for some, and which of them have been measured.

use std::fs;
use std::path::{Path, PathBuf};

use empssl_report::report::Published;
use empssl_report::words;
use serde::Deserialize;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::process;
use crate::reproduce::program::Program;
use crate::workspace::Workspace;

/// What of a recipe matters here.
#[derive(Deserialize)]
struct Recipe {
    dataset: String,
    #[serde(default)]
    published: Vec<Published>,
}

/// The table; `measured` says whether a report of this set and recipe is committed.
/// The program resolves each recipe.
pub(super) fn table(
    workspace: &Workspace,
    program: &Program,
    measured: &dyn Fn(&str, &str) -> bool,
) -> Outcome<String> {
    let mut lines =
        vec!["| data | recipe | published linear probe | measured here |".to_owned(), "|---|---|---|---|".to_owned()];
    for path in recipes(&workspace.join("configs"))? {
        let text = process::output(program.command().arg("recipe").arg(&path))?;
        let wrong = |error: toml::de::Error| Failure::check(format!("{}: {}", path.display(), error.message()));
        let recipe: Recipe = toml::from_str(&text).map_err(wrong)?;
        if recipe.published.is_empty() {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let status = if measured(&recipe.dataset, &name) { "see the README" } else { "not yet: it needs a GPU" };
        let link = format!("[{name}](../configs/{}/{name}.toml)", recipe.dataset);
        lines.push(format!("| {} | {link} | {} | {status} |", recipe.dataset, figures(&recipe.published)));
    }
    Ok(lines.join("\n") + "\n")
}

/// Every recipe of every set, sorted.
fn recipes(configs: &Path) -> Outcome<Vec<PathBuf>> {
    let list = |folder: &Path| -> Outcome<Vec<PathBuf>> {
        let entries = fs::read_dir(folder).at(Code::Check, "read", folder)?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort_by_key(|path| path.file_stem().map(std::ffi::OsStr::to_owned));
        Ok(paths)
    };
    let mut all = Vec::new();
    for set in list(configs)?.into_iter().filter(|path| path.is_dir()) {
        all.extend(list(&set)?.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "toml")));
    }
    Ok(all)
}

/// The figures by the epochs that they were published for; several of the same epochs are of several sources.
fn figures(published: &[Published]) -> String {
    let mut states: Vec<(f64, Vec<String>)> = Vec::new();
    for figure in published {
        let percent = words::percent(figure.top1);
        match states.iter_mut().find(|(epochs, _)| *epochs == figure.epochs) {
            Some((_, known)) if known.contains(&percent) => {}
            Some((_, known)) => known.push(percent),
            None => states.push((figure.epochs, vec![percent])),
        }
    }
    let state =
        |(epochs, figures): &(f64, Vec<String>)| format!("{} after {}", figures.join(" or "), words::epochs(*epochs));
    states.iter().map(state).collect::<Vec<_>>().join(", ")
}

/// A program for tests that takes recipes as they are.
#[cfg(test)]
pub(super) fn as_they_are(folder: &Path) -> Program {
    let path = folder.join("empssl");
    process::write_script(&path, "#!/bin/sh\ncat \"$2\"\n");
    Program { path, commit: None, revision: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_with_a_figure_has_a_line_with_its_states() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let set = workspace.join("configs/cifar10");
        fs::create_dir_all(&set).unwrap();
        let published = |figures: &[(f64, f64)]| {
            let figure = |(top1, epochs): &(f64, f64)| {
                format!(
                    "[[published]]\nprobe = \"linear\"\ntop1 = {top1:?}\nepochs = {epochs:?}\nsource = \"s\"\nnote = \"\"\n"
                )
            };
            format!("dataset = \"cifar10\"\n{}", figures.iter().map(figure).collect::<String>())
        };
        for (name, text) in [
            ("one.toml", published(&[(85.1, 1.0), (84.2, 1.0), (84.2, 1.0)])),
            ("two.toml", published(&[(80.0, 1.0), (90.5, 10.0)])),
            ("quick.toml", "dataset = \"cifar10\"\n".to_owned()),
            ("notes.md", String::new()),
        ] {
            fs::write(set.join(name), text).unwrap();
        }
        let program = as_they_are(folder.path());
        let table = table(&workspace, &program, &|set, recipe| (set, recipe) == ("cifar10", "two")).unwrap();
        let lines: Vec<_> = table.lines().skip(2).collect();
        let link = |name: &str| format!("| cifar10 | [{name}](../configs/cifar10/{name}.toml) |");
        let expected = [
            format!("{} 85.1 % or 84.2 % after 1 epoch | not yet: it needs a GPU |", link("one")),
            format!("{} 80.0 % after 1 epoch, 90.5 % after 10 epochs | see the README |", link("two")),
        ];
        assert_eq!(lines, expected);
        fs::write(set.join("bad.toml"), "dataset = 5\n").unwrap();
        assert!(super::table(&workspace, &program, &|_, _| false).unwrap_err().to_string().contains("bad.toml"));
    }
}
