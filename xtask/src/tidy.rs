//! `cargo xtask tidy`: the house rules that no compiler checks, measured over every file of the checkout.

mod scan;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Outcome};
use crate::process;
use crate::workspace::Workspace;
use scan::Source;

/// Longest file, in lines, and what the median and nine tenths of them stay within, less their tests.
const MAX_FILE: usize = 600;
const FILE_SPREAD: [usize; 2] = [150, 350];

/// Longest function outside tests, in lines, and what the median and nine tenths of them stay within.
const MAX_FUNCTION: usize = 60;
const FUNCTION_SPREAD: [usize; 2] = [8, 30];

/// Most `unwrap` and `expect` per thousand lines of library code outside tests.
const MAX_UNWRAPS_PER_THOUSAND: f64 = 2.0;

/// Words that must not stay in a tracked file: unfinished work and paths of one machine. They are written in two halves
/// here so that this file passes its own check.
const FORBIDDEN: [&str; 7] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("unimplemented", "!"),
    concat!("todo", "!("),
    concat!("#[", "allow("),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
];

/// Folders that git ignores.
const GENERATED: [&str; 4] = [".git", ".libtorch", "runs", "target"];

/// Breaches that stand, each with its reason: a file and the start of the message.
const EXCEPTIONS: [(&str, &str, &str); 0] = [];

/// A file of the checkout.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whole files of tests and benchmarks; tests inside other files are told apart by the scan.
    fn is_test(&self) -> bool {
        let test_file = self.path.ends_with("/tests.rs");
        test_file || ["/tests/", "/benches/"].iter().any(|folder| self.path.contains(folder))
    }

    /// Library code, where a panic is the caller's loss; what serves tests fails by panics, as they do.
    fn is_library(&self) -> bool {
        let others = ["crates/empssl-cli/", "crates/empssl-golden/", "crates/empssl-fuzz/"];
        let others = others.iter().any(|start| self.path.starts_with(start));
        self.path.starts_with("crates/") && self.path.contains("/src/") && !others && !self.is_test()
    }
}

/// Runs the task: prints what was measured, fails on what breaks a rule.
pub(crate) fn run(workspace: &Workspace) -> Outcome {
    let files = read(workspace)?;
    let measured = Measured::of(&files);
    print!("{}", measured.table());
    let breaches: Vec<_> = files.iter().flat_map(breaches_of).chain(measured.breaches()).filter(stands_not).collect();
    for (path, message) in &breaches {
        println!("{path}: {message}");
    }
    match breaches.len() {
        0 => Ok(()),
        count => Err(Failure::check(format!("{count} breaches of the house rules, listed above"))),
    }
}

/// Every text file of the project.
fn read(workspace: &Workspace) -> Outcome<Vec<File>> {
    let paths = if workspace.join(".git").exists() { listed(workspace)? } else { walked(workspace.root(), "") };
    let text = |path: &String| Some(File { path: path.clone(), text: fs::read_to_string(workspace.join(path)).ok()? });
    Ok(paths.iter().filter(|path| *path != "Cargo.lock").filter_map(text).collect())
}

/// The files git knows or would take in.
fn listed(workspace: &Workspace) -> Outcome<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(workspace.root());
    Ok(process::output(&mut git)?.lines().map(str::to_owned).collect())
}

/// In a copy without git: every file outside the folders that git would ignore.
fn walked(folder: &Path, below: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.flat_map(|entry| {
        let path = format!("{below}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true if GENERATED.contains(&path.as_str()) || below == "data/" => vec![],
            true => walked(&entry.path(), &format!("{path}/")),
            false => vec![path],
        }
    });
    found.collect()
}

type Breach = (String, String);

fn stands_not((path, message): &Breach) -> bool {
    !EXCEPTIONS.iter().any(|(file, start, _reason)| path.starts_with(file) && message.starts_with(start))
}

/// What one file does against the rules.
fn breaches_of(file: &File) -> Vec<Breach> {
    let mut found = forbidden_words(file);
    if file.is_rust() {
        found.extend(rust_breaches(file));
    }
    found
}

