use super::*;

fn values(text: &str) -> Vec<Change> {
    reg_text::parse(text, "drv").unwrap()
}

fn reg_error(text: &str) -> (usize, String) {
    reg_text::parse(text, "drv").unwrap_err()
}

const HEAD: &str = "Windows Registry Editor Version 5.00\r\n\r\n";
const SERVICE: &str = r"\Registry\Machine\System\CurrentControlSet\Services\drv";

#[test]
fn reg_text_with_all_its_forms() {
    let text = format!(
        "{HEAD}; a comment\r\n[HKEY_LOCAL_MACHINE\\Software\\x]\r\n@=\"default\"\r\n\
         \"a\\\\b\\\"c\"=\"d\\\\e\"\r\n\"n\"=dword:0000000a ; ten\r\n\"b\"=hex:01,02,\\\r\n  ff\r\n\
         \"m\"=hex(7):61,00,00,00,00,00\r\n\"gone\"=-\r\n\"empty\"=hex(0):\r\n[-HKLM\\Software\\y]\r\n[Parameters]\r\n"
    );
    assert_eq!(
        values(&text),
        [
            Change::Key(r"\Registry\Machine\Software\x".into()),
            Change::Value(String::new(), REG_SZ, string_data("default")),
            Change::Value("a\\b\"c".into(), REG_SZ, string_data("d\\e")),
            Change::Value("n".into(), REG_DWORD, vec![10, 0, 0, 0]),
            Change::Value("b".into(), REG_BINARY, vec![1, 2, 255]),
            Change::Value("m".into(), REG_MULTI_SZ, strings_data(["a"].into_iter())),
            Change::DeleteValue("gone".into()),
            Change::Value("empty".into(), 0, vec![]),
            Change::DeleteKey(r"\Registry\Machine\Software\y".into()),
            Change::Key(format!(r"{SERVICE}\Parameters")),
        ]
    );
}

#[test]
fn reg_errors_name_the_line() {
    for (text, line) in [
        ("", 1),
        ("hello", 1),
        (&*format!("{HEAD}\"a\"=\"b\""), 3),
        (&*format!("{HEAD}[HKLM\\x"), 3),
        (&*format!("{HEAD}[HKEY_DYN_DATA\\x]"), 3),
        (&*format!("{HEAD}[HKLM\\\\x]"), 3),
        (&*format!("{HEAD}[\\Device\\x]"), 3),
        (&*format!("{HEAD}[a]\r\n\"b\"=dword:+1"), 4),
        (&*format!("{HEAD}[a]\r\n\"b\"=dword:123456789"), 4),
        (&*format!("{HEAD}[a]\r\n\"b\"=hex:1g"), 4),
        (&*format!("{HEAD}[a]\r\n\"b\"=hex:100"), 4),
        (&*format!("{HEAD}[a]\r\n\"b\"=hex(z):00"), 4),
        (&*format!("{HEAD}[a]\r\n\"b\"=\"c"), 4),
        (&*format!("{HEAD}[a]\r\n\"b\"=\"c\" d"), 4),
        (&*format!("{HEAD}[a]\r\n\"b=1"), 4),
        (&*format!("{HEAD}[a]\r\n\r\n\"b\""), 5),
        (&*format!("{HEAD}[a]\r\n\"b\"=hex:00,\\\r\n01,\\\r\nxx"), 4),
    ] {
        let (found, message) = reg_error(text);
        assert_eq!(found, line, "{text}: {message}");
        assert!(!message.is_empty());
    }
}

