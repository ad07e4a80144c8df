//! Tests that go on in processes of their own: as ranks that compute together, or where nothing else may run.

use std::process::{Child, Command, Output, Stdio};

/// The command that runs one test of the program that runs this one, `module::function`, and no other.
///
/// # Panics
/// When the system does not tell where this program lies.
pub fn of_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.args(test_arguments(name));
    command
}

/// What the program of a test is told to run the test `name`, `module::function`, alone.
pub fn test_arguments(name: &str) -> [&str; 4] {
    [name, "--exact", "--nocapture", "--test-threads=1"]
}

/// Starts a process that nobody types to and whose words are kept for [`succeed`].
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process of this test")
}

/// Waits for all of [`start`], one after the other.
///
/// # Panics
/// When one did not succeed, with its place and its words.
#[track_caller]
pub fn succeed(children: impl IntoIterator<Item = Child>) {
    for (rank, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().expect("the words of a process");
        assert!(output.status.success(), "process {rank}: {}", text(&output));
    }
}

/// Runs the test `name`, `module::function`, with these variables set, to its end, and gives what it wrote.
///
/// # Panics
/// When it did not succeed, or no test has this name.
#[track_caller]
pub fn run_test(name: &str, variables: &[(&str, &str)]) -> String {
    let output = of_test(name).envs(variables.iter().copied()).output().expect("a process of this test");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "no test is called {name}: {text}");
    text
}

/// All that a process wrote.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    const VARIABLE: &str = "EMPSSL_TEST_OF_GOLDEN";
    const OTHER: &str = "processes::tests::what_another_test_started";

    /// The other half of the test below; on its own it does nothing.
    #[test]
    fn what_another_test_started() {
        let Ok(word) = std::env::var(VARIABLE) else { return };
        println!("heard {word}");
        assert_ne!(word, "fail");
    }

    #[test]
    fn a_test_runs_again_alone_and_its_failure_is_told() {
        let text = super::run_test(OTHER, &[(VARIABLE, "this")]);
        assert!(text.contains("heard this") && !text.contains("a_test_runs_again"), "{text}");
        assert!(catch_unwind(|| super::run_test(OTHER, &[(VARIABLE, "fail")])).is_err());
        assert!(catch_unwind(|| super::run_test("processes::nothing", &[(VARIABLE, "this")])).is_err());
        let start = |word| super::start(super::of_test(OTHER).env(VARIABLE, word));
        super::succeed([start("this"), start("that")]);
        let both = [start("this"), start("fail")];
        let told = catch_unwind(|| super::succeed(both)).unwrap_err();
        assert!(told.downcast_ref::<String>().unwrap().starts_with("process 1: "));
    }
}
