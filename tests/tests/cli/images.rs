//! Damaged and unsuitable images.

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
