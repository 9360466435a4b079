//! Systemd's protocols: readiness, keep-alive, socket activation, units.

use super::launching::Runs;
use super::*;
use integration_tests::skip_without_program;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg, sockopt,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What a service manager hears.
struct Manager {
    socket: UnixDatagram,
    address: String,
    _folder: TempDir,
}

impl Manager {
    fn new(is_abstract: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let (socket, address) = if is_abstract {
            let address = SocketAddr::from_abstract_name(text(&path)).unwrap();
            let socket = UnixDatagram::bind_addr(&address).unwrap();
            (socket, format!("@{}", path.display()))
        } else {
            (UnixDatagram::bind(&path).unwrap(), text(&path).to_owned())
        };
        socket.set_read_timeout(Some(patience())).unwrap();
        sockopt::set_socket_passcred(&socket, true).unwrap();
        Self {
            socket,
            address,
            _folder: folder,
        }
    }

    /// The lines of the next notification.
    fn hear(&self) -> Vec<String> {
        self.hear_from().1
    }

    /// The same, and the process that has sent it.
    fn hear_from(&self) -> (u32, Vec<String>) {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let buffers = &mut [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, buffers, &mut ancillary, RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                received => break received.unwrap(),
            }
        };
        assert!(!received.flags.contains(ReturnFlags::TRUNC));
        let sender = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
            _ => None,
        });
        let sender = sender.unwrap().as_raw_nonzero().get();
        let said = std::str::from_utf8(&bytes[..received.bytes]).unwrap();
        (
            u32::try_from(sender).unwrap(),
            said.lines().map(str::to_owned).collect(),
        )
    }

    /// Waits for a notification with that line.
    fn wait_for(&self, line: &str) {
        while !self.hear().iter().any(|heard| heard == line) {}
    }
}

#[test]
fn service_manager_is_told_of_readiness_and_of_the_end() {
    if !has_kvm() {
        return;
    }
    for is_abstract in [false, true] {
        let runs = Runs::new();
        let manager = Manager::new(is_abstract);
        let mut command = runs.command(&["run", &driver("echo"), "--name", "e"]);
        let running = Running::start(command.env("NOTIFY_SOCKET", &manager.address));

        let first = manager.hear();

        assert_eq!(first, ["READY=1", "STATUS=running"]);
        // Ready is ready: no waiting for the socket.
        runs.run(&["ctl", "e", "stats"]).assert_code(0);
        running.signal("TERM");
        manager.wait_for("STOPPING=1");
        running.wait().assert_code(0);
    }
}

#[test]
fn driver_that_does_not_start_is_not_ready() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let manager = Manager::new(false);
    let (_folder, no_driver) = file("x.sys", b"no driver");
    let mut command = runs.command(&["run", text(&no_driver), "--name", "x"]);
    command.env("NOTIFY_SOCKET", &manager.address);

    Running::start(&mut command).wait().assert_code(3);

    manager.socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 64];
    let heard = manager.socket.recv(&mut bytes);
    assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn keep_alive_pings_come_if_they_are_wanted() {
    if !has_kvm() {
        return;
    }
    for restart in ["never", "on-crash"] {
        let runs = Runs::new();
        let manager = Manager::new(false);
        let arguments = ["run", &driver("echo"), "--name", "e", "--restart", restart];
        let mut command = runs.command(&arguments);
        command
            .env("NOTIFY_SOCKET", &manager.address)
            .env("WATCHDOG_USEC", "200000");
        let running = Running::start(&mut command);
        manager.wait_for("READY=1");

        for _ in 0..3 {
            manager.wait_for("WATCHDOG=1");
        }

        running.signal("TERM");
        running.wait().assert_code(0);
    }
}

