//! Tests of the socket.

use super::*;
use crate::session::fake::FakeMachine;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The longest that anything here may take.
const LONG: Duration = Duration::from_secs(30);

struct Running {
    path: PathBuf,
    stop: EventFd,
    live: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        Self::start_for(Access::default())
    }

    fn start_for(access: Access) -> Self {
        Self::start_with(access, LONG)
    }

    fn start_with(access: Access, patience: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let mut server = Server::bind(&path).unwrap();
        server.admit(access, Some(&path)).unwrap();
        server.patience = patience;
        let stop = EventFd::new(0).unwrap();
        let theirs = stop.try_clone().unwrap();
        let fake = FakeMachine::default();
        let live = Arc::clone(&fake.live);
        let machine: Arc<dyn RunningMachine> = Arc::new(fake);
        let thread = thread::spawn(move || server.serve(&machine, &theirs).unwrap());
        Self {
            path,
            stop,
            live,
            thread: Some(thread),
            _directory: directory,
        }
    }

    fn ask(&self, lines: &str) -> Vec<serde_json::Value> {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.write_all(lines.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        BufReader::new(stream)
            .lines()
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect()
    }

    /// A client that has had an answer.
    fn served(&self) -> BufReader<UnixStream> {
        let mut client = BufReader::new(UnixStream::connect(&self.path).unwrap());
        client.get_ref().set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(stats(&mut client)["ok"], true);
        client
    }

    /// Waits until so many clients are served.
    fn wait_for_clients(&self, count: u64) {
        let began = Instant::now();
        while self.live.load(Ordering::SeqCst) != count {
            assert!(began.elapsed() < LONG, "clients are left behind");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(mut self) -> PathBuf {
        self.stop.write(1).unwrap();
        self.thread.take().unwrap().join().unwrap();
        self.path.clone()
    }
}

fn stats(client: &mut BufReader<UnixStream>) -> serde_json::Value {
    client
        .get_mut()
        .write_all(b"{\"command\":\"stats\"}\n")
        .unwrap();
    let mut answer = String::new();
    client.read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn commands_are_answered_in_order() {
    let running = Running::start();
    let replies = running.ask("{\"command\":\"open \\\\\\\\.\\\\fake\"}\n{\"command\":\"inb 1\"}\nnonsense\n{\"command\":\"frob\"}\n");
    assert_eq!(
        replies[0]["text"],
        r"open \\.\fake: STATUS_SUCCESS, handle 0x4"
    );
    assert_eq!(replies[1]["value"], "0x00");
    assert_eq!(replies[2]["exit_code"], 2);
    assert_eq!(replies[3]["column"], 1);
    running.end();
}

#[test]
fn each_connection_is_a_process_that_ends_with_it() {
    let running = Running::start();
    running.ask("{\"command\":\"open \\\\\\\\.\\\\fake\"}\n");
    let replies = running.ask("{\"command\":\"inb 1\"}\n");
    assert_eq!(replies[0]["status"], "STATUS_PRIVILEGED_INSTRUCTION");
    let live = Arc::clone(&running.live);
    running.end();
    assert_eq!(live.load(Ordering::SeqCst), 0);
}

#[test]
fn crash_reaches_the_client_and_ends_the_connection() {
    let running = Running::start();
    let replies = running.ask("{\"command\":\"open \\\\\\\\.\\\\fake\"}\n{\"command\":\"ioctl 0xdead\"}\n{\"command\":\"stats\"}\n");
    assert_eq!(replies.len(), 2);
    assert_eq!(replies[1]["exit_code"], 4);
    running.end();
}

#[test]
fn idle_clients_do_not_keep_the_server() {
    let running = Running::start();
    let mut idle = UnixStream::connect(&running.path).unwrap();
    writeln!(idle, "{{\"command\":\"stats\"}}").unwrap();
    let mut first = [0];
    idle.read_exact(&mut first).unwrap();
    let path = running.end();
    assert!(!path.exists(), "the socket's file is gone");
}

/// Connects as another user, whose credentials the thread has from then on: Linux keeps them by thread.
#[expect(unsafe_code, reason = "libc's own setresuid changes all threads")]
fn connect_as(path: &Path, user: libc::uid_t, group: libc::gid_t) -> UnixStream {
    let path = path.to_owned();
    let connect = move || {
        let none: *const libc::gid_t = std::ptr::null();
        // SAFETY: no groups are read from a null pointer.
        let groups = unsafe { libc::syscall(libc::SYS_setgroups, 0, none) };
        // SAFETY: numbers alone; this thread does nothing but connect.
        let group = unsafe { libc::syscall(libc::SYS_setresgid, group, group, group) };
        // SAFETY: as above.
        let user = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
        assert_eq!((groups, group, user), (0, 0, 0));
        UnixStream::connect(path).unwrap()
    };
    thread::spawn(connect).join().unwrap()
}

#[test]
fn only_those_whom_the_policy_names_are_served() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can become another user.
        return;
    }
    let clients = crate::policy::clients::Clients {
        users: vec!["65533".to_owned()],
        groups: vec!["65531".to_owned()],
        socket_mode: 0o666,
    };
    let running = Running::start_for(Access::new(&clients).unwrap());
    let directory = running.path.parent().unwrap();
    std::fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    let metadata = running.path.metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&metadata), 65_531);
    for (user, group, is_served) in [
        (65_533, 65_532, true),
        (65_532, 65_531, true),
        (65_532, 65_532, false),
    ] {
        let mut text = connect_as(&running.path, user, group);
        text.write_all(b"{\"command\":\"stats\"}\n").unwrap();
        text.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        BufReader::new(text).read_line(&mut answer).unwrap();
        assert_eq!(
            !answer.contains("STATUS_ACCESS_DENIED"),
            is_served,
            "{answer}"
        );
        if !is_served {
            let mut channel = connect_as(&running.path, user, group);
            channel.write_all(b"\0RFchan\n").unwrap();
            let mut welcome = [0; 80];
            channel.read_exact(&mut welcome).unwrap();
            assert_eq!(
                welcome.get(12..16),
                Some(&0xC000_0022_u32.to_le_bytes()[..])
            );
        }
    }
    running.end();
}

