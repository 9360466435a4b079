//! Services that `ringfence wine install` has installed share a process of Wine's.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::harness::Prefix;

prefix_tests!(
    services_share_a_process_that_stays,
    service_starts_many_times_in_one_process,
    killed_process_takes_all_its_micro_vms_along,
    socket_that_is_left_behind_is_replaced,
);

/// Who has made the socket: a process of Wine's.
fn maker(socket: &Path) -> i32 {
    let stream = UnixStream::connect(socket).unwrap();
    let credentials = rustix::net::sockopt::socket_peercred(&stream).unwrap();
    credentials.pid.as_raw_nonzero().get()
}

fn services_share_a_process_that_stays(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.install("faulty", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    assert_eq!(prefix.service("start", "faulty"), 0);
    let process = maker(&prefix.socket("echo"));
    assert_eq!(maker(&prefix.socket("faulty")), process);

    // Both answer; what happens to one does not concern the other.
    let text = prefix.run("echo", &["methods"]);
    assert!(text.contains("methods: as it should be"), "{text}");
    prefix.run("faulty", &[]);
    let text = prefix.run("echo", &["methods"]);
    assert!(text.contains("methods: as it should be"), "{text}");

    for name in ["echo", "faulty"] {
        assert_eq!(prefix.service("stop", name), 0);
        assert!(!prefix.socket(name).exists(), "the micro-VM has ended");
    }
    assert_eq!(prefix.service("start", "faulty"), 0);
    assert_eq!(maker(&prefix.socket("faulty")), process, "it has stayed");
    prefix.run("faulty", &[]);
    // The host is a service as any other: without it the process ends with its last service.
    assert_eq!(prefix.service("stop", "ringfence"), 0);
    assert_eq!(prefix.service("stop", "faulty"), 0);
    assert_eq!(prefix.service("start", "echo"), 0);
    assert_ne!(maker(&prefix.socket("echo")), process);
}

fn service_starts_many_times_in_one_process(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.keep_session();
    let mut process = None;
    for _ in 0..8 {
        assert_eq!(prefix.service("start", "echo"), 0);
        let text = prefix.run("echo", &["methods", "try-open"]);
        assert!(text.contains("methods: as it should be"), "{text}");
        assert!(text.contains("open: ok"), "{text}");
        let maker = maker(&prefix.socket("echo"));
        assert_eq!(*process.get_or_insert(maker), maker);
        assert_eq!(prefix.service("stop", "echo"), 0);
        assert!(prefix.run("echo", &["try-open"]).contains("open: error 2"));
    }
}

fn killed_process_takes_all_its_micro_vms_along(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.install("faulty", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    assert_eq!(prefix.service("start", "faulty"), 0);
    let sockets = ["echo", "faulty"].map(|name| prefix.socket(name));
    let process = rustix::process::Pid::from_raw(maker(&sockets[0])).unwrap();

    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();

    prefix.wait_for(|| sockets.iter().all(|socket| !socket.exists()));
    // Wine goes on saying that they run, and starts them nevertheless.
    assert_eq!(prefix.service("start", "echo"), 0);
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
}

fn socket_that_is_left_behind_is_replaced(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.keep_session();
    let socket = prefix.socket("echo");
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());

    assert_eq!(prefix.service("start", "echo"), 0);

    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
    assert_eq!(prefix.service("stop", "echo"), 0);
    assert!(!socket.exists());
}