/// A service manager with NotifyAccess=main takes messages from the service's main process alone: at first the one that it
/// has started, then the one that this one names.
#[test]
fn detached_run_becomes_the_services_main_process() {
    if !has_kvm() {
        return;
    }
    for restart in ["never", "on-crash"] {
        let runs = Runs::new();
        let manager = Manager::new(false);
        let arguments = ["run", &driver("echo"), "--detach", "--name", "e"];
        let mut command = runs.command(&[&arguments[..], &["--restart", restart]].concat());
        command
            .env("NOTIFY_SOCKET", &manager.address)
            .env("WATCHDOG_USEC", "200000");
        let starter = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let starters = starter.id();

        let (sender, first) = manager.hear_from();

        let [run] = runs.listed().try_into().unwrap();
        let stays = u32::try_from(run["pid"].as_u64().unwrap()).unwrap();
        let main = format!("MAINPID={stays}");
        assert_eq!(first, ["READY=1", &main, "STATUS=running"]);
        assert_eq!(sender, starters);
        assert!(starter.wait_with_output().unwrap().status.success());
        runs.run(&["ctl", "e", "stats"]).assert_code(0);
        for _ in 0..3 {
            assert_eq!(manager.hear_from(), (stays, vec!["WATCHDOG=1".to_owned()]));
        }
        runs.run(&["stop", "e"]).assert_code(0);
        let last = std::iter::repeat_with(|| manager.hear_from())
            .find(|(_, lines)| lines[0] != "WATCHDOG=1")
            .unwrap();
        assert_eq!((last.0, last.1[0].as_str()), (stays, "STOPPING=1"));
    }
}

#[test]
fn restarts_are_told_to_the_service_manager() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let manager = Manager::new(false);
    let arguments = [
        "run",
        &driver("faulty"),
        "--name",
        "f",
        "--restart",
        "on-crash",
    ];
    let mut command = runs.command(&arguments);
    let running = Running::start(command.env("NOTIFY_SOCKET", &manager.address));
    manager.wait_for("READY=1");

    let crash = runs.run(&["ctl", "f", r"open \\.\faulty", "ioctl 0x222000"]);

    crash.assert_code(4);
    manager.wait_for("STATUS=the driver crashed; it is started again in 0.1 s");
    manager.wait_for("READY=1");
    running.signal("TERM");
    running.wait().assert_code(0);
}

#[test]
fn socket_that_is_passed_in_is_served() {
    if !has_kvm() {
        return;
    }
    if !has_program("systemd-socket-activate") {
        skip_without_program(
            "the test of socket activation (systemd-socket-activate, package systemd)",
        );
        return;
    }
    for restart in ["never", "on-crash"] {
        let runs = Runs::new();
        let socket = runs.path().join("faulty.sock");
        let mut activate = std::process::Command::new("systemd-socket-activate");
        activate
            .arg("-l")
            .arg(&socket)
            .args([
                "-E",
                &format!("RINGFENCE_RUN_DIR={}", runs.path().display()),
            ])
            .arg(integration_tests::program())
            .args([
                "run",
                &driver("faulty"),
                "--name",
                "faulty",
                "--restart",
                restart,
            ])
            .stdin(Stdio::null());
        let activated = Running::start(&mut activate);
        let started = Instant::now();
        while !socket.exists() {
            assert!(started.elapsed() < patience());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }

        // The first to connect starts it; its name finds the socket before that.
        let first = runs.run(&["ctl", "faulty", "stats"]);
        let [run] = runs.listed().try_into().unwrap();
        activated.signal("TERM");
        let ended = activated.wait();

        first.assert_code(0);
        assert_eq!(run["socket"], text(&socket));
        ended.assert_code(0);
        assert!(socket.exists(), "the socket's file is not ours");
    }
}

#[test]
fn socket_that_is_handed_over_is_the_runs_own() {
    if !has_kvm() {
        return;
    }
    let (folder, policy) = file("policy.toml", b"[clients]\nsocket-mode = \"0640\"\n");
    for restart in ["never", "on-crash"] {
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let runs = Runs::new();
        let mut shell = std::process::Command::new("sh");
        shell
            .args([
                "-c",
                r#"exec 3<&0 0</dev/null
                LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=ringfence-own exec "$0" "$@""#,
            ])
            .arg(integration_tests::program())
            .args(["run", &driver("echo"), "--policy", text(&policy)])
            .args(["--restart", restart, "--run-dir", text(runs.path())])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
        let running = Running::start(&mut shell);

        // There is a socket to connect to before there is a driver.
        let asked = run(&["ctl", text(&socket), "stats"]);

        asked.assert_code(0);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&socket).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o640, "the policy's");
        running.signal("TERM");
        running.wait().assert_code(0);
        assert!(!socket.exists(), "the socket is left behind");
    }
}

