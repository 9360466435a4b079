//! The control socket, and what comes in through it.

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
fn request_of_a_client_that_goes_away_is_cancelled_at_once() {
    if !has_kvm() {
        return;
    }
    let served = Served::start("echo", &["--timeout", "300"]);
    let mut client = Raw::connect(&served);
    client.command(r"open \\.\echo");
    // ECHO_WAIT
    client
        .reader
        .get_mut()
        .write_all(b"{\"command\": \"ioctl 0x222044 01000000 4\"}\n")
        .unwrap();

    drop(client);

    let mut other = Raw::connect(&served);
    let began = Instant::now();
    loop {
        let stats = other.command("stats");
        if stats["clients"] == 1 && stats["stats"]["processes"] == 1 {
            break;
        }
        assert!(began.elapsed() < patience(), "{stats}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    other.command(r"open \\.\echo");
    let released = other.command("ioctl 0x222048 - 4");
    assert_eq!(released["output"], "00000000", "{released}");
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
