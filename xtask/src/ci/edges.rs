//! Who may use whom: the crates by `cargo metadata`, the modules of a crate by their `use` lines.

mod circles;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

use crate::failure::{Code, Failure, Outcome};
use crate::process;
use crate::workspace::{self, Workspace};

/// What every crate of ours begins with.
const OURS: &str = "empssl-";

/// Serves tests alone, so nothing that is shipped reaches it.
const FOR_TESTS: &str = "empssl-golden";

/// A package and the crates of ours that it may reach, without [`OURS`]. Those with `libtorch` may reach that too.
struct Rule {
    package: &'static str,
    may_reach: &'static str,
    libtorch: bool,
}

const RULES: [Rule; 11] = [
    Rule { package: "empssl-golden", may_reach: "", libtorch: false },
    Rule { package: "empssl-pickle", may_reach: "", libtorch: false },
    Rule { package: "empssl-report", may_reach: "", libtorch: false },
    Rule { package: "empssl-data", may_reach: "pickle", libtorch: false },
    Rule { package: "xtask", may_reach: "report", libtorch: false },
    Rule { package: "empssl-torch", may_reach: "", libtorch: true },
    Rule { package: "empssl-loss", may_reach: "", libtorch: true },
    Rule { package: "empssl-model", may_reach: "torch pickle", libtorch: true },
    Rule { package: "empssl-train", may_reach: "data model loss torch pickle", libtorch: true },
    Rule { package: "empssl-eval", may_reach: "data torch pickle report", libtorch: true },
    Rule { package: "empssl-cli", may_reach: "data eval loss model pickle report torch train", libtorch: true },
];

/// Runs the check.
pub(super) fn run(workspace: &Workspace) -> Outcome {
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(["metadata", "--format-version", "1"]).current_dir(workspace.root());
    let graph: Metadata = serde_json::from_str(&process::output(&mut cargo)?)
        .map_err(|error| Failure::new(Code::Child, format!("`cargo metadata`: {error}")))?;
    let found = all_breaches(workspace, &graph)?;
    if found.is_empty() {
        eprintln!("{} packages reach nothing they must not know, and no modules use each other", RULES.len());
        return Ok(());
    }
    Err(Failure::check(format!("who must not use whom:\n  {}", found.join("\n  "))))
}

/// Circles of modules, and what packages reach against the rules.
fn all_breaches(workspace: &Workspace, graph: &Metadata) -> Outcome<Vec<String>> {
    let mut found = circles::find(workspace)?;
    for rule in &RULES {
        found.extend(breaches(rule, &graph.reached(rule.package, false), &[]));
        // Its tests may use what serves tests, but a crate without libtorch is tested without it.
        let tested = breaches(rule, &graph.reached(rule.package, true), &[FOR_TESTS]);
        found.extend(tested.into_iter().filter(|_| !rule.libtorch));
    }
    Ok(found)
}

/// What `cargo metadata` prints, as far as it is of use here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `dev`, `build`, or nothing.
    kind: Option<String>,
}

impl Metadata {
    /// Names of all packages that one is built with, and of those that its tests are.
    fn reached(&self, package: &str, with_tests: bool) -> BTreeSet<&str> {
        let names: BTreeMap<&str, &str> = self.packages.iter().map(|of| (of.id.as_str(), of.name.as_str())).collect();
        let nodes: BTreeMap<&str, &Node> = self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let root = names.iter().find(|(_, name)| **name == package).map(|(id, _)| *id);
        let (mut seen, mut open) = (BTreeSet::new(), Vec::from_iter(root));
        while let Some(id) = open.pop() {
            let counts = |kind: &Kind| kind.kind.as_deref() != Some("dev") || (with_tests && Some(id) == root);
            let next = nodes[id].deps.iter().filter(|dependency| dependency.dep_kinds.iter().any(counts));
            open.extend(next.map(|dependency| dependency.pkg.as_str()).filter(|id| seen.insert(*id)));
        }
        seen.into_iter().map(|id| names[id]).collect()
    }
}

/// Which of the reached packages a rule forbids, `besides` apart.
fn breaches(rule: &Rule, reached: &BTreeSet<&str>, besides: &[&str]) -> Vec<String> {
    let is_known = |name: &str| rule.may_reach.split_whitespace().any(|known| name.strip_prefix(OURS) == Some(known));
    let may = |name: &str| name == rule.package || is_known(name) || besides.contains(&name);
    let is_forbidden = |name: &&&str| match **name {
        "tch" | "torch-sys" => !rule.libtorch,
        "xtask" => rule.package != "xtask",
        name => name.starts_with(OURS) && !may(name),
    };
    reached.iter().filter(is_forbidden).map(|name| format!("{} reaches {name}", rule.package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_count_only_of_the_package_itself() {
        let dependency =
            |name: &str, kind: Option<&str>| format!(r#"{{"pkg": "{name}", "dep_kinds": [{{"kind": {kind:?}}}]}}"#);
        let [a, b] = [[("b", None), ("d", Some("dev"))], [("c", Some("build")), ("e", Some("dev"))]]
            .map(|of| of.map(|(name, kind)| dependency(name, kind)).join(", ").replace("None", "null"));
        let [a, b] = [a, b].map(|deps| deps.replace("Some(", "").replace(")", ""));
        let packages =
            ["a", "b", "c", "d", "e"].map(|name| format!(r#"{{"id": "{name}", "name": "{name}"}}"#)).join(", ");
        let leaves = ["c", "d", "e"].map(|name| format!(r#"{{"id": "{name}", "deps": []}}"#)).join(", ");
        let nodes = format!(r#"{{"id": "a", "deps": [{a}]}}, {{"id": "b", "deps": [{b}]}}, {leaves}"#);
        let text = format!(r#"{{"packages": [{packages}], "resolve": {{"nodes": [{nodes}]}}}}"#);
        let metadata: Metadata = serde_json::from_str(&text).unwrap();
        assert_eq!(Vec::from_iter(metadata.reached("a", false)), ["b", "c"]);
        assert_eq!(Vec::from_iter(metadata.reached("a", true)), ["b", "c", "d"]);
    }

    #[test]
    fn modules_that_use_each_other_are_a_breach() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("crates/data/src");
        std::fs::create_dir_all(&source).unwrap();
        let write = |name: &str, text: &str| std::fs::write(source.join(name), text).unwrap();
        write("a.rs", "use crate::b::Two;\n");
        write("b.rs", "use crate::a::One;\n");
        let graph: Metadata = serde_json::from_str(r#"{"packages": [], "resolve": {"nodes": []}}"#).unwrap();
        let found = || all_breaches(&Workspace::at(folder.path()), &graph).unwrap();
        assert_eq!(found(), ["data: the modules a and b use each other"]);
        write("b.rs", "");
        assert_eq!(found(), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_allowed_is_found_and_the_rest_is_not() {
        let rule = Rule { package: "empssl-data", may_reach: "pickle", libtorch: false };
        let names = ["empssl-data", "empssl-golden", "empssl-pickle", "empssl-loss", "tch", "tch-extra"];
        let reached = names.into_iter().collect();
        let found = |besides: &[&str]| breaches(&rule, &reached, besides).join(", ");
        assert_eq!(found(&[FOR_TESTS]), "empssl-data reaches empssl-loss, empssl-data reaches tch");
        assert!(found(&[]).starts_with("empssl-data reaches empssl-golden"), "{}", found(&[]));
    }
}