/// `--detach` hands a socket that was passed in over to the process that stays.
#[test]
fn socket_that_is_passed_in_is_a_detached_runs() {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (restart, is_own) in [("never", false), ("never", true), ("on-crash", false)] {
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let runs = Runs::new();
        let mut shell = std::process::Command::new("sh");
        let name = if is_own { "ringfence-own" } else { "ringfence" };
        shell
            .args([
                "-c",
                r#"exec 3<&0 0</dev/null
                LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES="$NAME" exec "$0" "$@""#,
            ])
            .env("NAME", name)
            .arg(integration_tests::program())
            .args(["run", &driver("faulty"), "--detach", "--name", "f"])
            .args(["--restart", restart, "--run-dir", text(runs.path())])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));

        Running::start(&mut shell).wait().assert_code(0);
        // It has the socket too.
        drop(shell);

        let asked = run(&["ctl", text(&socket), "stats"]);
        asked.assert_code(0);
        let [listed] = runs.listed().try_into().unwrap();
        assert_eq!(listed["socket"], text(&socket));
        assert!(!runs.path().join("f.sock").exists(), "another socket");
        if restart == "on-crash" {
            runs.run(&["ctl", "f", r"open \\.\faulty", "ioctl 0x222000"])
                .assert_code(4);
            runs.run(&["ctl", "f", "stats"]).assert_code(0);
        }
        runs.run(&["stop", "f"]).assert_code(0);
        assert_eq!(socket.exists(), !is_own);
        if !is_own {
            // Nobody has kept it open.
            assert!(UnixStream::connect(&socket).is_err());
            std::fs::remove_file(&socket).unwrap();
        }
    }
}

#[test]
fn socket_that_is_not_to_be_served_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let other = folder.path().join("other");
    let start = |passed: std::os::fd::OwnedFd, more: &[&str]| {
        let runs = Runs::new();
        let mut shell = std::process::Command::new("sh");
        shell
            .args([
                "-c",
                r#"exec 3<&0 0</dev/null
                LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#,
            ])
            .arg(integration_tests::program())
            .args(["run", &driver("echo"), "--run-dir", text(runs.path())])
            .args(more)
            .stdin(Stdio::from(passed));
        Running::start(&mut shell).wait()
    };

    let listener = UnixListener::bind(&socket).unwrap();
    let another = start(listener.into(), &["--socket", text(&other)]);
    let passed = UnixListener::bind(folder.path().join("passed")).unwrap();
    let detached = start(passed.into(), &["--detach", "--socket", text(&other)]);
    let (one, _two) = UnixStream::pair().unwrap();
    let connection = start(one.into(), &[]);

    another.assert_code(2);
    assert!(another.stderr.contains("--socket"), "{another:#?}");
    assert!(!other.exists());
    detached.assert_code(2);
    assert!(detached.stderr.contains("--socket"), "{detached:#?}");
    connection.assert_code(2);
    assert!(connection.stderr.contains("LISTEN_FDS"), "{connection:#?}");
}

#[test]
fn units_are_well_formed() {
    if !has_program("systemd-analyze") {
        skip_without_program("the units (systemd-analyze, package systemd)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    for name in ["ringfence@.service", "ringfence@.socket"] {
        let unit = std::fs::read_to_string(units.join(name)).unwrap();
        // It is not installed here, and what is to be executed has to exist.
        let program = integration_tests::program().display().to_string();
        let unit = unit.replace("/usr/bin/ringfence", &program);
        std::fs::write(folder.path().join(name), unit).unwrap();
    }
    let verified = std::process::Command::new("systemd-analyze")
        .args([
            "verify",
            "./ringfence@echo.service",
            "./ringfence@echo.socket",
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
    assert!(verified.stderr.is_empty(), "{verified:?}");
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).exists())
}
