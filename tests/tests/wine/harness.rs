//! Wine prefixes to test in, and the programs that run there.

mod prefix;
mod programs;
mod wine;

use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use integration_tests::patience;
use integration_tests::program::Ended;

pub(crate) use self::prefix::{Moved, Prefix};
pub(crate) use self::wine::{Release, Width, Wine};

/// Makes tests of functions that take a [`Prefix`]: for each one a module with a test for each Wine, so that those that follow
/// each other do not wait for the same prefix. Those behind `everywhere:` always run with the newer one too, where it is
/// set up; the others only with RINGFENCE_TEST_WINE_ALL set, for they take long.
macro_rules! prefix_tests {
    (
        $($name:ident),* $(,)?
        $(; everywhere: $($main:ident),* $(,)?)?
    ) => {
        $(prefix_tests!(@tests $name is_for_all);)*
        $($(prefix_tests!(@tests $main is_for_main);)*)?
    };
    (@tests $name:ident $newer:ident) => {
        mod $name {
            prefix_tests!(@test bits64 $name Own Bits64 is_for_main);
            prefix_tests!(@test bits32 $name Own Bits32 is_for_main);
            prefix_tests!(@test trixie64 $name Trixie Bits64 $newer);
            prefix_tests!(@test trixie32 $name Trixie Bits32 $newer);
            prefix_tests!(@test trixie_wow64 $name TrixieWow64 Bits32 $newer);
        }
    };
    (@test $test:ident $name:ident $release:ident $width:ident $is_run:ident) => {
        #[test]
        fn $test() {
            const WINE: $crate::harness::Wine = $crate::harness::Wine {
                release: $crate::harness::Release::$release,
                width: $crate::harness::Width::$width,
            };
            if !$crate::harness::$is_run() {
                return;
            }
            if let Some(prefix) = $crate::harness::Prefix::take(WINE) {
                super::$name(&prefix);
            }
        }
    };
}

/// What always runs.
pub(crate) const fn is_for_main() -> bool {
    true
}

/// Whether every test is to run with every Wine.
pub(crate) fn is_for_all() -> bool {
    let is_set = std::env::var_os("RINGFENCE_TEST_WINE_ALL").is_some();
    if !is_set {
        println!("not run with this Wine: RINGFENCE_TEST_WINE_ALL is not set");
    }
    is_set
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// How long Wine may take: it has to start a dozen processes first.
fn wine_patience() -> Duration {
    8 * patience()
}

fn has(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    quiet
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a process that must end; what it said. Not through pipes: Wine's services, which go on, would hold them open.
pub(crate) fn run_to_end(command: &mut Command, what: &str) -> Ended {
    let mut outputs = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    command
        .stdout(outputs[0].try_clone().unwrap())
        .stderr(outputs[1].try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > wine_patience() {
            let _ = child.kill().is_ok();
            panic!("{what} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let [stdout, stderr] = outputs.each_mut().map(|file| {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    });
    Output {
        status,
        stdout,
        stderr,
    }
    .into()
}
