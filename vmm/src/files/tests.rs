use std::os::unix::fs::symlink;

use super::status::*;
use super::*;
use abi::file::{FileCall, open_flag, open_word};

const OPEN: u8 = 1;
const CREATE: u8 = 2;
const OPEN_IF: u8 = 3;
const READ: u32 = 1;
const WRITE: u32 = 3;

fn files(path: &Path, is_read_only: bool) -> Files {
    Files::new(&FilesOption {
        path: path.to_owned(),
        is_read_only,
    })
    .unwrap()
}

fn open(
    files: &mut Files,
    path: &str,
    access: u32,
    disposition: u8,
    flags: u8,
) -> Result<u64, Status> {
    let mut buffer: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let arguments = [
        FileCall::Open as u64,
        0,
        0,
        0,
        open_word(access, disposition, flags, 7),
        0,
    ];
    match files.call(arguments, &mut buffer) {
        [0, id, ..] => Ok(id),
        [status, ..] => Err(u32::try_from(status).unwrap()),
    }
}

fn call(
    files: &mut Files,
    call: FileCall,
    id: u64,
    argument: u64,
    buffer: &mut Vec<u8>,
) -> [u64; 4] {
    files.call([call as u64, id, 0, 0, argument, 0], buffer)
}

#[test]
fn names_are_found_without_case_and_data_arrives() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("Windows")).unwrap();
    std::fs::write(folder.path().join("Windows/Mixed.TXT"), "hello").unwrap();
    let mut files = files(folder.path(), false);
    let id = open(&mut files, "WINDOWS\\mixed.txt", WRITE, OPEN, 0).unwrap();
    let mut buffer = vec![0; 3];
    assert_eq!(
        call(&mut files, FileCall::Read, id, 1, &mut buffer),
        [0, 3, 0, 0]
    );
    assert_eq!(buffer, b"ell");
    assert_eq!(
        call(
            &mut files,
            FileCall::Write,
            id,
            u64::MAX,
            &mut b"!".to_vec()
        ),
        [0, 1, 6, 0]
    );
    assert_eq!(
        std::fs::read(folder.path().join("Windows/Mixed.TXT")).unwrap(),
        b"hello!"
    );
    assert_eq!(
        call(&mut files, FileCall::Read, id, 6, &mut vec![0; 1])[0],
        u64::from(END_OF_FILE)
    );
    assert_eq!(call(&mut files, FileCall::Close, id, 0, &mut vec![])[0], 0);
    assert_eq!(
        call(&mut files, FileCall::Close, id, 0, &mut vec![])[0],
        u64::from(INVALID_HANDLE)
    );
}

#[test]
fn nothing_leads_out_of_the_directory() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    symlink(outside.path(), folder.path().join("link")).unwrap();
    symlink(
        outside.path().join("secret"),
        folder.path().join("file-link"),
    )
    .unwrap();
    symlink("d", folder.path().join("inner-link")).unwrap();
    symlink("/proc/self/root", folder.path().join("magic")).unwrap();
    let mut files = files(folder.path(), false);
    for (path, expected) in [
        ("..", OBJECT_NAME_INVALID),
        ("..\\secret", OBJECT_NAME_INVALID),
        ("d\\..\\..\\secret", OBJECT_NAME_INVALID),
        (".", OBJECT_NAME_INVALID),
        ("d\\...", OBJECT_NAME_INVALID),
        ("../secret", OBJECT_NAME_INVALID),
        ("/etc/passwd", OBJECT_NAME_INVALID),
        ("d\\\\x", OBJECT_NAME_INVALID),
        ("\\etc", OBJECT_NAME_INVALID),
        ("d\\x\0y", OBJECT_NAME_INVALID),
        ("link\\secret", ACCESS_DENIED),
        ("LINK\\secret", ACCESS_DENIED),
        ("file-link", ACCESS_DENIED),
        ("inner-link\\x", ACCESS_DENIED),
        ("magic\\etc\\passwd", ACCESS_DENIED),
        ("nowhere\\x", OBJECT_PATH_NOT_FOUND),
        ("nowhere", OBJECT_NAME_NOT_FOUND),
    ] {
        assert_eq!(
            open(&mut files, path, READ, OPEN, 0),
            Err(expected),
            "{path}"
        );
    }
    // A link is not made into a file either.
    assert_eq!(
        open(&mut files, "file-link", WRITE, OPEN_IF, 0),
        Err(ACCESS_DENIED)
    );
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"s");
}

