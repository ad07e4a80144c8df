//! The whole page from a run folder, and the documented schema against what this task reads.

use serde_json::Value;

use super::*;

/// A run folder as `empssl` leaves it, made by hand.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/run")
}

/// A copy to render into, its report changed by `change`.
fn copied(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["metrics.jsonl", "patches.png"] {
        fs::copy(fixture().join(name), copy.path().join(name)).unwrap();
    }
    let mut report = json("xtask/fixtures/run/report.json");
    change(&mut report);
    fs::write(copy.path().join("report.json"), report.to_string()).unwrap();
    copy
}

fn json(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Both pages of a run: report.md and report.html.
fn pages(run: &Path) -> [String; 2] {
    render(run).unwrap();
    ["report.md", "report.html"].map(|name| fs::read_to_string(run.join(name)).unwrap())
}

#[test]
fn both_pages_show_every_row_bar_and_published_figure() {
    let run = copied(|_| ());
    for page in pages(run.path()) {
        for text in ["51.3 %", "33.0 %", "27.9 %", "48.3 %", "19.8 %", "38.4 %", "93.1 %", "18.3 points above"] {
            assert!(page.contains(text), "`{text}` is missing");
        }
        for text in
            ["85.1 %", "not measured here", "arXiv 2304.03977", "8,068 of 50,000", "not met", "lr 0.003, the best"]
        {
            assert!(page.contains(text), "`{text}` is missing");
        }
        for text in
            ["0000000000000000000000000000000000000000", "an invented processor", "1.32 GiB", "the file ends before"]
        {
            assert!(page.contains(text), "`{text}` is missing");
        }
    }
}

#[test]
fn both_pages_show_accuracy_against_cost_and_the_best_epoch_in_a_column_of_its_own() {
    let run = copied(|_| ());
    let [markdown, html] = pages(run.path());
    for page in [&markdown, &html] {
        for text in ["chosen on test, as the original prints", "52.4 %", "39.5 %", "36.2 %", "8.6 ms", "as published"] {
            assert!(page.contains(text), "`{text}` is missing");
        }
    }
    assert!(markdown.contains("| the whole image, resized | 1 | 33.4 % | 30.1 % | 0.450 ms |"), "{markdown}");
    assert_eq!(html.matches("<circle ").count(), 4 * 6);
    let run = copied(|report| report["test_curve"] = Value::Array(Vec::new()));
    assert!(pages(run.path()).iter().all(|page| !page.contains("Accuracy against test cost")));
}

#[test]
fn a_report_of_an_older_program_is_shown_without_what_it_does_not_tell() {
    let run = copied(|report| {
        let keys = report.as_object_mut().unwrap();
        keys.remove("test_curve");
        keys.remove("features");
        report["labelled"].as_object_mut().unwrap().remove("absent_classes");
        report["rows"].as_array_mut().unwrap().iter_mut().for_each(|row| {
            row.as_object_mut().unwrap().remove("chosen_on_test");
        });
    });
    assert!(pages(run.path()).iter().all(|page| page.contains("51.3 %")));
}

#[test]
fn rows_of_probes_that_are_gone_are_left_out() {
    let run = copied(|report| report["rows"][1]["probe"] = "linear-grid".into());
    let report = Report::read(run.path()).unwrap();
    assert_eq!(report.rows.len(), 5);
    assert!(pages(run.path()).iter().all(|page| page.contains("51.3 %") && !page.contains("another probe")));
}

#[test]
fn scores_of_held_out_images_say_so() {
    let run = copied(|report| {
        report["rows"].as_array_mut().unwrap().iter_mut().for_each(|row| row["scored_on"] = "held-out".into());
    });
    for page in pages(run.path()) {
        for text in ["of the 2,000 held-out training images", "no figure here is of the test images", "2,000 held out"]
        {
            assert!(page.contains(text), "`{text}` is missing");
        }
    }
    let label = crate::sweep::measured::label_of(&Report::read(run.path()).unwrap());
    assert!(label.ends_with(", scored on held-out training images"), "{label}");
}

#[test]
fn classes_without_labelled_images_are_a_warning() {
    let run = copied(|report| report["labelled"]["absent_classes"] = serde_json::json!(["cat", "dog"]));
    assert!(pages(run.path()).iter().all(|page| page.contains("2 classes have no labelled training image")));
}

#[test]
fn the_page_asks_nobody_for_anything() {
    let run = copied(|_| ());
    let [_, html] = pages(run.path());
    for request in ["http:", "https:", "src=\"/", "href=", "url(", "@import", "<script"] {
        assert!(!html.contains(request), "the page holds `{request}`");
    }
    assert!(html.contains("default-src 'none'") && html.contains("prefers-color-scheme: dark"));
    assert_eq!(html.matches("<svg ").count(), 9);
    assert!(html.contains("src=\"data:image/png;base64,iVBORw0KGgo"));
}

#[test]
fn synthetic_images_never_stand_beside_a_published_figure() {
    let run = copied(|report| report["synthetic"] = true.into());
    for page in pages(run.path()) {
        assert!(page.contains("Synthetic set: ") && page.contains("nothing about real images"));
        assert!(!page.contains("arXiv") && !page.contains("not measured here"));
    }
}

#[test]
fn text_from_outside_is_never_markup() {
    let run = copied(|report| {
        report["title"] = "<script>alert('a & b')</script>".into();
        report["recipe_toml"] = "</pre><b>".into();
    });
    let [markdown, html] = pages(run.path());
    assert!(!html.contains("<script") && !html.contains("</pre><b>") && !markdown.contains("# <script"));
    assert!(html.contains("&lt;script&gt;alert(&#39;a &amp; b&#39;)"));
    assert!(html.contains("00&lt;17&gt;.jpg"));
}

#[test]
fn missing_files_are_named_and_the_rest_is_shown() {
    let run = copied(|report| {
        ["probe_curve", "test_curve"].iter().for_each(|curve| report[*curve] = Value::Array(Vec::new()));
    });
    for name in ["metrics.jsonl", "patches.png"] {
        fs::remove_file(run.path().join(name)).unwrap();
    }
    for page in pages(run.path()) {
        assert!(page.contains("metrics.jsonl is missing") && page.contains("patches.png is missing"));
        assert!(page.contains("51.3 %") && !page.contains("<svg") && !page.contains("data:image"));
    }
}

#[test]
fn a_log_that_was_cut_off_is_read_to_its_last_whole_line() {
    let steps = model::steps(&fixture()).unwrap();
    assert_eq!(steps.len(), 100);
    assert!(steps.windows(2).all(|pair| pair[0].step < pair[1].step));
}

#[test]
fn the_terminal_shows_aligned_columns() {
    let shown = terminal(&Report::read(&fixture()).unwrap());
    let rows: Vec<_> = shown.lines().filter(|line| line.contains("linear probe  ") || line.contains("kNN  ")).collect();
    assert_eq!(rows.len(), 6, "{shown}");
    let places: Vec<_> = rows.iter().map(|row| row.find('%')).collect();
    assert!(places.iter().all(|place| *place == places[0]), "{shown}");
    assert!(shown.contains("NOT MET  kNN: trained minus raw pixels: 6.9, at least 7"), "{shown}");
}

#[test]
fn a_folder_without_a_report_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |folder: &Path| Report::read(folder).map(drop).unwrap_err();
    assert!(refusal(folder.path()).to_string().contains("holds no report.json: `empssl eval"));
    fs::write(folder.path().join("report.json"), "{\"schema_version\": 1}").unwrap();
    let failure = refusal(folder.path());
    assert!(failure.to_string().contains("missing field `title`"), "{failure}");
    assert_eq!(failure.code, Code::Report);
}

