//! The command-line program: exit codes, messages, sockets, signals.

#![expect(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions with #[test] as such"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use abi::DriverAbi;
use integration_tests::program::{Ended, Running, command, run};
use integration_tests::{has_kvm, patience, sample, skip};
use loader::builder::{Builder, Built, SectionIndex};
use serde_json::Value;
use tempfile::TempDir;

fn driver(name: &str) -> String {
    sample(name, DriverAbi::Amd64).display().to_string()
}

/// A file of its own in a folder of its own.
fn file(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

mod images {
    use super::*;

    /// What is damaged, how, and what the message must say of it.
    type Damage = (&'static str, fn(&mut Built), &'static str);

    const DAMAGES: [Damage; 9] = [
        ("empty", |image| image.bytes.clear(), "0 bytes"),
        ("no MZ", |image| image.put(0, b"ZM"), "e_magic"),
        (
            "cut in the headers",
            |image| image.bytes.truncate(0x90),
            "beyond the file's 144 bytes",
        ),
        (
            "cut in a section",
            |image| {
                let length = image.raw(SectionIndex::Data, 0x10);
                image.bytes.truncate(length as usize);
            },
            ".data",
        ),
        ("no PE", |image| image.put(0x80, b"NE"), "Signature"),
        (
            "for another machine",
            |image| image.put_u16(0x84, 0xAA64),
            "Machine",
        ),
        (
            "a program of Windows",
            |image| image.put_u16(0x98 + 68, 3),
            "Subsystem",
        ),
        (
            "overlapping sections",
            |image| {
                let first = image.rva(SectionIndex::Text, 0);
                let field = image.section_field(SectionIndex::Data, 12);
                image.put_u32(field, first);
            },
            ".data",
        ),
        (
            "imports outside the image",
            |image| image.put_directory(1, 0xFFFF_0000, 40),
            "mport",
        ),
    ];

    #[test]
    fn damaged_ones_are_rejected_with_field_and_exit_code_3() {
        for abi in [DriverAbi::I386, DriverAbi::Amd64] {
            for (what, damage, expected) in DAMAGES {
                let mut image = Builder::new(abi).build();
                damage(&mut image);
                let (_folder, path) = file("bad.sys", &image.bytes);

                for subcommand in ["inspect", "run"] {
                    let ended = run(&[subcommand, text(&path)]);
                    assert_eq!(ended.code, Some(3), "{what}: {ended:#?}");
                    assert_eq!(ended.stdout, "", "{what}");
                    assert!(
                        ended.stderr.contains("bad.sys is rejected: ")
                            && ended.stderr.contains(expected),
                        "{what}, {subcommand}: {}",
                        ended.stderr
                    );
                    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
                }
            }
        }
    }

    #[test]
    fn undamaged_one_is_inspected() {
        for abi in [DriverAbi::I386, DriverAbi::Amd64] {
            let (_folder, path) = file("good.sys", &Builder::new(abi).build().bytes);

            let ended = run(&["inspect", "--json", text(&path)]);

            ended.assert_code(0);
            let report = &ended.objects()[0].to_string();
            assert!(
                report.contains("IoCreateDevice") && report.contains(abi.name()),
                "{report}"
            );
        }
    }

    #[test]
    fn rejection_is_an_object_with_json() {
        let (_folder, path) = file("bad.sys", b"MZ");

        let ended = run(&["run", "--json", text(&path)]);

        ended.assert_code(3);
        let object = &ended.objects()[0];
        assert_eq!(object["ok"], false);
        assert_eq!(object["exit_code"], 3);
        assert!(object["error"].as_str().unwrap().contains("bad.sys"));
    }

    #[test]
    fn missing_import_is_named_with_strict() {
        let ended = run(&["run", &driver("faulty"), "--strict"]);

        ended.assert_code(3);
        assert!(ended.stderr.contains("LpcRequestPort"), "{}", ended.stderr);
    }

    #[test]
    fn text_file_is_rejected() {
        let (_folder, path) = file("policy.toml", b"[[port]]\nrange = \"0x378\"\n");

        let ended = run(&["run", text(&path)]);

        ended.assert_code(3);
    }
}

mod usage {
    use super::*;

    #[track_caller]
    fn assert_usage(arguments: &[&str], expected: &str) {
        let ended = run(arguments);
        ended.assert_code(2);
        assert_eq!(ended.stdout, "");
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }

    #[test]
    fn wrong_arguments_are_exit_code_2_and_named() {
        let driver = &driver("echo");
        assert_usage(&["walk", driver], "walk");
        assert_usage(&["run"], "<DRIVER>");
        assert_usage(&["run", driver, "--polisy", "x"], "--polisy");
        assert_usage(&["run", driver, "--timeout", "soon"], "--timeout");
        assert_usage(&["run", driver, "--timeout", "0"], "timeout");
        assert_usage(&["run", driver, "--memory", "17"], "--memory");
        assert_usage(&["run", driver, "--privilege", "ring1"], "ring1");
        assert_usage(&["ctl", "/nowhere"], "<COMMAND>");
    }

    #[test]
    fn help_succeeds() {
        for arguments in [&["--help"][..], &["run", "--help"], &["ctl", "--help"]] {
            let ended = run(arguments);
            ended.assert_code(0);
            assert!(ended.stdout.contains("Examples:") || ended.stdout.contains("First steps:"));
        }
    }

    #[test]
    fn missing_files_are_named() {
        let driver = &driver("echo");
        assert_usage(&["run", "/nowhere/a.sys"], "/nowhere/a.sys");
        assert_usage(&["inspect", "/nowhere/a.sys"], "/nowhere/a.sys");
        assert_usage(&["run", driver, "--policy", "/nowhere/p"], "/nowhere/p");
        assert_usage(&["run", driver, "--script", "/nowhere/s"], "/nowhere/s");
        assert_usage(&["run", driver, "--trace", "/nowhere/t"], "/nowhere/t");
        assert_usage(&["run", driver, "--socket", "/nowhere/s"], "/nowhere/s");
        // A folder is no driver.
        let ended = run(&["run", "/"]);
        assert!(matches!(ended.code, Some(2 | 3)), "{ended:#?}");
    }

    #[test]
    fn wrong_command_is_named_before_anything_starts() {
        let driver = &driver("echo");
        assert_usage(&["run", driver, "-c", "opne x"], "opne");
        assert_usage(
            &["run", driver, "-c", "open x", "-c", "inb 0x10000"],
            "0x10000",
        );
    }

    #[test]
    fn wrong_script_line_has_its_number() {
        let (_folder, path) = file("steps", b"# steps\nopen \\\\.\\echo\n\nioctl\n");

        let ended = run(&["run", &driver("echo"), "--script", text(&path)]);

        ended.assert_code(2);
        let place = format!("{}:4: ", path.display());
        assert!(ended.stderr.contains(&place), "{}", ended.stderr);
    }

    #[test]
    fn wrong_policy_has_line_column_and_what_is_allowed() {
        let (_folder, path) = file(
            "lab.toml",
            b"[[port]]\nrange = \"0x378\"\naccess = \"rw\"\nbackend = \"lp\"\n",
        );

        let ended = run(&["run", &driver("echo"), "--policy", text(&path)]);

        ended.assert_code(2);
        let place = format!("{}:4:11: ", path.display());
        assert!(
            ended.stderr.contains(&place) && ended.stderr.contains("allowed: \"passthrough\""),
            "{}",
            ended.stderr
        );
        let checked = run(&["policy", "check", text(&path)]);
        assert_eq!(checked.code, Some(2), "{checked:#?}");
    }
}

mod runs {
    use super::*;

    const LPT: &str = "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\n";

    /// A policy file with an lpt model, and where it prints.
    fn lpt() -> (TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let printed = folder.path().join("printed");
        let policy = folder.path().join("lab.toml");
        std::fs::write(&policy, format!("{LPT}output = {printed:?}\n")).unwrap();
        (folder, policy, printed)
    }

    #[test]
    fn port_is_denied_before_and_allowed_after_open() {
        if !has_kvm() {
            return;
        }
        let (_folder, policy, printed) = lpt();

        let ended = run(&[
            "run",
            &driver("ioperm"),
            "--policy",
            text(&policy),
            "-c",
            "! outb 0x378 0x41",
            "-c",
            r"open \\.\ioperm",
            "-c",
            "outb 0x378 0x41",
            "-c",
            "outb 0x37a 0x0d",
            "-c",
            "outb 0x37a 0x0c",
            "-c",
            "inb 0x379",
            "-c",
            "close",
            "-c",
            "unload",
        ]);

        ended.assert_code(0);
        let lines: Vec<&str> = ended.stdout.lines().collect();
        assert_eq!(lines.len(), 8, "{}", ended.stdout);
        assert!(lines[0].contains("STATUS_PRIVILEGED_INSTRUCTION"));
        assert!(lines[5].contains("0xd8"), "{}", lines[5]);
        assert_eq!(std::fs::read(printed).unwrap(), b"A");
    }

    #[test]
    fn every_memory_size_starts() {
        if !has_kvm() {
            return;
        }
        for memory in ["8M", "16M", "64M"] {
            let ended = run(&[
                "run",
                &driver("echo"),
                "--memory",
                memory,
                "-c",
                r"open \\.\echo",
                "-c",
                "ioctl 0x222000 0102 2",
            ]);

            ended.assert_code(0);
            // Byte i is (input ^ 0xA5) + i.
            assert!(
                ended.stdout.contains("a4 a8") || ended.stdout.contains("a4a8"),
                "{ended:#?}"
            );
        }
    }

    #[test]
    fn failed_command_is_exit_code_1_and_ends_the_run() {
        if !has_kvm() {
            return;
        }

        let ended = run(&[
            "run",
            &driver("echo"),
            "-c",
            r"open \\.\nobody",
            "-c",
            "stats",
        ]);

        ended.assert_code(1);
        assert!(ended.stdout.contains("STATUS_OBJECT_NAME_NOT_FOUND"));
        assert!(!ended.stdout.contains("uptime"));
    }

    #[test]
    fn crash_is_exit_code_4_and_an_object() {
        if !has_kvm() {
            return;
        }
        let arguments = [
            "run",
            &driver("faulty"),
            "-c",
            r"open \\.\faulty",
            "-c",
            "ioctl 0x222018",
        ];

        let for_people = run(&arguments);
        let for_machines = run(&[&arguments[..], &["--json"]].concat());

        for_people.assert_code(4);
        for part in [
            "0x44 MULTIPLE_IRP_COMPLETE_REQUESTS",
            "Registers:",
            "Stack:",
            "faulty.sys+0x",
            "Last API calls and port accesses:",
            "IofCompleteRequest(",
        ] {
            assert!(for_people.stdout.contains(part), "{part}: {for_people:#?}");
        }
        for_machines.assert_code(4);
        let objects = for_machines.objects();
        let last = objects.last().unwrap();
        assert_eq!(last["ok"], false);
        assert_eq!(last["exit_code"], 4);
        let crash = &last["crash"];
        assert_eq!(crash["cause"]["name"], "MULTIPLE_IRP_COMPLETE_REQUESTS");
        assert!(
            crash["stack"]
                .as_array()
                .is_some_and(|stack| !stack.is_empty())
        );
        assert!(crash["registers"]["rip"].is_string());
    }

    #[test]
    fn hang_is_exit_code_6() {
        if !has_kvm() {
            return;
        }

        let ended = run(&[
            "run",
            &driver("faulty"),
            "--timeout",
            "2",
            "-c",
            r"open \\.\faulty",
            "-c",
            "ioctl 0x222010",
        ]);

        ended.assert_code(6);
        assert!(ended.stdout.contains("hung"), "{}", ended.stdout);
    }

    #[test]
    fn no_kvm_is_exit_code_5_with_a_way_out() {
        // A folder of devices without any, in a mount namespace of the program's own.
        let script = "mount -t tmpfs none /dev && exec \"$@\"";
        let hidden = |arguments: &[&str]| {
            let mut command = std::process::Command::new("unshare");
            command
                .args(["-m", "sh", "-c", script, "sh"])
                .args(arguments);
            command
        };
        if !hidden(&["true"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
        {
            skip("a run without /dev/kvm: it cannot be hidden here (unshare, mount)");
            return;
        }
        let program = integration_tests::program();

        let ended = Ended::from(
            hidden(&[text(&program), "run", &driver("echo")])
                .stdin(Stdio::null())
                .output()
                .unwrap(),
        );
        let doctor = Ended::from(
            hidden(&[text(&program), "doctor"])
                .stdin(Stdio::null())
                .output()
                .unwrap(),
        );

        ended.assert_code(5);
        assert!(
            ended.stderr.contains("/dev/kvm") && ended.stderr.contains("modprobe"),
            "{}",
            ended.stderr
        );
        assert!(
            doctor.stdout.contains("/dev/kvm") && !doctor.stderr.contains("panicked"),
            "{doctor:#?}"
        );
    }

    #[test]
    fn flood_of_prints_is_bounded_in_the_log() {
        if !has_kvm() {
            return;
        }

        let ended = run(&[
            "run",
            &driver("faulty"),
            "-c",
            r"open \\.\faulty",
            "-c",
            "ioctl 0x222038 u32:0,u32:3000",
        ]);

        ended.assert_code(0);
        let lines = ended.stderr.lines().count();
        assert!(ended.stderr.contains("of a flood"), "{}", ended.stderr);
        assert!(lines < 2900, "{lines} lines of log");
    }

    #[test]
    fn flood_of_denied_ports_is_bounded_in_the_log() {
        if !has_kvm() {
            return;
        }

        let ended = run(&[
            "run",
            &driver("faulty"),
            "-c",
            r"open \\.\faulty",
            "-c",
            "ioctl 0x222034 u32:0x80,u32:3000",
            "-c",
            "stats",
        ]);

        ended.assert_code(0);
        let lines = ended.stderr.lines().count();
        assert!(lines < 300, "{lines} lines of log");
        assert!(ended.stdout.contains(" 3000"), "{}", ended.stdout);
    }

    #[test]
    fn trace_has_calls_and_ports_in_order() {
        if !has_kvm() {
            return;
        }
        let (folder, policy, _printed) = lpt();
        let trace = folder.path().join("trace");

        let ended = run(&[
            "run",
            &driver("portio"),
            "--policy",
            text(&policy),
            "--trace",
            text(&trace),
            "-c",
            r"open \\.\portio",
            "-c",
            "ioctl 0x222004 u32:0x378,u32:1,u32:0x41",
            "-c",
            "ioctl 0x222000 u32:0x379,u32:1 4",
        ]);

        ended.assert_code(0);
        let trace = std::fs::read_to_string(trace).unwrap();
        let mut rest = trace.as_str();
        for step in [
            "DriverEntry",
            "IoCreateDevice(",
            "IRP_MJ_CREATE",
            "IRP_MJ_DEVICE_CONTROL",
            "HalTranslateBusAddress(",
            "port write u8 0x378",
            "IofCompleteRequest(",
            "IRP_MJ_DEVICE_CONTROL",
            "port read u8 0x379",
            "IofCompleteRequest(",
        ] {
            let at = rest.find(step);
            rest = at.map_or_else(
                || panic!("no {step} where it should be in\n{trace}"),
                |at| &rest[at + step.len()..],
            );
        }
        assert!(trace.ends_with('\n'));
        // Time does not run backwards.
        let times: Vec<f64> = trace
            .lines()
            .map(|line| line[1..13].trim().parse().unwrap())
            .collect();
        assert!(times.is_sorted(), "{trace}");
    }

    #[test]
    fn trace_with_json_is_objects() {
        if !has_kvm() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace");

        let ended = run(&[
            "run",
            &driver("ioperm"),
            "--json",
            "--trace",
            text(&trace),
            "-c",
            r"open \\.\ioperm",
            "-c",
            "inb 0x379",
        ]);

        ended.assert_code(0);
        assert!(ended.objects().iter().all(Value::is_object));
        let lines = std::fs::read_to_string(trace).unwrap();
        assert!(lines.lines().count() > 10);
        for line in lines.lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn closed_stdout_ends_the_run_quietly() {
        if !has_kvm() {
            return;
        }
        let mut child = command(&[
            "run",
            &driver("echo"),
            "-c",
            r"open \\.\echo",
            "-c",
            "stats",
            "-c",
            "stats",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

        drop(child.stdout.take());
        let ended = Ended::from(child.wait_with_output().unwrap());

        assert!(ended.code.is_some(), "a signal ended it");
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("roken pipe"), "{}", ended.stderr);
    }
}

mod sockets {
    use super::*;

    /// The program in the foreground, serving a socket.
    struct Served {
        running: Running,
        socket: PathBuf,
        folder: TempDir,
    }

    impl Served {
        fn start(name: &str, more: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("socket");
            let driver = driver(name);
            let arguments = [&["run", &driver, "--socket", text(&socket)], more].concat();
            let mut running = Running::start(&mut command(&arguments));
            running.wait_for_socket(&socket);
            Self {
                running,
                socket,
                folder,
            }
        }

        fn ctl(&self, commands: &[&str]) -> Ended {
            run(&[&["ctl", text(&self.socket)], commands].concat())
        }

        /// Sends a signal and waits.
        fn end(self, signal: &str) -> Ended {
            self.running.signal(signal);
            let ended = self.running.wait();
            assert!(!self.socket.exists(), "the socket is left behind");
            ended
        }
    }

    /// A client that speaks the protocol itself.
    struct Raw {
        reader: BufReader<UnixStream>,
    }

    impl Raw {
        fn connect(served: &Served) -> Self {
            let stream = UnixStream::connect(&served.socket).unwrap();
            stream.set_read_timeout(Some(patience())).unwrap();
            Self {
                reader: BufReader::new(stream),
            }
        }

        fn send(&mut self, line: &[u8]) -> Option<Value> {
            // The server may have closed already; its last words count.
            let _ = self.reader.get_mut().write_all(line).is_ok();
            let mut reply = String::new();
            match self.reader.read_line(&mut reply) {
                Ok(0) | Err(_) => None,
                Ok(_) => Some(serde_json::from_str(&reply).unwrap()),
            }
        }

        fn command(&mut self, command: &str) -> Value {
            let request = serde_json::json!({ "command": command });
            self.send(format!("{request}\n").as_bytes()).unwrap()
        }
    }

    #[test]
    fn signals_end_the_run_and_remove_the_socket() {
        if !has_kvm() {
            return;
        }
        for signal in ["INT", "TERM"] {
            let served = Served::start("echo", &[]);

            let answered = served.ctl(&["stats"]);
            let ended = served.end(signal);

            answered.assert_code(0);
            ended.assert_code(0);
        }
    }

    #[test]
    fn signal_ends_a_driver_that_loops() {
        if !has_kvm() {
            return;
        }
        let served = Served::start("faulty", &["--timeout", "300"]);
        let mut client = Raw::connect(&served);
        client.command(r"open \\.\faulty");
        client
            .reader
            .get_mut()
            .write_all(b"{\"command\": \"ioctl 0x222010\"}\n")
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let signalled = Instant::now();

        let ended = served.end("TERM");

        ended.assert_code(0);
        assert!(signalled.elapsed() < patience());
    }

    #[test]
    fn signal_leaves_a_whole_trace_behind() {
        if !has_kvm() {
            return;
        }
        let (folder, trace) = file("trace", b"");
        let served = Served::start("ioperm", &["--trace", text(&trace)]);
        served
            .ctl(&[r"open \\.\ioperm", "inb 0x379"])
            .assert_code(0);

        served.end("TERM").assert_code(0);

        let trace = std::fs::read_to_string(trace).unwrap();
        assert!(trace.ends_with('\n'), "{trace}");
        assert!(trace.contains("port read u8 0x379"), "{trace}");
        drop(folder);
    }

    #[test]
    fn clients_have_maps_of_their_own() {
        if !has_kvm() {
            return;
        }
        let served = Served::start("ioperm", &[]);
        let mut granted = Raw::connect(&served);
        let mut other = Raw::connect(&served);

        let open = granted.command(r"open \\.\ioperm");
        let allowed = granted.command("inb 0x379");
        let denied = other.command("inb 0x379");
        drop(granted);
        let later = served.ctl(&["inb 0x379"]);

        assert_eq!(open["ok"], true, "{open}");
        assert_eq!(allowed["ok"], true, "{allowed}");
        assert_eq!(denied["status"], "STATUS_PRIVILEGED_INSTRUCTION");
        assert_eq!(denied["exit_code"], 1);
        later.assert_code(1);
        served.end("TERM").assert_code(0);
    }

    #[test]
    fn garbage_is_answered_and_the_next_client_served() {
        if !has_kvm() {
            return;
        }
        let served = Served::start("echo", &[]);

        for garbage in [
            &b"\n"[..],
            b"hello\n",
            b"{\"command\": 7}\n",
            b"{\"command\": \"stats\", \"more\": 1}\n",
            b"{\"command\": \"fly\"}\n",
            b"\xFF\xFE\x00\n",
            b"[[[[[[[[[[[[[[[[[[[[[\n",
        ] {
            let reply = Raw::connect(&served).send(garbage).unwrap();
            assert_eq!(reply["ok"], false, "{garbage:?}: {reply}");
            assert_eq!(reply["exit_code"], 2, "{garbage:?}: {reply}");
        }
        // No end of a line, however long.
        let endless = Raw::connect(&served).send(&vec![b'x'; 9 << 20]);
        assert!(endless.is_none_or(|reply| reply["ok"] == false));
        // Half a request, then nothing.
        drop(UnixStream::connect(&served.socket).map(|mut stream| stream.write_all(b"{\"comm")));

        served.ctl(&[r"open \\.\echo", "stats"]).assert_code(0);
        served.end("TERM").assert_code(0);
    }

    #[test]
    fn crash_ends_the_run_with_exit_code_4_for_all() {
        if !has_kvm() {
            return;
        }
        let served = Served::start("faulty", &[]);
        let mut bystander = Raw::connect(&served);
        bystander.command(r"open \\.\faulty");

        let ctl = served.ctl(&[r"open \\.\faulty", "ioctl 0x222000"]);
        let ended = served.running.wait();

        ctl.assert_code(4);
        assert!(ctl.stdout.contains("SYSTEM_SERVICE_EXCEPTION"), "{ctl:#?}");
        ended.assert_code(4);
        assert!(!served.socket.exists());
        drop(served.folder);
    }

    #[test]
    fn socket_in_use_is_refused_and_a_stale_one_replaced() {
        if !has_kvm() {
            return;
        }
        let served = Served::start("echo", &[]);
        let second = run(&["run", &driver("echo"), "--socket", text(&served.socket)]);
        second.assert_code(2);
        assert!(second.stderr.contains("in use"), "{}", second.stderr);
        served.ctl(&["stats"]).assert_code(0);

        // Killed: the socket stays, and nobody listens.
        let socket = served.socket.clone();
        served.running.signal("KILL");
        assert_eq!(served.running.wait().code, None);
        assert!(socket.exists());
        let mut next = Running::start(&mut command(&[
            "run",
            &driver("echo"),
            "--socket",
            text(&socket),
        ]));
        next.wait_for_socket(&socket);
        next.signal("TERM");
        next.wait().assert_code(0);
    }

    #[test]
    fn file_in_the_sockets_place_is_kept() {
        let (_folder, path) = file("precious", b"data");

        let ended = run(&["run", &driver("echo"), "--socket", text(&path)]);

        ended.assert_code(2);
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn ctl_without_a_server_is_exit_code_1() {
        let (_folder, path) = file("nothing", b"");

        for socket in ["/nowhere/socket", text(&path)] {
            let ended = run(&["ctl", socket, "stats"]);
            ended.assert_code(1);
            assert!(ended.stderr.contains("cannot connect"), "{}", ended.stderr);
        }
    }

    #[test]
    fn ctl_survives_a_server_that_talks_nonsense() {
        for nonsense in [
            &b""[..],
            b"\n",
            b"hello\n",
            b"{}\n",
            b"{\"text\": 5}\n",
            b"{\"exit_code\": 99, \"text\": \"\\u001b[2J\"}\n",
            b"\xFF\xFF\n",
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = String::new();
                BufReader::new(stream.try_clone().unwrap())
                    .read_line(&mut request)
                    .unwrap();
                stream.write_all(nonsense).unwrap();
            });

            let ended = run(&["ctl", text(&path), "stats"]);

            server.join().unwrap();
            ended.assert_code(1);
            // Nothing that a terminal would obey.
            assert!(!ended.stdout.contains('\x1B') && !ended.stderr.contains('\x1B'));
        }
    }
}
