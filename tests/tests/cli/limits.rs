//! `--cpu`, `--max-memory`, and what an idle driver does.

use super::launching::Runs;
use super::*;
use integration_tests::is_lane;
use std::time::Duration;

/// Fields of a process's threads, such as schedstat, by the thread's name. One that ends meanwhile is left out.
fn threads(pid: &Value, file: &str) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| {
            let task = task.unwrap().path();
            let name = std::fs::read_to_string(task.join("comm")).ok()?;
            let text = std::fs::read_to_string(task.join(file)).ok()?;
            Some((name.trim().to_owned(), text))
        })
        .collect()
}

/// Time on a processor of the thread that runs the guest.
fn processor_time(pid: &Value) -> Duration {
    let threads = threads(pid, "schedstat");
    let (_, schedstat) = threads.iter().find(|(name, _)| name == "vcpu").unwrap();
    let nanoseconds = schedstat.split(' ').next().unwrap().parse().unwrap();
    Duration::from_nanos(nanoseconds)
}

/// Has the faulty driver loop, without waiting for it.
fn begin_to_loop(socket: &Path) -> UnixStream {
    let mut client = UnixStream::connect(socket).unwrap();
    for command in [r"open \\.\faulty", "ioctl 0x222010"] {
        writeln!(client, "{}", serde_json::json!({ "command": command })).unwrap();
    }
    client
}

/// The faulty driver, by the name f.
fn with_a_fifth_of_a_processor() -> Runs {
    let runs = Runs::new();
    runs.detach(&[
        &driver("faulty"),
        "--name",
        "f",
        "--cpu",
        "20",
        "--timeout",
        "300",
    ]);
    runs
}

