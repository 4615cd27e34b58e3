//! A filter and a veil can't be taken back, so each case runs in a process of its own: this program, started again with the
//! name of the test and the number of the case.

use std::path::Path;
use std::process::{Command, ExitStatus};

const CASE: &str = "SECCOMP_FILTERS_CASE";
const FOLDER: &str = "SECCOMP_FILTERS_FOLDER";

/// Runs `body` in another process, and returns how that ended. `body` is a closure that the test wrote, from whose type its name
/// is known, and gets the path of a folder of its own.
pub fn confined<F: FnOnce(&Path)>(body: F) -> ExitStatus {
    let name = test_of::<F>();
    if let Ok(case) = std::env::var(CASE) {
        assert_eq!(case, name);
        run(body);
    }
    spawn(name, name)
}

/// As [`confined`], for each of `cases` in a process of its own. Returns how each ended.
pub fn each<C, F: Fn(&C)>(cases: &[C], body: F) -> Vec<ExitStatus> {
    let name = test_of::<F>();
    if let Ok(case) = std::env::var(CASE) {
        let number: usize = case.strip_prefix(name).unwrap().parse().unwrap();
        run(|_| body(&cases[number]));
    }
    (0..cases.len()).map(|number| spawn(name, &format!("{name}{number}"))).collect()
}

fn run(body: impl FnOnce(&Path)) -> ! {
    body(Path::new(&std::env::var(FOLDER).unwrap()));
    // SAFETY: ends the process at once; the test runner's other threads and its reporting are not wanted here.
    unsafe { libc::_exit(0) }
}

fn spawn(test: &str, case: &str) -> ExitStatus {
    let folder = tempfile::tempdir().unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .env(FOLDER, folder.path())
        // Looking for symbols takes more than any role may do.
        .env_remove("RUST_BACKTRACE")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap()
}

/// `pledge::a_test` of a closure of type `confined::pledge::a_test::{{closure}}`.
fn test_of<F>() -> &'static str {
    let (_, path) = std::any::type_name::<F>().split_once("::").unwrap();
    path.trim_end_matches("::{{closure}}")
}

/// A system call, as it is.
pub fn call(number: i64, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the cases pass no pointer but null, no memory but what they made, and no descriptor that anything else uses.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}