#[test]
fn devices_and_streams_are_no_names() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = files(folder.path(), false);
    for path in [
        "CON",
        "nul",
        "Nul.txt",
        "aux",
        "PRN.a.b",
        "COM1",
        "lpt9.log",
        "CONIN$",
        "conout$",
        "NUL ",
        "COM¹",
        "a:stream",
        "a::$DATA",
        "a*",
        "a?",
        "a<b",
        "a>b",
        "a|b",
        "a\"b",
        "a\u{1}b",
        "x\\CON\\y",
    ] {
        assert_eq!(
            open(&mut files, path, WRITE, OPEN_IF, 0),
            Err(OBJECT_NAME_INVALID),
            "{path}"
        );
    }
    for path in ["CONX", "COM0", "COM10", "NULL.txt", "LPT", "a b", "..a"] {
        assert!(open(&mut files, path, WRITE, CREATE, 0).is_ok(), "{path}");
    }
    let long = "x".repeat(256);
    assert_eq!(
        open(&mut files, &long, WRITE, CREATE, 0),
        Err(OBJECT_NAME_INVALID)
    );
}

#[test]
fn fifos_and_sockets_are_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let mut files = files(folder.path(), false);
    for name in ["fifo", "socket"] {
        assert_eq!(
            open(&mut files, name, READ, OPEN, 0),
            Err(ACCESS_DENIED),
            "{name}"
        );
    }
}

#[test]
fn a_read_only_directory_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "a").unwrap();
    let mut files = files(folder.path(), true);
    for (path, access, disposition, flags) in [
        ("a", WRITE, OPEN, 0),
        ("b", READ, CREATE, 0),
        ("a", READ, 5, 0),
        ("a", READ, OPEN, open_flag::DELETE_ON_CLOSE),
        ("d", READ, CREATE, open_flag::DIRECTORY),
        ("a", 0x1_0000, OPEN, 0),
    ] {
        assert_eq!(
            open(&mut files, path, access, disposition, flags),
            Err(MEDIA_WRITE_PROTECTED),
            "{path}"
        );
    }
    let id = open(&mut files, "a", READ, OPEN, 0).unwrap();
    for (number, argument) in [
        (FileCall::SetDelete, 1),
        (FileCall::Rename, 0),
        (FileCall::SetBasic, 0),
    ] {
        let mut buffer = vec![b'b', 0];
        assert_eq!(
            call(&mut files, number, id, argument, &mut buffer)[0],
            u64::from(MEDIA_WRITE_PROTECTED)
        );
    }
    assert_eq!(
        call(&mut files, FileCall::SetSize, id, 0, &mut vec![])[0],
        u64::from(ACCESS_DENIED)
    );
    assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"a");
}