#[test]
fn a_report_of_another_version_is_refused() {
    let run = copied(|report| report["schema_version"] = 2.into());
    let message = Report::read(run.path()).map(drop).unwrap_err().to_string();
    assert!(message.contains("schema_version 2, but this task reads 1"), "{message}");
}

#[test]
fn processes_are_told_where_there_were_several() {
    let threads = |train: u64, evaluate: u64| {
        let run = copied(|report| report["processes"] = serde_json::json!({ "train": train, "evaluate": evaluate }));
        Report::read(run.path()).unwrap().threads()
    };
    assert!(threads(1, 1).ends_with(" threads"));
    assert!(threads(4, 4).ends_with(" threads, 4 processes"));
    assert!(threads(1, 2).ends_with(" threads, 1 processes to train and 2 to evaluate"));
}

#[test]
fn the_fixture_fits_the_documented_schema() {
    let schema = json("docs/report.schema.json");
    let mut report = json("xtask/fixtures/run/report.json");
    assert_eq!(misfits(&schema, &schema, &report, "report"), Vec::<String>::new());
    report["rows"][1]["encoder"] = "other".into();
    report["seconds"] = serde_json::json!({ "train": "3" });
    report["labelled"]["n_test"] = 0.into();
    let found = misfits(&schema, &schema, &report, "report").join("\n");
    for place in ["report.rows[1].encoder", "report.seconds.train", "report.seconds.evaluate", "report.labelled.n_test"]
    {
        assert!(found.contains(place), "{place} was not found among:\n{found}");
    }
}

#[test]
fn every_key_this_task_needs_is_required_by_the_schema() {
    let schema = json("docs/report.schema.json");
    let whole = json("xtask/fixtures/run/report.json");
    for key in whole.as_object().unwrap().keys() {
        let mut report = whole.clone();
        report.as_object_mut().unwrap().remove(key);
        let readable = serde_json::from_value::<Report>(report.clone()).is_ok();
        assert!(readable || !misfits(&schema, &schema, &report, "report").is_empty(), "{key}");
    }
}

/// Where `value` does not fit `schema`, for the words our schema uses: $ref, const, enum, type, minimum, maximum, required,
/// properties and items.
fn misfits(root: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(target) = schema["$ref"].as_str() {
        return misfits(root, root.pointer(&target[1..]).unwrap(), value, place);
    }
    let fits = [
        ("const", schema.get("const").is_none_or(|only| only == value)),
        ("enum", schema["enum"].as_array().is_none_or(|values| values.contains(value))),
        ("type", types(schema).is_empty() || types(schema).iter().any(|name| is_of(value, name))),
        ("minimum", bounded(schema, "minimum", value, |value, least| value >= least)),
        ("maximum", bounded(schema, "maximum", value, |value, most| value <= most)),
    ];
    let mut found: Vec<_> =
        fits.iter().filter(|(_, fit)| !fit).map(|(word, _)| format!("{place}: {word}, found {value}")).collect();
    if let Some(object) = value.as_object() {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        found.extend(required.filter(|key| !object.contains_key(*key)).map(|key| format!("{place}.{key}: required")));
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            found.extend(object.get(key).into_iter().flat_map(|v| misfits(root, inner, v, &format!("{place}.{key}"))));
        }
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(misfits(root, &schema["items"], item, &format!("{place}[{i}]")));
    }
    found
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        name => name.as_str().into_iter().collect(),
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("unknown type {other} in the schema"),
    }
}

fn bounded(schema: &Value, word: &str, value: &Value, holds: fn(f64, f64) -> bool) -> bool {
    match (schema[word].as_f64(), value.as_f64()) {
        (Some(bound), Some(value)) => holds(value, bound),
        _ => true,
    }
}
