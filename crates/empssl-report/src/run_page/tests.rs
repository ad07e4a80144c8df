//! The whole page from a run folder, in its three forms.

use serde_json::{Value, json};

use super::*;
use crate::{html, markdown, terminal};

/// A run folder as `empssl` leaves it, made by hand.
fn fixture() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/run")
}

fn report() -> Value {
    serde_json::from_str(&fs::read_to_string(fixture().join("report.json")).unwrap()).unwrap()
}

/// A copy of it, its report changed by `change`.
fn copied(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["metrics.jsonl", "patches.png"] {
        fs::copy(fixture().join(name), copy.path().join(name)).unwrap();
    }
    let mut report = report();
    change(&mut report);
    fs::write(copy.path().join("report.json"), report.to_string()).unwrap();
    copy
}

/// The page in Markdown and in HTML.
fn pages(run: &Path) -> [String; 2] {
    let page = RunFiles::read(run).unwrap().page();
    [markdown::render(&page), html::render(&page)]
}

fn holds(page: &str, texts: &[&str]) {
    for text in texts {
        assert!(page.contains(text), "`{text}` is missing in {page}");
    }
}

#[test]
fn both_pages_show_every_row_bar_and_published_figure() {
    for page in pages(copied(|_| ()).path()) {
        holds(&page, &["51.3 %", "33.0 %", "27.9 %", "48.3 %", "19.8 %", "38.4 %", "93.1 %", "18.3 points above"]);
        holds(&page, &["85.1 %", "not measured here", "arXiv 2304.03977", "8,068 of 50,000", "NOT MET"]);
        holds(&page, &["lr 0.003, the best", "0000000000000000000000000000000000000000", "an invented processor"]);
        holds(&page, &["1.32 GiB", "the file ends before"]);
    }
}

#[test]
fn both_pages_show_accuracy_against_cost_and_the_best_epoch_in_a_column_of_its_own() {
    let run = copied(|_| ());
    let [markdown, html] = pages(run.path());
    for page in [&markdown, &html] {
        holds(page, &["hosen on test, as the original prints", "52.4 %", "39.5 %", "36.2 %", "8.6 ms", "as published"]);
    }
    holds(&markdown, &["| the whole image, resized | 1 | 33.4 % | 30.1 % | 0.450 ms |"]);
    assert_eq!(html.matches("<circle ").count(), 4 * 6);
    let run = copied(|report| report["test_curve"] = Value::Array(Vec::new()));
    assert!(pages(run.path()).iter().all(|page| !page.contains("Accuracy against test cost")));
}