#[test]
fn directories_are_made_listed_and_deleted_when_empty() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = files(folder.path(), false);
    let d = open(&mut files, "d", READ, CREATE, open_flag::DIRECTORY).unwrap();
    assert_eq!(
        open(&mut files, "D", READ, CREATE, open_flag::DIRECTORY),
        Err(OBJECT_NAME_COLLISION)
    );
    assert_eq!(
        open(&mut files, "d", READ, OPEN, open_flag::NO_DIRECTORY),
        Err(FILE_IS_A_DIRECTORY)
    );
    let f = open(&mut files, "d\\f", WRITE, CREATE, 0).unwrap();
    assert_eq!(
        open(&mut files, "d\\f", READ, OPEN, open_flag::DIRECTORY),
        Err(NOT_A_DIRECTORY)
    );
    assert_eq!(
        open(&mut files, "d\\f\\g", READ, OPEN, 0),
        Err(OBJECT_PATH_NOT_FOUND)
    );
    assert_eq!(
        call(&mut files, FileCall::SetDelete, d, 1, &mut vec![])[0],
        u64::from(DIRECTORY_NOT_EMPTY)
    );
    let mut buffer = vec![0; 1000];
    let [status, count, bytes, _] = call(&mut files, FileCall::List, d, 0, &mut buffer);
    assert_eq!((status, count, bytes), (0, 3, buffer.len() as u64));
    assert_eq!(
        call(&mut files, FileCall::List, d, 3, &mut vec![0; 1000])[0],
        u64::from(NO_MORE_FILES)
    );
    assert_eq!(
        call(&mut files, FileCall::SetDelete, f, 1, &mut vec![])[0],
        0
    );
    assert_eq!(call(&mut files, FileCall::Close, f, 0, &mut vec![])[0], 0);
    assert_eq!(
        call(&mut files, FileCall::SetDelete, d, 1, &mut vec![])[0],
        0
    );
    assert_eq!(call(&mut files, FileCall::Close, d, 0, &mut vec![])[0], 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let root = open(&mut files, "", READ, OPEN, 0).unwrap();
    assert_eq!(
        call(&mut files, FileCall::SetDelete, root, 1, &mut vec![])[0],
        u64::from(CANNOT_DELETE)
    );
}

#[test]
fn a_guest_may_ask_for_anything() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = files(folder.path(), false);
    assert_eq!(
        files.call([99, 0, 0, 0, 0, 0], &mut vec![])[0],
        u64::from(INVALID_PARAMETER)
    );
    assert_eq!(
        files.call([1, 0, 0, 0, 0, 0], &mut vec![0; 70_000])[0],
        u64::from(INVALID_PARAMETER)
    );
    assert_eq!(open(&mut files, "x", READ, 6, 0), Err(INVALID_PARAMETER));
    for number in 2..=13 {
        if number != FileCall::Volume as u64 {
            let status = files.call([number, 77, 0, 0, 0, 0], &mut vec![b'x', 0])[0];
            assert_eq!(status, u64::from(INVALID_HANDLE), "{number}");
        }
    }
    let id = open(&mut files, "x", WRITE, CREATE, 0).unwrap();
    for offset in [u64::MAX - 1, 1 << 63] {
        assert_ne!(
            call(&mut files, FileCall::Write, id, offset, &mut vec![1])[0],
            0
        );
        assert_ne!(
            call(&mut files, FileCall::SetSize, id, offset, &mut vec![])[0],
            0
        );
    }
    assert_eq!(
        call(&mut files, FileCall::SetBasic, id, 0, &mut vec![0; 8])[0],
        u64::from(INVALID_PARAMETER)
    );
    for _ in 1..MAX_OPEN {
        open(&mut files, "x", READ, OPEN, 0).unwrap();
    }
    assert_eq!(
        open(&mut files, "x", READ, OPEN, 0),
        Err(TOO_MANY_OPENED_FILES)
    );
}

#[test]
fn a_doomed_file_is_nobodys_and_goes_with_its_last_handle() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "x").unwrap();
    let mut files = files(folder.path(), false);
    let first = open(&mut files, "a", READ, OPEN, open_flag::DELETE_ON_CLOSE).unwrap();
    let second = open(&mut files, "A", READ, OPEN, 0).unwrap();
    let none = &mut Vec::new();
    assert_eq!(call(&mut files, FileCall::Cleanup, first, 0, none)[0], 0);
    assert_eq!(open(&mut files, "a", READ, OPEN, 0), Err(DELETE_PENDING));
    assert_eq!(
        call(&mut files, FileCall::Read, first, 0, &mut vec![0])[1],
        1
    );
    assert_eq!(call(&mut files, FileCall::Cleanup, second, 0, none)[0], 0);
    assert!(!folder.path().join("a").exists());
    assert_eq!(call(&mut files, FileCall::Close, first, 0, none)[0], 0);
    assert_eq!(call(&mut files, FileCall::Close, second, 0, none)[0], 0);
    let again = call(&mut files, FileCall::Cleanup, second, 0, none)[0];
    assert_eq!(again, u64::from(INVALID_HANDLE));
}
