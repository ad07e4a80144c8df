//! The dependencies that must be absent, read from `cargo tree`.

use std::collections::BTreeSet;
use std::process::Command;

use crate::failure::{Failure, Outcome};
use crate::process;
use crate::workspace::{self, Workspace};

/// Every crate of ours, by its prefix.
const OURS: &str = "empssl-*";

/// Reads reference values for tests and knows nothing itself, so any test may use it.
const FOR_TESTS: &str = "empssl-golden";
/// Damages the inputs of parsers in tests, and knows nothing itself either.
const FUZZ: &str = "empssl-fuzz";
/// Reads bytes and knows nothing of what they mean to others, so whoever reads pickles may use it.
const PICKLE: &str = "empssl-pickle";
/// Ours, but of no concern to a rule that forbids all of ours; a rule that does forbid one of them names it.
const SPARED: [&str; 3] = [FOR_TESTS, FUZZ, PICKLE];

/// What a package must not reach, over which kinds of dependency.
struct Rule {
    package: &'static str,
    edges: &'static str,
    absent: &'static [&'static str],
}

const BUILT: &str = "normal,build";
const ALL: &str = "normal,build,dev";

const RULES: [Rule; 11] = [
    Rule { package: "empssl-data", edges: ALL, absent: &[OURS, "tch", "torch-sys"] },
    Rule { package: "empssl-golden", edges: ALL, absent: &[OURS, FUZZ, PICKLE, "tch", "torch-sys"] },
    Rule { package: "empssl-fuzz", edges: ALL, absent: &[OURS, FOR_TESTS, PICKLE, "tch", "torch-sys"] },
    Rule { package: "empssl-pickle", edges: ALL, absent: &[OURS, FOR_TESTS, "tch", "torch-sys"] },
    Rule { package: "xtask", edges: ALL, absent: &[OURS, FOR_TESTS, FUZZ, PICKLE, "tch", "torch-sys"] },
    Rule { package: "empssl-torch", edges: BUILT, absent: &[OURS, FOR_TESTS, FUZZ, PICKLE] },
    Rule { package: "empssl-loss", edges: BUILT, absent: &[OURS, FOR_TESTS, FUZZ, PICKLE] },
    // It knows files of tensors by empssl-torch.
    Rule {
        package: "empssl-model",
        edges: BUILT,
        absent: &["empssl-data", "empssl-loss", "empssl-train", "empssl-eval", "empssl-cli", FOR_TESTS, FUZZ],
    },
    Rule { package: "empssl-train", edges: BUILT, absent: &["empssl-eval", "empssl-cli", FOR_TESTS, FUZZ] },
    Rule {
        package: "empssl-eval",
        edges: BUILT,
        absent: &["empssl-train", "empssl-model", "empssl-loss", "empssl-cli", FUZZ],
    },
    Rule { package: "empssl-cli", edges: BUILT, absent: &[FOR_TESTS, FUZZ, "xtask"] },
];

/// Runs the check.
pub(super) fn run(workspace: &Workspace) -> Outcome {
    let mut found = Vec::new();
    for rule in &RULES {
        let packages = reached(rule, workspace)?;
        found.extend(breaches(rule, &packages).into_iter().map(|name| format!("{} reaches {name}", rule.package)));
    }
    if found.is_empty() {
        eprintln!("{} packages reach nothing they must not know", RULES.len());
        return Ok(());
    }
    Err(Failure::check(format!("dependencies that must be absent: {} (see `cargo tree`)", found.join(", "))))
}

fn reached(rule: &Rule, workspace: &Workspace) -> Outcome<BTreeSet<String>> {
    let mut tree = Command::new(workspace::cargo());
    tree.args(["tree", "--package", rule.package, "--edges", rule.edges, "--prefix", "none", "--format", "{p}"]);
    let text = process::output(tree.current_dir(workspace.root()))?;
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Which of the reached packages a rule forbids.
fn breaches<'a>(rule: &Rule, reached: &'a BTreeSet<String>) -> Vec<&'a str> {
    let forbidden = |name: &str| {
        name != rule.package
            && rule.absent.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix) && !SPARED.contains(&name),
                None => name == *pattern,
            })
    };
    reached.iter().map(String::as_str).filter(|name| forbidden(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn forbidden_packages_are_found_and_others_are_not() {
        let rule = Rule { package: "empssl-data", edges: ALL, absent: &[OURS, "tch"] };
        let reached = names(&["empssl-data", "empssl-golden", "empssl-pickle", "empssl-loss", "tch", "tch-extra"]);
        assert_eq!(breaches(&rule, &reached), ["empssl-loss", "tch"]);
    }

    #[test]
    fn what_is_named_itself_is_forbidden_even_where_the_prefix_spares_it() {
        let rule = Rule { package: "xtask", edges: ALL, absent: &[OURS, FOR_TESTS] };
        assert_eq!(breaches(&rule, &names(&["xtask", "clap", "empssl-golden"])), ["empssl-golden"]);
        let built = RULES.iter().filter(|rule| rule.edges == BUILT);
        assert!(
            built.clone().count() > 3 && built.clone().all(|rule| rule.absent.contains(&FUZZ)),
            "only ever for tests"
        );
    }
}