#[test]
fn what_people_look_for_comes_first_and_the_rest_is_folded_away() {
    let page = RunFiles::read(&fixture()).unwrap().page();
    let titles = |folded: bool| {
        let sections = page.sections.iter().filter(move |section| section.folded == folded);
        sections.map(|section| section.title.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(titles(false), ["Accuracy", "What the run had to show", "Training", "Patches and features"]);
    let first_folded = page.sections.iter().position(|section| section.folded).unwrap();
    assert!(first_folded == 4 && page.sections[4..].iter().all(|section| section.folded), "{:?}", titles(true));
    let html = html::render(&page);
    assert_eq!(html.matches("<details>").count(), titles(true).len());
    assert!(html.find("class=\"lead\"") < html.find("<table"), "the sentence stands before the figures");
}

#[test]
fn every_table_of_accuracies_says_how_many_of_how_many_test_images() {
    let run = copied(|_| ());
    let page = RunFiles::read(run.path()).unwrap().page();
    let [markdown, html] = [markdown::render(&page), html::render(&page)];
    let markdown =
        markdown.split("\n## ").flat_map(|part| part.split("<details>")).filter(|part| part.contains(" % |"));
    let html = html.split("<section>").flat_map(|part| part.split("<details>")).filter(|part| part.contains(" %"));
    let of_scores = markdown.chain(html).collect::<Vec<_>>();
    assert_eq!(of_scores.len(), 8, "{of_scores:?}");
    assert!(of_scores.iter().all(|part| part.contains("2,000 of 10,000 test images")), "{of_scores:?}");
    let shown = terminal::render(&page);
    assert!(shown.lines().filter(|line| line.contains(" %")).all(|line| line.contains("2,000 of 10,000")), "{shown}");
    let whole = copied(|report| report["partial_counts"]["test"]["expected"] = 2000.into());
    assert!(pages(whole.path()).iter().all(|page| page.contains("% on 2,000 test images")));
}

#[test]
fn scores_of_held_out_images_say_so() {
    let run = copied(|report| {
        report["rows"].as_array_mut().unwrap().iter_mut().for_each(|row| row["scored_on"] = "held-out".into());
    });
    for page in pages(run.path()) {
        holds(&page, &["% on 2,000 held-out training images", "no figure here is of the test images"]);
    }
    let label = crate::sweep::SweepRow::of_run(&RunReport::read(run.path()).unwrap()).dataset;
    assert!(label.ends_with(", scored on held-out training images"), "{label}");
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
    let run = copied(|report| report["rows"][1]["probe"] = "a-probe-of-old".into());
    assert_eq!(RunReport::read(run.path()).unwrap().rows.len(), 5);
    assert!(pages(run.path()).iter().all(|page| page.contains("51.3 %") && !page.contains("of-old")));
}

#[test]
fn a_report_comes_back_as_it_was_written() {
    let report = RunReport::read(&fixture()).unwrap();
    assert_eq!(serde_json::from_str::<RunReport>(&serde_json::to_string(&report).unwrap()).unwrap(), report);
}

#[test]
fn the_committed_reports_open() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/results");
    let folders = fs::read_dir(results).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let opened = folders.map(|folder| markdown::render(&RunFiles::read(&folder).unwrap().page()));
    assert!(opened.filter(|page| page.contains("weighted kNN")).count() >= 4);
}

#[test]
fn classes_without_labelled_images_are_a_warning() {
    let run = copied(|report| report["labelled"]["absent_classes"] = json!(["cat", "dog"]));
    assert!(pages(run.path()).iter().all(|page| page.contains("2 classes have no labelled training image")));
}

#[test]
fn the_page_asks_nobody_for_anything() {
    let [_, html] = pages(copied(|_| ()).path());
    for request in ["http:", "https:", "src=\"/", "href=", "url(", "@import", "<script"] {
        assert!(!html.contains(request), "the page holds `{request}`");
    }
    holds(&html, &["default-src 'none'", "prefers-color-scheme: dark", "src=\"data:image/png;base64,iVBORw0KGgo"]);
    assert_eq!(html.matches("<svg ").count(), 9);
}

#[test]
fn synthetic_images_never_stand_beside_a_published_figure() {
    for page in pages(copied(|report| report["synthetic"] = true.into()).path()) {
        holds(&page, &["Synthetic set: ", "nothing about real images"]);
        assert!(!page.contains("arXiv") && !page.contains("not measured here"));
    }
}

#[test]
fn text_from_outside_is_never_markup() {
    let run = copied(|report| {
        report["title"] = "<script>alert(\"a & b\")</script>".into();
        report["recipe_toml"] = "</pre><b>".into();
    });
    let [markdown, html] = pages(run.path());
    assert!(!html.contains("<script") && !html.contains("</pre><b>") && !markdown.contains("# <script"));
    holds(&html, &["&lt;script&gt;alert(&quot;a &amp; b&quot;)", "00&lt;17&gt;.jpg"]);
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
        holds(&page, &["metrics.jsonl is missing", "patches.png is missing", "51.3 %"]);
        assert!(!page.contains("<svg") && !page.contains("data:image"));
    }
}

