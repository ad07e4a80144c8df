//! Recipe files: what a file `extends`, and where in which file a mistake is.
//!
//! A recipe names the files that it extends and the keys in which it differs from them. Sections are merged key by key,
//! files in the order of the list; everything else, an inline table too, is replaced as a whole.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::error::CliError;

/// The key that names other files, relative to its own.
const EXTENDS: &str = "extends";

/// The text of a recipe file.
struct Text {
    path: Option<PathBuf>,
    /// Where it begins among all files of the recipe; so many spaces before it give every place in them a number of its
    /// own.
    begins: usize,
    padded: String,
}

/// Reads a recipe file over those that it extends.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, CliError> {
    let mut files = Vec::new();
    collect(path, &mut Vec::new(), &mut files)?;
    merged(&files).map_err(CliError::Recipe)
}

/// Reads texts that extend no files, each over those before it.
pub(super) fn parse<T: DeserializeOwned>(texts: &[&str]) -> Result<T, String> {
    let mut files = Vec::new();
    texts.iter().for_each(|text| push(&mut files, None, text));
    merged(&files)
}

fn push(files: &mut Vec<Text>, path: Option<PathBuf>, text: &str) {
    let begins = files.last().map_or(0, |last| last.padded.len());
    files.push(Text { path, begins, padded: " ".repeat(begins) + text });
}