#[test]
fn toml_text_with_all_its_forms() {
    let text = r#"
        ["Parameters"]
        Depth = 16
        On = true
        Name = "text"
        Names = ["one", "two"]
        "" = "default"
        Path = { expand = "%SystemRoot%\\x" }
        Large = { qword = 0x100000000 }
        Blob = { binary = "00 ff,10" }
        Old = { delete = true }
        Odd = { type = 8, binary = "0001" }
        ["HKLM\\Software\\gone"]
        delete-key = true
    "#;
    let changes = toml_text::parse(text, "drv").unwrap();
    for expected in [
        Change::Key(format!(r"{SERVICE}\Parameters")),
        Change::Value("Depth".into(), REG_DWORD, vec![16, 0, 0, 0]),
        Change::Value("On".into(), REG_DWORD, vec![1, 0, 0, 0]),
        Change::Value("Name".into(), REG_SZ, string_data("text")),
        Change::Value(
            "Names".into(),
            REG_MULTI_SZ,
            strings_data(["one", "two"].into_iter()),
        ),
        Change::Value(String::new(), REG_SZ, string_data("default")),
        Change::Value("Path".into(), REG_EXPAND_SZ, string_data(r"%SystemRoot%\x")),
        Change::Value("Large".into(), REG_QWORD, vec![0, 0, 0, 0, 1, 0, 0, 0]),
        Change::Value("Blob".into(), REG_BINARY, vec![0, 255, 16]),
        Change::DeleteValue("Old".into()),
        Change::Value("Odd".into(), 8, vec![0, 1]),
        Change::DeleteKey(r"\Registry\Machine\Software\gone".into()),
    ] {
        assert!(changes.contains(&expected), "{expected:?} in {changes:?}");
    }
    for bad in [
        "Depth = 1",
        "[a]\nx = -1",
        "[a]\nx = 0x100000000",
        "[a]\nx = 1.5",
        "[a]\nx = [1]",
        "[a]\nx = [\"\"]",
        "[a]\nx = { binary = \"0\" }",
        "[a]\nx = { nonsense = 1 }",
        "[a]\nx = { dword = 1, qword = 1 }",
        "[\"\\\\Device\"]",
        "[a",
    ] {
        assert!(toml_text::parse(bad, "drv").is_err(), "{bad}");
    }
}

#[test]
fn utf16_files_and_both_formats_come_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{HEAD}[HKEY_LOCAL_MACHINE\\Software\\ä]\r\n\"sz\"=\"x\\\"y\"\r\n\"raw\"=hex(1):61,00\r\n\"d\"=dword:ffffffff\r\n\
         \"q\"=hex(b):01,00,00,00,00,00,00,80\r\n\"m\"=hex(7):61,00,00,00,00,00\r\n\"e\"=hex(2):25,00,00,00\r\n\
         \"lone\"=hex(1):00,d8,00,00\r\n@=hex:\r\n"
    );
    let units: Vec<u8> = [0xFF, 0xFE]
        .into_iter()
        .chain(text.encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    let source = folder.path().join("in.REG");
    std::fs::write(&source, units).unwrap();
    let contents = read(&source, "drv").unwrap();
    let mut expected = decode_contents(&contents).unwrap();
    expected.sort_by_key(|change| format!("{change:?}"));
    for name in ["out.reg", "out.toml"] {
        let path = folder.path().join(name);
        std::fs::write(&path, "before").unwrap();
        save(&path, &contents).unwrap();
        let mut again = decode_contents(&read(&path, "drv").unwrap()).unwrap();
        again.sort_by_key(|change| format!("{change:?}"));
        assert_eq!(again, expected, "{name}");
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        3,
        "no temporary file is left"
    );
}

#[test]
fn a_guest_may_hand_back_anything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.reg");
    std::fs::write(&path, "kept").unwrap();
    let good = encode(&[
        Change::Key("\\Registry\\Machine\\a".into()),
        Change::Value("b".into(), 1, vec![1; 9]),
    ])
    .unwrap();
    for length in 0..good.len() {
        assert!(save(&path, &good[..length]).is_err(), "{length}");
    }
    let injected = encode(&[Change::Key("\\Registry\\Machine\\a]\r\n[b".into())]).unwrap();
    assert!(matches!(
        save(&path, &injected),
        Err(RegistryError::Damaged)
    ));
    let deleting = encode(&[Change::DeleteKey("\\Registry\\Machine\\a".into())]).unwrap();
    assert!(matches!(
        save(&path, &deleting),
        Err(RegistryError::Damaged)
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
    assert!(matches!(
        save(&folder.path().join("x.txt"), &good),
        Err(RegistryError::Extension { .. })
    ));
}

#[test]
fn too_much_is_refused_by_name() {
    let changes = [
        Change::Key("\\Registry\\Machine\\a".into()),
        Change::Value("b".into(), 3, vec![0; MAX_BYTES]),
    ];
    let error = encode(&changes).unwrap_err();
    assert!(matches!(error, RegistryError::Contents { .. }), "{error}");
    let error = read(Path::new("/nonexistent/x.reg"), "drv").unwrap_err();
    assert!(matches!(error, RegistryError::Read { .. }), "{error}");
}
