//! The channel's client of wine/channel, built for Linux: against a driver, and against a VMM that lies.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use abi::client::{MAGIC, QueueLayout, Welcome};
use integration_tests::program::{Running, command};
use integration_tests::{has_kvm, skip_without_program};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use zerocopy::IntoBytes;

use crate::harness::root;

/// Builds the client's test program; `None` without a C compiler for that width.
fn build(folder: &Path, width: &str) -> Option<PathBuf> {
    let sources = root().join("wine/channel");
    let program = folder.join("echo");
    let mut command = Command::new("cc");
    command
        .args([
            width,
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pthread",
            "-o",
        ])
        .arg(&program)
        .arg(sources.join("tests/echo.c"));
    for name in ["channel", "connect", "queue", "call", "looking"] {
        command.arg(sources.join(format!("{name}.c")));
    }
    match command.output() {
        Ok(built) if built.status.success() => Some(program),
        // Many machines have no 32-bit C library; all that test have the other.
        Ok(built) if width == "-m64" => panic!("{}", String::from_utf8_lossy(&built.stderr)),
        _ => {
            skip_without_program(&format!(
                "the channel's C client, {width}: no C compiler for it"
            ));
            None
        }
    }
}

fn talks_to_a_driver(width: &str) {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = build(folder.path(), width) else {
        return;
    };
    let socket = folder.path().join("socket");
    let driver = root().join("images/drivers/amd64/echo.sys");
    let arguments = [
        "run",
        driver.to_str().unwrap(),
        "--socket",
        socket.to_str().unwrap(),
    ];
    let mut running = Running::start(&mut command(&arguments));
    running.wait_for_socket(&socket);

    let output = Command::new(&program).arg(&socket).output().unwrap();

    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

#[test]
fn c_client_of_64_bits_talks_to_a_driver() {
    talks_to_a_driver("-m64");
}

#[test]
fn c_client_of_32_bits_talks_to_a_driver() {
    talks_to_a_driver("-m32");
}

/// What a VMM sends that is not one.
struct Lie {
    name: &'static str,
    welcome: fn(&mut Welcome),
    is_sealed: bool,
    bytes: fn(u64) -> u64,
    descriptors: usize,
}

fn honest(layout: &QueueLayout) -> Welcome {
    Welcome {
        magic: MAGIC,
        version: 1,
        status: 0,
        queue_size: u32::from(layout.size),
        process: 5,
        in_flight_max: 1024,
        transfer_max: 16 << 20,
        descriptors: layout.descriptors,
        available: layout.available,
        used: layout.used,
        data: layout.data,
        data_bytes: layout.data_bytes,
        driver_abi: 1,
        reserved: 0,
    }
}

/// Serves one client with a lie; what the program said.
fn serve(program: &Path, folder: &Path, lie: &Lie) -> Output {
    let socket = folder.join("liar");
    let _ = std::fs::remove_file(&socket).is_ok();
    let listener = UnixListener::bind(&socket).unwrap();
    let child = Command::new(program)
        .arg(&socket)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut hello = [0; 32];
    stream.read_exact(&mut hello).unwrap();
    let layout = QueueLayout::new(64, 1 << 20).unwrap();
    let mut welcome = honest(&layout);
    (lie.welcome)(&mut welcome);
    let memory = rustix::fs::memfd_create("liar", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&memory, (lie.bytes)(layout.bytes())).unwrap();
    if lie.is_sealed {
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    }
    // Used elements of chains that the client has not made available.
    let index = layout.used_index();
    rustix::io::pwrite(&memory, &7_u16.to_le_bytes(), index).unwrap();
    for entry in 0..7 {
        let element = [0xFF_u8; 8];
        rustix::io::pwrite(&memory, &element, layout.used_entry(entry)).unwrap();
    }
    let kick = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let (call, _write_end) = rustix::pipe::pipe().unwrap();
    let owned: [OwnedFd; 3] = [memory, kick, call];
    let borrowed: Vec<BorrowedFd<'_>> = owned
        .iter()
        .take(lie.descriptors)
        .map(AsFd::as_fd)
        .collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let bytes = [IoSlice::new(welcome.as_bytes())];
    rustix::net::sendmsg(&stream, &bytes, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    // Nothing more comes: a client that believed it gets no answers.
    rustix::net::shutdown(&stream, rustix::net::Shutdown::Write).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn c_client_believes_no_lying_vmm() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = build(folder.path(), "-m64") else {
        return;
    };
    let all = |bytes| bytes;
    let lies = [
        Lie {
            name: "magic",
            welcome: |welcome| welcome.magic[1] = 0,
            is_sealed: true,
            bytes: all,
            descriptors: 3,
        },
        Lie {
            name: "version",
            welcome: |welcome| welcome.version = 9,
            is_sealed: true,
            bytes: all,
            descriptors: 3,
        },
        Lie {
            name: "queue size",
            welcome: |welcome| welcome.queue_size = 1 << 20,
            is_sealed: true,
            bytes: all,
            descriptors: 3,
        },
        Lie {
            name: "no power of two",
            welcome: |welcome| welcome.queue_size = 65,
            is_sealed: true,
            bytes: all,
            descriptors: 3,
        },
        Lie {
            name: "used ring",
            welcome: |welcome| welcome.used = u64::MAX - 3,
            is_sealed: true,
            bytes: all,
            descriptors: 3,
        },
        Lie {
            name: "data",
            welcome: |welcome| welcome.data_bytes = 1 << 40,
            is_sealed: true,
            bytes: all,
            descriptors: 3,
        },
        Lie {
            name: "less data",
            welcome: |welcome| welcome.data_bytes = 1 << 16,
            is_sealed: true,
            bytes: all,
            descriptors: 3,
        },
        Lie {
            name: "unsealed",
            welcome: |_| {},
            is_sealed: false,
            bytes: all,
            descriptors: 3,
        },
        Lie {
            name: "small memory",
            welcome: |_| {},
            is_sealed: true,
            bytes: |bytes| bytes - 1,
            descriptors: 3,
        },
        Lie {
            name: "two descriptors",
            welcome: |_| {},
            is_sealed: true,
            bytes: all,
            descriptors: 2,
        },
    ];
    for lie in &lies {
        let output = serve(&program, folder.path(), lie);
        let errors = String::from_utf8_lossy(&output.stderr);
        // 2: it was not connected.
        assert_eq!(output.status.code(), Some(2), "{}: {errors}", lie.name);
    }
    // A welcome that is true, and used elements that are not: the first request ends with the connection.
    let honest = Lie {
        name: "used elements",
        welcome: |_| {},
        is_sealed: true,
        bytes: all,
        descriptors: 3,
    };
    let output = serve(&program, folder.path(), &honest);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("rf_call(channel, &open) == 0"), "{errors}");
}