/// Puts a file behind those that it extends; `open` are the files that led to it.
fn collect(path: &Path, open: &mut Vec<PathBuf>, files: &mut Vec<Text>) -> Result<(), CliError> {
    if open.iter().any(|file| file == path) {
        return Err(CliError::Recipe(format!("{} extends itself; leave it out of `{EXTENDS}`", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        let by = open.last().map_or(String::new(), |file| format!(", which {} extends", file.display()));
        CliError::file("cannot read the recipe", path, format!("{error}{by}"))
    })?;
    // Elsewhere the mistakes of a text are reported with the files before it.
    let alone = [Text { path: Some(path.to_path_buf()), begins: 0, padded: text.clone() }];
    let bases = bases(&alone).map_err(CliError::Recipe)?;
    open.push(path.to_path_buf());
    let folder = path.parent().unwrap_or(Path::new(""));
    bases.iter().try_for_each(|base| collect(&normal(&folder.join(base)), open, files))?;
    open.pop();
    push(files, Some(path.to_path_buf()), &text);
    Ok(())
}

/// The files that a text extends, as it names them.
fn bases(alone: &[Text]) -> Result<Vec<PathBuf>, String> {
    #[derive(Deserialize)]
    struct Head {
        extends: Option<Spanned<toml::Value>>,
    }
    let head: Head = toml::from_str(&alone[0].padded).map_err(|error| explain(alone, &error))?;
    let Some(extends) = head.extends else { return Ok(Vec::new()) };
    let place = place(alone, Some(extends.span()));
    let list = match extends.into_inner() {
        toml::Value::Array(list) => list,
        one => vec![one],
    };
    let paths = list.iter().map(|base| base.as_str().map(PathBuf::from)).collect::<Option<Vec<_>>>();
    paths.ok_or_else(|| format!("{place}`{EXTENDS}` must be a file, or a list of files, relative to this one"))
}

/// The path without `NAME/..`, for messages and to recognise a file that is named twice.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir if normal.file_name().is_some() => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}

fn merged<T: DeserializeOwned>(files: &[Text]) -> Result<T, String> {
    let mut all = DeTable::new();
    for file in files {
        let mut table = DeTable::parse(&file.padded).map_err(|error| explain(files, &error))?.into_inner();
        if file.path.is_some() {
            table.remove(EXTENDS);
        }
        merge(&mut all, table, &file.padded);
    }
    // What is missing altogether is missing in the last file.
    let begins = files.last().map_or(0, |file| file.begins);
    T::deserialize(Deserializer::from(Spanned::new(begins..begins, all))).map_err(|error| explain(files, &error))
}

fn merge<'t>(into: &mut DeTable<'t>, from: DeTable<'t>, text: &str) {
    for (key, value) in from {
        let is_section = !text[value.span().start..].starts_with('{');
        match (into.get_mut(&key).map(Spanned::get_mut), value.get_ref()) {
            (Some(DeValue::Table(there)), DeValue::Table(_)) if is_section => {
                if let DeValue::Table(table) = value.into_inner() {
                    merge(there, table, text);
                }
            }
            _ => {
                // The key too, whose place is the one to be reported.
                into.remove(&key);
                into.insert(key, value);
            }
        }
    }
}

/// A sentence that says in which file and line a mistake is, and what would have been right.
fn explain(files: &[Text], error: &toml::de::Error) -> String {
    format!("{}{}", place(files, error.span()), super::explain_message(error.message()))
}

/// `FILE: line N: `, as far as it is known.
fn place(files: &[Text], span: Option<std::ops::Range<usize>>) -> String {
    let Some(start) = span.map(|span| span.start) else {
        return files
            .last()
            .and_then(|file| file.path.as_ref())
            .map_or(String::new(), |path| format!("{}: ", path.display()));
    };
    let file = files.iter().rev().find(|file| file.begins <= start).unwrap_or(&files[0]);
    let end = start.min(file.padded.len());
    let line = file.padded[file.begins.min(end)..end].matches('\n').count() + 1;
    let path = file.path.as_ref().map_or(String::new(), |path| format!("{}: ", path.display()));
    format!("{path}line {line}: ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        name: String,
        first: Section,
        list: Vec<i64>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Section {
        size: i64,
        weight: f64,
        length: Length,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Length {
        Steps(i64),
        Epochs(i64),
    }

    const BASE: &str = "name = \"base\"\nlist = [1, 2]\n[first]\nsize = 1\nweight = 0.5\nlength = { epochs = 1 }\n";

    /// Files of these names and texts; the first is read.
    fn read_of(files: &[(&str, &str)]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let shown = format!("{}/", folder.path().display());
        read(&folder.path().join(files[0].0)).map_err(|error| error.to_string().replace(&shown, ""))
    }

    #[test]
    fn a_file_replaces_what_it_names_of_those_that_it_extends() {
        let own = "extends = [\"../base.toml\", \"../large.toml\"]\nname = \"own\"\n[first]\nlength = { steps = 9 }\n";
        let large = "list = [3]\n[first]\nsize = 7\nlength = { epochs = 5 }\n";
        let config = read_of(&[("set/own.toml", own), ("base.toml", BASE), ("large.toml", large)]).unwrap();
        let first = Section { size: 7, weight: 0.5, length: Length::Steps(9) };
        assert_eq!(config, Config { name: "own".to_owned(), first, list: vec![3] });
        let chain = [
            ("a.toml", "extends = \"b.toml\"\nname = \"a\""),
            ("b.toml", "extends = \"base.toml\""),
            ("base.toml", BASE),
        ];
        assert_eq!(read_of(&chain).unwrap().name, "a");
        assert_eq!(parse::<Config>(&[BASE, "name = \"two\""]).unwrap().name, "two");
    }

    #[test]
    fn a_mistake_is_reported_with_its_file_and_line() {
        let with = |own: &str| read_of(&[("set/own.toml", own), ("base.toml", BASE)]).unwrap_err();
        let extends = "extends = \"../base.toml\"\n";
        for (own, sentence) in [
            ("\n[first]\nsise = 2", "set/own.toml: line 4: unknown key `sise`; did you mean `size`?"),
            ("nam = 1", "set/own.toml: line 2: unknown key `nam`; did you mean `name`?"),
            ("[first]\nsize = \"x\"", "set/own.toml: line 3: invalid type: string \"x\", expected i64"),
            ("[first", "set/own.toml: line 2: "),
        ] {
            assert!(with(&format!("{extends}{own}")).starts_with(sentence), "{}", with(&format!("{extends}{own}")));
        }
        let wrong = BASE.replace("weight", "wait");
        let of_base =
            read_of(&[("own.toml", "extends = \"base.toml\"\n\n\n\n\n\n"), ("base.toml", &wrong)]).unwrap_err();
        assert!(of_base.starts_with("base.toml: line 5: unknown key `wait`"), "{of_base}");
        assert!(with("name = \"alone\"").starts_with("set/own.toml: line 1: missing key `"));
        assert!(parse::<Config>(&["\nnam = 1"]).unwrap_err().starts_with("line 2: unknown key `nam`"));
    }

    #[test]
    fn files_that_cannot_be_extended_are_refused() {
        let missing = read_of(&[("own.toml", "extends = \"nowhere.toml\"")]).unwrap_err();
        assert!(missing.starts_with("cannot read the recipe nowhere.toml: No such file"), "{missing}");
        assert!(missing.ends_with(", which own.toml extends"), "{missing}");
        let circle =
            read_of(&[("a.toml", "extends = \"b.toml\""), ("b.toml", "extends = [\"./a.toml\"]")]).unwrap_err();
        assert_eq!(circle, "a.toml extends itself; leave it out of `extends`");
        for wrong in ["extends = 5", "extends = [[\"a.toml\"]]", "extends = true"] {
            let error = read_of(&[("own.toml", wrong)]).unwrap_err();
            assert!(error.starts_with("own.toml: line 1: `extends` must be a file, or a list of files"), "{error}");
        }
    }
}