/// Waits until so much processor time was used; it was a fifth of the time that has gone, and `ahead` at most.
fn assert_share(processor_time: impl Fn() -> Duration, enough: Duration, ahead: Duration) {
    let (began, before) = (Instant::now(), processor_time());
    let used = loop {
        let used = processor_time().saturating_sub(before);
        if used > enough {
            break used;
        }
        assert!(began.elapsed() < patience(), "it does not run: {used:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let allowed = began.elapsed() / 5 + ahead;
    assert!(used <= allowed, "{used:?} in {:?}", began.elapsed());
}

#[test]
fn guest_gets_no_more_than_its_share_of_a_processor() {
    if !has_kvm() {
        return;
    }
    let runs = with_a_fifth_of_a_processor();
    let pid = &runs.listed()[0]["pid"];
    let _client = begin_to_loop(&runs.path().join("f.sock"));

    // A quantum and two of the kernel's ticks may be used before it is held back.
    assert_share(
        || processor_time(pid),
        Duration::from_millis(200),
        Duration::from_millis(25),
    );
    // It ends as soon as ever.
    runs.run(&["stop", "f"]).assert_code(0);
}

/// Sends lines that are no requests, as fast as they are answered; the guest has nothing to do with them.
fn begin_to_chatter(socket: &Path) {
    let client = UnixStream::connect(socket).unwrap();
    let mut replies = client.try_clone().unwrap();
    std::thread::spawn(move || {
        let lines = "x\n".repeat(1000);
        while (&client).write_all(lines.as_bytes()).is_ok() {}
    });
    std::thread::spawn(move || std::io::copy(&mut replies, &mut std::io::sink()));
}

#[test]
fn clients_are_within_the_share_too() {
    if !has_kvm() {
        return;
    }
    let runs = with_a_fifth_of_a_processor();
    let pid = &runs.listed()[0]["pid"];
    let of_all = || -> Duration {
        let threads = threads(pid, "schedstat");
        let limited = threads.iter().filter(|(name, _)| name != "watchdog");
        let nanoseconds = limited.map(|(_, text)| text.split(' ').next().unwrap().parse::<u64>());
        Duration::from_nanos(nanoseconds.map(Result::unwrap).sum())
    };
    let socket = runs.path().join("f.sock");
    let _client = begin_to_loop(&socket);
    for _ in 0..6 {
        begin_to_chatter(&socket);
    }

    // Of seven threads each a quantum and two of the kernel's ticks.
    assert_share(
        of_all,
        Duration::from_millis(800),
        Duration::from_millis(175),
    );
    runs.run(&["stop", "f"]).assert_code(0);
}

#[test]
fn deadline_does_not_run_while_the_guest_is_held_back() {
    // The emulated machine needs more than these times for its start alone.
    if !has_kvm() || is_lane() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[
        &driver("faulty"),
        "--name",
        "f",
        "--cpu",
        "5",
        "--timeout",
        "0.3",
    ]);
    let began = Instant::now();

    let hung = runs.run(&["ctl", "f", r"open \\.\faulty", "ioctl 0x222010"]);

    hung.assert_code(6);
    // Of all the time, at most a few twentieths are the guest's.
    assert!(
        began.elapsed() > Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn shares_are_checked() {
    for bad in ["0", "101", "x"] {
        run(&["run", "x.sys", "--cpu", bad]).assert_code(2);
    }
}

#[test]
fn clients_that_there_is_no_memory_for_are_refused() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("echo"), "--name", "e", "--max-memory", "56M"]);
    let socket = runs.path().join("e.sock");
    let connect = || ringfence_client::Connection::connect_with(&socket, 4 << 20);

    let mut clients = Vec::new();
    let refused = loop {
        match connect() {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        assert!(clients.len() < 14, "more than there is memory for");
    };

    // STATUS_INSUFFICIENT_RESOURCES
    assert_eq!(refused.status(), 0xC000_009A);
    assert!(!clients.is_empty());
    for client in &clients {
        let handle = client.open(r"\\.\echo").unwrap();
        let echo = client.ioctl(handle, 0x0022_2000, &[7; 64], 64).unwrap();
        assert_eq!((echo.status, echo.output.len()), (0, 64));
    }
    // Room for one.
    clients.pop();
    let started = Instant::now();
    while connect().is_err() {
        assert!(started.elapsed() < patience(), "the room is not given back");
    }
    // A text client's transfer.
    let big = runs.run(&["ctl", "e", r"open \\.\echo", "read 1048576"]);
    big.assert_code(2);
    assert!(format!("{big:?}").contains("--max-memory"), "{big:#?}");
    let small = runs.run(&["ctl", "e", r"open \\.\echo", "write \"x\"", "read 16"]);
    small.assert_code(0);
    // What stands behind it.
    let [run] = runs.listed().try_into().unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", run["pid"])).unwrap();
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max data size"))
        .unwrap();
    let soft: u64 = limit.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(soft < 56 << 20, "{limit}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", run["pid"])).unwrap();
    let kibibytes = |name| -> u64 {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let taken = kibibytes("VmData:") + kibibytes("RssShmem:");
    assert!(taken <= 56 << 10, "{taken} KiB");
    runs.run(&["stop", "e"]).assert_code(0);
}

#[test]
fn limit_below_what_the_guest_takes_is_refused() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let echo = driver("echo");
    let recording = runs.path().join("run.rec");
    let run = ["run", &echo, "--name", "e", "--detach", "--max-memory"];
    for (max, more) in [
        ("1M", &[][..]),
        ("10M", &[]),
        ("20M", &[]),
        ("24M", &[]),
        ("28M", &[]),
        // The recording's buffers.
        ("29M", &["--record", text(&recording)]),
    ] {
        let ended = runs.run(&[&run[..], &[max], more].concat());
        ended.assert_code(2);
        assert!(
            ended
                .stderr
                .contains(&format!("--max-memory {max} is too little"))
                && ended.stderr.contains("M or more"),
            "{ended:#?}"
        );
    }
    assert!(runs.listed().is_empty());
}

#[test]
fn idle_driver_does_not_wake_up() {
    if !has_kvm() {
        return;
    }
    for restart in ["never", "on-crash"] {
        let runs = Runs::new();
        runs.detach(&[
            &driver("echo"),
            "--name",
            "e",
            "--restart",
            restart,
            "--cpu",
            "50",
        ]);
        let client = ringfence_client::Connection::connect(runs.path().join("e.sock")).unwrap();
        client.open(r"\\.\echo").unwrap();
        let state = std::fs::read_to_string(runs.path().join("e/state.json")).unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        let processes = [&state["pid"], &state["worker"]["pid"]];
        let switches = || -> Vec<(String, String)> {
            let of_each = processes.iter().filter(|pid| pid.is_u64());
            of_each
                .flat_map(|pid| threads(pid, "status"))
                .map(|(name, status)| {
                    let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
                    (name, counts.collect::<Vec<_>>().join(" "))
                })
                .collect()
        };
        let started = Instant::now();
        loop {
            let before = switches();
            std::thread::sleep(Duration::from_secs(2));
            let after = switches();
            if after == before {
                break;
            }
            assert!(started.elapsed() < patience(), "{before:#?}\n{after:#?}");
        }
        drop(client);
    }
}