fn forbidden_words(file: &File) -> Vec<Breach> {
    let lines = file.text.lines().enumerate();
    let hits =
        lines.flat_map(|(at, line)| FORBIDDEN.iter().filter(|word| line.contains(**word)).map(move |word| (at, word)));
    hits.map(|(at, word)| (format!("{}:{}", file.path, at + 1), format!("holds `{word}`"))).collect()
}

fn rust_breaches(file: &File) -> Vec<Breach> {
    let mut found = Vec::new();
    let lines = file.text.lines().count();
    if !file.text.starts_with("//!") {
        found.push((file.path.clone(), "does not open with `//!` and what belongs here".to_owned()));
    }
    if lines > MAX_FILE {
        found.push((file.path.clone(), format!("has {lines} lines, more than {MAX_FILE}")));
    }
    if !file.is_test() {
        let long = Source::new(&file.text).functions().into_iter().filter(|function| function.lines > MAX_FUNCTION);
        found.extend(long.map(|function| {
            let place = format!("{}:{}", file.path, function.first_line);
            (place, format!("function of {} lines, more than {MAX_FUNCTION}", function.lines))
        }));
    }
    found
}

/// The figures of the whole checkout.
struct Measured {
    file_lines: Vec<usize>,
    function_lines: Vec<usize>,
    code: usize,
    tests: usize,
    code_of_libraries: usize,
    unwraps: usize,
}

impl Measured {
    fn of(files: &[File]) -> Self {
        let mut measured =
            Self { file_lines: vec![], function_lines: vec![], code: 0, tests: 0, code_of_libraries: 0, unwraps: 0 };
        for file in files.iter().filter(|file| file.is_rust()) {
            measured.add(file);
        }
        measured.file_lines.sort_unstable();
        measured.function_lines.sort_unstable();
        measured
    }

    fn add(&mut self, file: &File) {
        let lines = file.text.lines().count();
        if file.is_test() {
            self.tests += lines;
            return;
        }
        let source = Source::new(&file.text);
        let code = lines - source.test_lines();
        self.tests += source.test_lines();
        self.code += code;
        self.file_lines.push(code);
        self.function_lines.extend(source.functions().iter().map(|function| function.lines));
        if file.is_library() {
            self.code_of_libraries += code;
            self.unwraps += source.unwraps();
        }
    }

    fn unwraps_per_thousand(&self) -> f64 {
        1000.0 * self.unwraps as f64 / self.code_of_libraries.max(1) as f64
    }

    fn breaches(&self) -> Vec<Breach> {
        let rate = self.unwraps_per_thousand();
        let message = format!("{rate:.1} unwrap and expect per thousand lines, more than {MAX_UNWRAPS_PER_THOUSAND}");
        let unwraps = (rate > MAX_UNWRAPS_PER_THOUSAND).then(|| ("libraries".to_owned(), message));
        let files = wider("files", &self.file_lines, FILE_SPREAD);
        let functions = wider("functions", &self.function_lines, FUNCTION_SPREAD);
        [unwraps, files, functions].into_iter().flatten().collect()
    }

    /// The figures beside the bar they are held against.
    fn table(&self) -> String {
        let lines = [
            ("lines of a file, less its tests", spread(&self.file_lines), "150 / 350 / 600"),
            ("lines of a function", spread(&self.function_lines), "8 / 30 / 60"),
            (
                "test lines per line of code",
                format!("{:.2}", self.tests as f64 / self.code.max(1) as f64),
                "0.5 to 0.8",
            ),
            ("unwrap and expect per 1,000 lines", format!("{:.1}", self.unwraps_per_thousand()), "2.0"),
        ];
        let head = format!("{:<34} {:>16}   {}\n", "", "measured", "bar");
        lines.iter().fold(head, |text, (what, measured, bar)| text + &format!("{what:<34} {measured:>16}   {bar}\n"))
    }
}

