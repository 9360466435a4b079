//! Several commands on one prefix at once, and those that cannot do what they are asked for.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use integration_tests::program::Ended;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Prefix, run_to_end};

prefix_tests!(
    one_of_several_installs_of_a_name_succeeds,
    installs_and_removals_at_once_leave_what_they_say,
    service_that_does_not_stop_stays_installed,
    names_have_the_length_that_a_socket_may_have,
    programs_of_windows_have_either_slash,
    files_of_wine_run_come_with_each_driver,
);

fn install(prefix: &Prefix, name: &str) -> Command {
    let driver = prefix.sample("echo");
    let driver = driver.to_str().unwrap();
    prefix.ringfence_command(&[
        "wine", "install", driver, "--name", name, "--start", "demand",
    ])
}

/// Runs all at once.
fn together(commands: Vec<Command>) -> Vec<Ended> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = commands
            .into_iter()
            .map(|mut command| scope.spawn(move || run_to_end(&mut command, "ringfence")))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

fn installed(prefix: &Prefix) -> Vec<String> {
    let listed = prefix.ringfence(&["wine", "list", "--json"]);
    let names = listed.objects();
    names
        .iter()
        .filter_map(|object| Some(object["name"].as_str()?.to_owned()))
        .collect()
}

fn one_of_several_installs_of_a_name_succeeds(prefix: &Prefix) {
    prefix.keep_session();

    let ended = together((0..4).map(|_| install(prefix, "echo")).collect());

    let (done, refused): (Vec<Ended>, Vec<Ended>) =
        ended.into_iter().partition(|ended| ended.code == Some(0));
    assert_eq!((done.len(), refused.len()), (1, 3), "{done:?} {refused:?}");
    for refused in refused {
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(
            refused.stderr.contains("is installed already"),
            "{refused:?}"
        );
    }
    assert_eq!(prefix.service("start", "echo"), 0, "{}", prefix.log());
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
}

fn installs_and_removals_at_once_leave_what_they_say(prefix: &Prefix) {
    prefix.keep_session();
    let names = ["one", "three", "two"];
    let ended = together(names.map(|name| install(prefix, name)).into());
    assert!(ended.iter().all(|ended| ended.code == Some(0)), "{ended:?}");
    assert_eq!(installed(prefix), names);

    let remove = |name: &str| prefix.ringfence_command(&["wine", "remove", name]);
    let ended = together(names[..2].iter().map(|name| remove(name)).collect());
    assert!(ended.iter().all(|ended| ended.code == Some(0)), "{ended:?}");
    // The last goes, and with it everything, beside one that comes.
    let ended = together(vec![remove("two"), install(prefix, "new")]);
    assert!(ended.iter().all(|ended| ended.code == Some(0)), "{ended:?}");

    assert_eq!(installed(prefix), ["new"]);
    assert_eq!(prefix.service("start", "new"), 0, "{}", prefix.log());
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
    // The host has come, or stayed, with it.
    assert_eq!(
        prefix.run("service", &["state", "ringfence"]).trim(),
        "state 4"
    );
}

/// A process that is stopped, as one that hangs is.
struct Halted(Pid);

impl Halted {
    fn new(process: Pid) -> Self {
        kill_process(process, Signal::STOP).unwrap();
        Self(process)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT).is_ok();
    }
}

fn service_that_does_not_stop_stays_installed(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    let socket = UnixStream::connect(prefix.socket("echo")).unwrap();
    // Who has made the socket: Wine's process.
    let wine = rustix::net::sockopt::socket_peercred(&socket).unwrap().pid;
    drop(socket);
    let halted = Halted::new(wine);

    let ended = prefix.ringfence(&["wine", "remove", "echo"]);

    drop(halted);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("echo does not stop"), "{ended:?}");
    assert_eq!(installed(prefix), ["echo"]);
    for file in ["services/echo.sys", "drivers/echo.sys", "ringfence.sys"] {
        assert!(prefix.ringfence_folder().join(file).exists(), "{file}");
    }
    // Without a Wine, nobody knows whether it runs.
    let ended = prefix.ringfence(&["wine", "remove", "echo", "--wine", "/nonexistent-wine"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(installed(prefix), ["echo"]);
    let ended = prefix.ringfence(&["wine", "remove", "echo"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

fn names_have_the_length_that_a_socket_may_have(prefix: &Prefix) {
    let ended = run_to_end(&mut install(prefix, &"x".repeat(150)), "ringfence");
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let text = ended.stderr.split_once("has at most ").unwrap().1;
    let longest: usize = text.split_once(' ').unwrap().0.parse().unwrap();
    let one_more = run_to_end(&mut install(prefix, &"x".repeat(longest + 1)), "ringfence");
    assert_eq!(one_more.code, Some(2), "{one_more:?}");

    let name = "x".repeat(longest);
    let ended = run_to_end(&mut install(prefix, &name), "ringfence");

    assert_eq!(ended.code, Some(0), "{ended:?}");
    prefix.keep_session();
    assert_eq!(prefix.service("start", &name), 0, "{}", prefix.log());
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
}

fn programs_of_windows_have_either_slash(prefix: &Prefix) {
    let folder = prefix.path().join("drive_c/a b");
    std::fs::create_dir_all(&folder).unwrap();
    prefix.place(&folder, "service");
    let run = |program: &str, at: &Path| {
        let mut command = prefix.ringfence_command(&["wine", "run", program, "state", "MountMgr"]);
        run_to_end(command.current_dir(at), "ringfence")
    };
    let ended = [
        run("c:/a b/service.exe", prefix.path()),
        run(r"C:\a b\service.exe", prefix.path()),
        run("./service.exe", &folder),
        run("a b/service.exe", folder.parent().unwrap()),
    ];
    std::fs::remove_dir_all(&folder).unwrap();
    for ended in ended {
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("state 4"), "{ended:?}");
    }
}

fn files_of_wine_run_come_with_each_driver(prefix: &Prefix) {
    // What programs that run need for those that they start comes with the driver again.
    let files = ["64", "32"].map(|width| format!("ringfence-port{width}.dll"));
    prefix.install("echo", &[]);
    let are_there = || {
        let mut paths = files
            .iter()
            .map(|file| prefix.ringfence_folder().join(file));
        paths.all(|path| path.exists())
    };
    assert!(are_there());
    let removed = prefix.ringfence(&["wine", "remove", "echo"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert!(!prefix.ringfence_folder().exists());
    prefix.install("echo", &[]);
    assert!(are_there());
}
