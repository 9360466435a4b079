use jsonschema::Validator;
use serde_json::Value;

use super::*;
use crate::policy::Policy;

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(&json_schema()).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

fn as_json(text: &str) -> Value {
    toml::from_str(text).unwrap()
}

/// Policies of the reference and of docs/examples.
fn examples() -> Vec<String> {
    let mut texts: Vec<String> = include_str!("../../../../docs/policy.md")
        .split("```toml\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    texts
}

#[test]
fn every_example_is_valid_under_the_schema_and_the_parser() {
    let validator = validator();
    let texts = examples();
    assert!(texts.len() > 10);
    for text in texts {
        if let Err(error) = validator.validate(&as_json(&text)) {
            panic!("{error} in\n{text}");
        }
        if let Err(error) = Policy::from_str("example", &text) {
            panic!("{error}");
        }
    }
}

#[test]
fn schema_and_parser_refuse_the_same_mistakes() {
    let validator = validator();
    let port = "[[port]]\nrange = 0x378\naccess = \"rw\"\nbackend = \"ram\"\n";
    for mistake in [
        format!("{port}colour = 1"),
        format!("{port}remap = 1"),
        format!("{port}output = \"-\""),
        format!("{port}widths = [3]"),
        format!("{port}widths = []"),
        format!("{port}rate = 0"),
        format!("{port}rate = 1000001"),
        format!("{port}values = [\"x\"]"),
        format!("{port}write-mask = 256"),
        format!("{port}i-know-what-this-does = 1"),
        port.replace("0x378", "65536"),
        port.replace("rw", "x"),
        port.replace("\"ram\"", "\"lp\""),
        "[default]\non-deny = \"never\"".to_owned(),
        "[[pci]]\nbackend = \"deny\"\ndevice = \"8086\"".to_owned(),
        "[[pci]]\nbackend = \"deny\"\nbdf = \"00:20.0\"".to_owned(),
        "[[msr]]\nregister = 0x100000000\nbackend = \"deny\"".to_owned(),
        "[[memory]]\nrange = \"0xd0000-0xd0fff\"\naccess = \"r\"\nbackend = \"passthrough\"\nsource = \"/dev/sda\""
            .to_owned(),
    ] {
        assert!(Policy::from_str("mistake", &mistake).is_err(), "{mistake}");
        assert!(!validator.is_valid(&as_json(&mistake)), "{mistake}");
    }
}