#[test]
fn those_whom_the_policy_does_not_name_keep_nobody_out() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can become another user.
        return;
    }
    let clients = crate::policy::clients::Clients {
        users: Vec::new(),
        groups: Vec::new(),
        socket_mode: 0o666,
    };
    let running = Running::start_for(Access::new(&clients).unwrap());
    let directory = running.path.parent().unwrap();
    std::fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    // More than there are places, and they say nothing.
    let _silent: Vec<_> = (0..40)
        .map(|_| connect_as(&running.path, 65_532, 65_532))
        .collect();
    drop(running.served());
    running.end();
}

#[test]
fn silent_client_gives_its_place_back() {
    let running = Running::start_with(Access::default(), Duration::from_secs(1));
    let mut served = running.served();
    for begun in [&b""[..], b"{\"command"] {
        let mut silent = UnixStream::connect(&running.path).unwrap();
        silent.write_all(begun).unwrap();
        let mut answer = String::new();
        silent.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("no command"), "{answer}");
    }
    // One that has said something may be silent from then on, as it was meanwhile.
    assert_eq!(stats(&mut served)["ok"], true);
    running.end();
}

#[test]
fn more_clients_than_places_are_refused_in_their_protocol() {
    let running = Running::start();
    let served: Vec<_> = (0..32).map(|_| running.served()).collect();
    let refused = running.ask("{\"command\":\"stats\"}\n");
    assert_eq!(refused[0]["text"], "32 clients are connected already");
    let mut channel = UnixStream::connect(&running.path).unwrap();
    channel.write_all(b"\0RFchan\n").unwrap();
    let mut welcome = [0; 80];
    channel.read_exact(&mut welcome).unwrap();
    assert_eq!(
        welcome.get(12..16),
        Some(&0xC000_009A_u32.to_le_bytes()[..]),
        "STATUS_INSUFFICIENT_RESOURCES"
    );
    drop(served);
    running.wait_for_clients(0);
    drop(running.served());
    running.end();
}

#[test]
fn request_of_a_client_that_is_gone_is_given_up() {
    let running = Running::start();
    let pend = b"{\"command\":\"open \\\\\\\\.\\\\fake\"}\n{\"command\":\"ioctl 0xf0e7e4\"}\n";
    let mut patient = running.served();
    patient.get_mut().write_all(pend).unwrap();
    // It has said all that it wants to say, and waits for answers.
    let half = patient.get_ref().shutdown(std::net::Shutdown::Write);
    half.unwrap();
    let mut client = running.served();
    client.get_mut().write_all(pend).unwrap();
    let mut opened = String::new();
    client.read_line(&mut opened).unwrap();
    assert!(opened.contains("STATUS_SUCCESS"), "{opened}");

    drop(client);

    running.wait_for_clients(1);
    drop(patient);
    running.wait_for_clients(0);
    running.end();
}

#[test]
fn sockets_in_use_and_other_files_are_left_alone() {
    let running = Running::start();
    assert!(matches!(
        Server::bind(&running.path),
        Err(SocketError::InUse { .. })
    ));
    running.end();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(
        Server::bind(&file),
        Err(SocketError::NotASocket { .. })
    ));
    // A socket that was left behind is replaced.
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(
        Server::bind(&path)
            .map(|server| server
                .path()
                .unwrap()
                .metadata()
                .unwrap()
                .permissions()
                .mode()
                & 0o777)
            .unwrap(),
        0o600
    );
}