/// A breach where the median or nine tenths of sorted lengths exceed their bounds.
fn wider(what: &str, sorted: &[usize], bounds: [usize; 2]) -> Option<Breach> {
    let found = [at_tenths(sorted, 5)?, at_tenths(sorted, 9)?];
    let over = found.iter().zip(bounds).any(|(found, bound)| *found > bound);
    let message = format!("median and nine tenths of their lines are {found:?}, more than {bounds:?}");
    over.then(|| (what.to_owned(), message))
}

/// The value that so many tenths of sorted values do not exceed.
fn at_tenths(sorted: &[usize], tenths: usize) -> Option<usize> {
    sorted.get((sorted.len() * tenths / 10).min(sorted.len().saturating_sub(1))).copied()
}

/// Median, nine tenths and maximum of sorted values.
fn spread(sorted: &[usize]) -> String {
    [5, 9, 10].map(|tenths| at_tenths(sorted, tenths).map_or("-".to_owned(), |lines| lines.to_string())).join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        run(&Workspace::locate()).unwrap();
    }

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn each_rule_finds_its_breach() {
        let long = "    let x = 1;\n".repeat(MAX_FUNCTION);
        let message = |text: String| {
            breaches_of(&file("crates/a/src/b.rs", &text))
                .into_iter()
                .map(|(at, m)| format!("{at}: {m}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(message("//! Fine.\n\nfn a() {}\n".to_owned()), Vec::<String>::new());
        assert_eq!(
            message("fn a() {}\n".to_owned()),
            ["crates/a/src/b.rs: does not open with `//!` and what belongs here"]
        );
        assert_eq!(
            message(format!("//! A.\nfn a() {{\n{long}}}\n")),
            ["crates/a/src/b.rs:2: function of 62 lines, more than 60"]
        );
        assert_eq!(
            message(format!("//! A.\n{}", "\n".repeat(600))),
            ["crates/a/src/b.rs: has 601 lines, more than 600"]
        );
        for word in FORBIDDEN {
            assert_eq!(message(format!("//! A.\n// {word} x\n")), [format!("crates/a/src/b.rs:2: holds `{word}`")]);
        }
    }

    #[test]
    fn unwraps_count_in_libraries_and_outside_tests() {
        let text = "//! A.\nfn a() { b().unwrap(); c().expect(\"d\"); }\n#[cfg(test)]\nmod tests {\n fn t() { x.unwrap() }\n}\n";
        let of = |path: &str| Measured::of(&[file(path, text)]).unwraps;
        assert_eq!(
            [of("crates/empssl-loss/src/a.rs"), of("crates/empssl-cli/src/a.rs"), of("crates/empssl-loss/tests/a.rs")],
            [2, 0, 0]
        );
        assert_eq!(Measured::of(&[file("crates/empssl-loss/src/a.rs", text)]).breaches().len(), 1);
    }

    #[test]
    fn a_copy_without_git_is_walked_but_for_what_is_generated() {
        let folder = tempfile::tempdir().unwrap();
        for path in
            ["a.md", ".ci/run", "data/cifar10.md", "data/images/x.txt", "target/b.rs", "crates/c/src/target/d.rs"]
        {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut paths = walked(folder.path(), "");
        paths.sort();
        assert_eq!(paths, [".ci/run", "a.md", "crates/c/src/target/d.rs", "data/cifar10.md"]);
    }

    #[test]
    fn too_long_on_the_whole_is_a_breach() {
        assert_eq!(wider("files", &[150, 150, 150], FILE_SPREAD), None);
        assert_eq!(wider("files", &[], FILE_SPREAD), None);
        let (_, message) = wider("files", &[10, 151, 152], FILE_SPREAD).unwrap();
        assert!(message.ends_with("are [151, 152], more than [150, 350]"), "{message}");
    }

    #[test]
    fn the_spread_of_nothing_and_of_ten() {
        assert_eq!(spread(&[]), "- / - / -");
        assert_eq!(spread(&(1..=10).collect::<Vec<_>>()), "6 / 10 / 10");
    }
}
