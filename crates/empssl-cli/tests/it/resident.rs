//! A long run takes no more memory than a short one.

#[cfg(target_os = "linux")]
#[test]
fn resident_memory_stays_where_it_is_between_step_500_and_2000() {
    use crate::chain::steps;

    let folder = tempfile::tempdir().unwrap();
    crate::draw_images(folder.path(), 12);
    let recipe = crate::recipe("synthetic/smoke.toml");
    let changes = [
        "training.length={steps=1000000}",
        "training.batch_size=2",
        "patches.side=8",
        "network.base_width=1",
        "network.hidden=8",
        "network.projection=8",
    ];
    let mut arguments = crate::training(&recipe, &changes);
    // An epoch of six steps: the loader, its threads, the metrics file and the checkpoints all come by many times.
    arguments.extend(["--dataset", "folder", "--data", "images", "--out", "run", "--log-every", "20"]);
    let mut child = crate::command(folder.path(), &arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
    let run = folder.path().join("run");
    let mut resident_at = |step: u64| {
        while !run.join("metrics.jsonl").is_file() || steps(&run).last().is_none_or(|&last| last < step) {
            assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap()
    };
    let (early, late) = (resident_at(500), resident_at(2000));
    child.kill().unwrap();
    child.wait().unwrap();
    println!("resident at step 500: {early} kB, at step 2000: {late} kB");
    assert!(late - early <= 2048, "{early} kB at step 500, {late} kB at step 2000");
}
