//! `ringfence wine install`, `list` and `remove`.

use std::path::Path;

use crate::harness::{Moved, Prefix};

prefix_tests!(
    drivers_start_with_the_session,
    what_cannot_be_is_refused,
    prefix_with_a_long_path_has_its_sockets_elsewhere,
    ; everywhere:
    removal_leaves_no_trace,
);

fn removal_leaves_no_trace(prefix: &Prefix) {
    // Wine writes things of its own when a session ends for the first time.
    prefix.keep_session();
    prefix.end_session();
    let before = (prefix.registry(), prefix.files());
    prefix.install("echo", &[]);
    prefix.install("faulty", &["--name", "other"]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    prefix.run("echo", &["try-open"]);
    assert!(prefix.ringfence_folder().exists());

    // One runs, the other does not.
    for name in ["echo", "other"] {
        let ended = prefix.ringfence(&["wine", "remove", name]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    prefix.end_session();
    for (old, new) in before.0.lines().zip(prefix.registry().lines()) {
        assert_eq!(old, new);
    }
    assert_eq!(before.0, prefix.registry());
    assert_eq!(before.1, prefix.files());
}

fn drivers_start_with_the_session(prefix: &Prefix) {
    let driver = prefix.sample("echo");
    let ended = prefix.ringfence(&["wine", "install", driver.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");

    // The session in which it was installed goes on for some seconds.
    prefix.end_session();
    let text = prefix.run("echo", &["try-open", "methods"]);

    assert!(text.contains("open: ok"), "{text}{}", prefix.log());
    prefix.end_session();
    assert!(
        std::os::unix::net::UnixStream::connect(prefix.socket("echo")).is_err(),
        "the micro-VM ends with the session"
    );
}

fn prefix_with_a_long_path_has_its_sockets_elsewhere(prefix: &Prefix) {
    let moved = Moved::new(prefix, &"x".repeat(100));

    prefix.install("echo", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0, "{}", prefix.log());
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
    let listed = prefix.ringfence(&["wine", "list", "--json"]).objects();
    let socket = Path::new(listed[0]["socket"].as_str().unwrap()).to_owned();
    let folder = socket.parent().unwrap().to_owned();
    assert!(socket.exists() && !socket.starts_with(prefix.path().canonicalize().unwrap()));
    // A reboot takes such folders away.
    assert_eq!(prefix.service("stop", "echo"), 0);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(prefix.service("start", "echo"), 0, "{}", prefix.log());
    assert_eq!(prefix.service("stop", "echo"), 0);
    // And who makes it again may be somebody else.
    let everybodys = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&folder, everybodys).unwrap();
    assert_ne!(prefix.service("start", "echo"), 0);
    assert!(
        prefix.log().contains("others may write to"),
        "{}",
        prefix.log()
    );
    let removed = prefix.ringfence(&["wine", "remove", "echo"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert!(!folder.exists());
    drop(moved);
}

fn what_cannot_be_is_refused(prefix: &Prefix) {
    let folder = tempfile::tempdir().unwrap();
    let echo = prefix.sample("echo");
    let echo = echo.to_str().unwrap();
    let path = |name: &str, contents: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let no_driver = path("text.sys", "no driver");
    let no_policy = path("policy.toml", "[[port]]\nrange = 1\n");
    for (arguments, code, text) in [
        (vec!["install", &no_driver], 3, "is rejected"),
        (vec!["install", "/nonexistent.sys"], 2, "cannot read"),
        (vec!["install", echo, "--policy", &no_policy], 2, "backend"),
        (
            vec!["install", echo, "--policy", "/nonexistent"],
            2,
            "cannot read the policy",
        ),
        (
            vec!["install", echo, "--name", "a b"],
            2,
            "cannot be the service's name",
        ),
        (
            vec!["install", echo, "--prefix", folder.path().to_str().unwrap()],
            2,
            "is no Wine prefix",
        ),
        (
            vec!["install", echo, "--wine", "/nonexistent-wine"],
            1,
            "is Wine installed?",
        ),
        (vec!["remove", "nothing"], 2, "is not installed"),
        (vec!["remove", "../prefix"], 2, "is not installed"),
        (
            vec!["intercept", "off", "--policy", "x"],
            2,
            "goes with `on`",
        ),
    ] {
        let ended = prefix.ringfence(&[vec!["wine"], arguments.clone()].concat());
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(text), "{arguments:?}: {ended:?}");
        assert!(!prefix.ringfence_folder().exists(), "{arguments:?}");
    }
    prefix.install("echo", &[]);
    let twice = prefix.ringfence(&["wine", "install", echo]);
    assert_eq!(twice.code, Some(2), "{twice:?}");
    assert!(twice.stderr.contains("is installed already"), "{twice:?}");
    // A service of that name that is not ours is left alone.
    let foreign = prefix.ringfence(&["wine", "install", echo, "--name", "MountMgr"]);
    assert_eq!(foreign.code, Some(1), "{foreign:?}");
    assert!(foreign.stderr.contains("1073"), "{foreign:?}");
    let conf = Path::new("services/MountMgr.conf");
    assert!(!prefix.ringfence_folder().join(conf).exists());
}
