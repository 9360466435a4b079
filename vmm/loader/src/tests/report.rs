//! The inspection report.

use abi::DriverAbi;

use super::{AMD64, I386};
use crate::Image;
use crate::builder::OPTIONAL_HEADER;
use crate::report::{ImportStatus, InspectReport};

fn status(dll: &str, name: Option<&str>, ordinal: Option<u16>) -> ImportStatus {
    match (name, ordinal) {
        (Some("IoCreateDevice"), None) => ImportStatus::Implemented,
        (Some("DbgPrint"), None) => ImportStatus::Partial("no %Z".to_owned()),
        (Some("HalTranslateBusAddress"), None) if dll == "HAL.dll" => ImportStatus::Missing,
        (None, Some(7)) => ImportStatus::Unknown,
        _ => panic!("not an import: {dll} {name:?} {ordinal:?}"),
    }
}

#[test]
fn text_for_people() {
    let mut built = I386.section_alignment(0x20).build();
    built.put_u32(OPTIONAL_HEADER + 64, 0x1234);
    let image = Image::parse(&built.bytes).expect("valid");
    let computed = image.checksum.computed;
    let report = InspectReport::new(&image, status);
    let expected = format!(
        "\
i386 driver, 3584 bytes for 0x10000, entry +0xa00, built 2001-09-09
checksum 0x1234 wrong (the file has {computed:#x}), 2 relocations, security cookie +0x808
alignment 0x20: sections share pages, so code can be written where data is on the same page

  section        rva     bytes  asks  gets
  .text        0x400       512   r-x   rwx
  .rdata       0x600       512   r--   rwx
  .data        0x800       512   rw-   rwx
  INIT         0xa00       512   rwx   rwx  init only
  .reloc       0xc00       512   r--   rwx  init only

  imports from ntoskrnl.exe
    IoCreateDevice          implemented
    DbgPrint                partial: no %Z

  imports from HAL.dll
    HalTranslateBusAddress  missing
    #7                      unknown

4 imports: 1 implemented, 1 partial, 1 missing: HalTranslateBusAddress, 1 unknown: #7
"
    );
    assert_eq!(report.to_string(), expected);
}

#[test]
fn json_for_programs() {
    let image = Image::parse(&AMD64.with_exports().build().bytes).expect("valid");
    let report = InspectReport::new(&image, status);
    let json = serde_json::to_value(&report).expect("serializes");
    assert_eq!(json["machine"], DriverAbi::Amd64.name());
    assert_eq!(json["exports"], 4);
    assert_eq!(json["security_cookie"]["source"], "load_config");
    assert_eq!(json["sections"][3]["asked"], "rwx");
    assert_eq!(json["sections"][3]["mapped"], "r-x");
    assert_eq!(json["imports"][0]["name"], "IoCreateDevice");
    assert_eq!(json["imports"][0]["status"], "implemented");
    assert_eq!(json["imports"][1]["status"], "partial");
    assert_eq!(json["imports"][1]["what"], "no %Z");
    assert_eq!(json["imports"][3]["ordinal"], 7);
    assert_eq!(json["imports"][3]["name"], serde_json::Value::Null);
}

#[test]
fn checksum_and_dates() {
    let mut built = I386.build();
    let line = |bytes: &[u8]| {
        let image = Image::parse(bytes).expect("valid");
        let text = InspectReport::new(&image, status).to_string();
        text.lines().take(2).collect::<Vec<_>>().join("\n")
    };
    assert!(line(&built.bytes).contains("checksum not set"));
    for (time_stamp, date) in [
        (0, "at an unknown time"),
        (951_782_400, "2000-02-29"),
        (951_868_800, "2000-03-01"),
        (1_735_603_200, "2024-12-31"),
        (4_294_967_295, "2106-02-07"),
    ] {
        built.put_u32(crate::builder::FILE_HEADER + 4, time_stamp);
        let text = line(&built.bytes);
        assert!(text.contains(&format!("built {date}\n")), "{text}");
    }
    let checksum = Image::parse(&built.bytes).expect("valid").checksum;
    built.put_u32(OPTIONAL_HEADER + 64, checksum.computed);
    assert!(line(&built.bytes).contains(" correct"));
}