#[test]
fn a_log_that_was_cut_off_is_read_to_its_last_whole_line() {
    let steps = steps(&fixture()).unwrap();
    assert_eq!(steps.len(), 100);
    assert!(steps.windows(2).all(|pair| pair[0].step < pair[1].step));
    assert_eq!(steps[0].terms().collect::<Vec<_>>(), ["coding_rate", "invariance"]);
}

#[test]
fn the_checks_of_a_training_have_a_curve_and_say_what_they_took() {
    let run = copied(|_| ());
    let words = ["Neighbours during training", "1,000 labelled training images, 4 patches each", "2 checks took"];
    let shown = |page: &String| words.iter().filter(|word| page.contains(**word)).count();
    assert_eq!(pages(run.path()).map(|page| (shown(&page), page.contains("by their features"))), [(0, false); 2]);
    let check = r#","monitor":{"knn_top1":41.5,"knn_top5":90,"images":1000,"patches":4,"seconds":0.25}}"#;
    let text = fs::read_to_string(fixture().join("metrics.jsonl")).unwrap();
    let line = |(index, line): (usize, &str)| match (index, line.strip_suffix('}')) {
        (10 | 20, Some(open)) => format!("{open}{check}\n"),
        _ => format!("{line}\n"),
    };
    let lines: String = text.lines().enumerate().map(line).collect();
    fs::write(run.path().join("metrics.jsonl"), lines).unwrap();
    let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\"><script>1</script></svg>";
    fs::write(run.path().join("scatter.svg"), svg).unwrap();
    let [markdown, html] = pages(run.path());
    assert_eq!([&markdown, &html].map(shown), [3; 2]);
    holds(&markdown, &["41.5 %", "](scatter.svg)"]);
    assert!(html.contains("src=\"data:image/svg+xml;base64,PHN2Zy") && !html.contains("<script"));
}

#[test]
fn the_terminal_shows_aligned_columns_of_what_is_not_folded() {
    let shown = terminal::render(&RunFiles::read(&fixture()).unwrap().page());
    let rows: Vec<_> =
        shown.lines().filter(|line| line.starts_with("linear probe") || line.contains("kNN  ")).collect();
    assert_eq!(rows.len(), 2, "{shown}");
    let places: Vec<_> = rows.iter().map(|row| row.rfind('%')).collect();
    assert!(places.iter().all(|place| *place == places[0]), "{shown}");
    let missed = shown.lines().find(|line| line.starts_with("NOT MET")).unwrap();
    let words: Vec<_> = missed.split_whitespace().collect();
    assert_eq!(words.join(" "), "NOT MET kNN: trained minus raw pixels 6.9 at least 7");
}

#[test]
fn a_folder_without_a_report_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || RunReport::read(folder.path()).unwrap_err().to_string();
    assert!(refusal().contains("holds no report.json: `empssl eval"));
    fs::write(folder.path().join("report.json"), "{\"schema_version\": 1}").unwrap();
    assert!(refusal().contains("missing field `title`"));
}

#[test]
fn a_report_of_another_version_is_refused() {
    let run = copied(|report| report["schema_version"] = 2.into());
    let message = RunReport::read(run.path()).unwrap_err().to_string();
    assert!(message.contains("schema_version 2, but this task reads 1"), "{message}");
}

#[test]
fn processes_are_told_where_there_were_several() {
    let threads = |train: u64| {
        let run = copied(|report| report["processes"] = json!({ "train": train, "evaluate": 1 }));
        super::threads(&RunReport::read(run.path()).unwrap())
    };
    assert!(threads(1).ends_with(" threads"));
    assert!(threads(4).ends_with(" threads, 4 processes to train"));
}

#[test]
fn training_by_patches_says_what_batchnorm_saw() {
    let words = |norm_patches: usize| {
        let run = copied(|report| report["model"]["norm_patches"] = norm_patches.into());
        training_words(&RunReport::read(run.path()).unwrap().model)
    };
    assert!([0, 4].iter().all(|&at_once| !words(at_once).contains("BatchNorm")));
    assert!(words(2).ends_with("; BatchNorm saw 2 patches of an image at once"));
}
