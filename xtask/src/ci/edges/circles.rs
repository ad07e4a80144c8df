//! Circles of modules by their `use` lines; parents and children may know each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::failure::{Code, Context, Outcome};
use crate::workspace::Workspace;

/// The modules of a crate by their paths, the root's is empty, with the paths that each uses.
type Uses = BTreeMap<String, Vec<String>>;

/// Every pair of modules that use each other, by way of others or at once.
pub(super) fn find(workspace: &Workspace) -> Outcome<Vec<String>> {
    let crates = workspace.join("crates");
    let mut folders = vec![workspace.join("xtask")];
    folders.extend(fs::read_dir(&crates).at(Code::Check, "read", &crates)?.flatten().map(|entry| entry.path()));
    folders.sort();
    let of_crate = |folder: &Path| {
        let mut uses = Uses::new();
        read(&folder.join("src"), "", &mut uses);
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sentence = |(one, other)| format!("{name}: the modules {one} and {other} use each other");
        circles(&uses).into_iter().map(sentence).collect::<Vec<_>>()
    };
    Ok(folders.iter().flat_map(|folder| of_crate(folder)).collect())
}

/// Reads the modules below a folder; files of tests alone are none of them.
fn read(folder: &Path, module: &str, uses: &mut Uses) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = match stem.as_ref() {
            "tests" => continue,
            "lib" | "main" | "mod" => module.to_owned(),
            stem if module.is_empty() => stem.to_owned(),
            stem => format!("{module}::{stem}"),
        };
        match fs::read_to_string(&path) {
            Ok(text) if path.extension().is_some_and(|ending| ending == "rs") => {
                uses.entry(name.clone()).or_default().extend(used(&text, &name));
            }
            _ => read(&path, &name, uses),
        }
    }
}

/// The paths within the crate that a module uses, outside its tests.
fn used(text: &str, module: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut paths = Vec::new();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    for statement in lines.collect::<Vec<_>>().join(" ").split(';') {
        let Some((before, path)) = statement.rsplit_once("use ") else { continue };
        if before.is_empty() || before.ends_with([' ', ')', '}']) {
            expand("", path, &mut paths);
        }
    }
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let absolute = |path: &String| match path.split_once("::")? {
        ("crate", rest) => Some(rest.to_owned()),
        ("self", rest) => Some(format!("{module}::{rest}")),
        ("super", rest) => Some(format!("{parent}::{rest}")),
        _ => None,
    };
    paths.iter().filter_map(absolute).map(|path| path.trim_start_matches("::").to_owned()).collect()
}

/// The paths of one `use`, whose braces hold several.
fn expand(prefix: &str, path: &str, paths: &mut Vec<String>) {
    let path = path.trim();
    let Some((before, inside)) = path.split_once('{') else {
        return paths.push(format!("{prefix}{path}"));
    };
    let inside = inside.trim_end().strip_suffix('}').unwrap_or(inside);
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&format!("{prefix}{before}"), &inside[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
}

fn circles(uses: &Uses) -> Vec<(String, String)> {
    let below =
        |inner: &str, outer: &str| outer.is_empty() || inner == outer || inner.starts_with(&format!("{outer}::"));
    // The innermost module that a path leads into.
    let module = |path: &String| uses.keys().filter(|module| below(path, module)).max_by_key(|module| module.len());
    let next: BTreeMap<&String, BTreeSet<&String>> = uses
        .iter()
        .map(|(from, paths)| {
            let to = paths.iter().filter_map(module).filter(|to| !below(to, from) && !below(from, to));
            (from, to.collect())
        })
        .collect();
    let edges = next.iter().flat_map(|(from, all)| all.iter().map(move |to| (*from, *to)));
    let back = edges.filter(|(from, to)| reached(to, &next).contains(from));
    back.map(|(from, to)| if from < to { (from, to) } else { (to, from) })
        .map(|(one, other)| (one.clone(), other.clone()))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// Every module that one reaches.
fn reached<'a>(from: &'a String, next: &BTreeMap<&'a String, BTreeSet<&'a String>>) -> BTreeSet<&'a String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        open.extend(next[module].iter().copied().filter(|to| seen.insert(*to)));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_read_from_every_form_of_the_line_but_not_from_tests() {
        let text = "use crate::a::{B, c::{self, D}};\npub(crate) use super::e::F; // use crate::no;\nuse std::fs;\n\
                    mod x;\nuse self::x::Y;\n#[cfg(test)]\nmod tests {\n    use crate::g::H;\n}\n";
        assert_eq!(used(text, "m::n"), ["a::B", "a::c::self", "a::c::D", "m::e::F", "m::n::x::Y"]);
    }

    #[test]
    fn circles_are_found_and_parents_may_know_their_children() {
        let uses = |edges: &[(&str, &str)]| {
            let mut uses: Uses = ["", "a", "a::x", "b", "c"].map(|name| (name.to_owned(), Vec::new())).into();
            edges.iter().for_each(|(from, to)| uses.get_mut(*from).unwrap().push((*to).to_owned()));
            circles(&uses)
        };
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        assert_eq!(uses(&[("a", "a::x::Item"), ("a::x", "a::Item"), ("a", "b::Item"), ("", "a::Item")]), []);
        assert_eq!(uses(&[("a::x", "b::Item"), ("b", "a::x::Item")]), [pair("a::x", "b")]);
        let three = uses(&[("a", "b::Item"), ("b", "c::Item"), ("c", "a::Item")]);
        assert_eq!(three, [pair("a", "b"), pair("a", "c"), pair("b", "c")]);
    }
}
