//! The README shows what its first command really prints.

use std::path::Path;
use std::process::Command;

use integration_tests::{program, skip};

const PROMPT: &str = "$ cargo run --release --quiet -- ";
const THEN_SHOW: &str = " && cat ";

#[test]
fn first_command_of_the_readme_prints_what_the_readme_shows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if !Path::new("/dev/kvm").exists() {
        skip("the README's first command: there is no /dev/kvm");
        return;
    }
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md can be read");
    let block = readme
        .split("```")
        .find(|block| block.contains(PROMPT))
        .expect("the README has the command");
    let (command, shown) = block
        .split_once(PROMPT)
        .and_then(|(_, rest)| rest.split_once('\n'))
        .expect("the command is a line");
    let (arguments, output_file) = command
        .split_once(THEN_SHOW)
        .expect("the command shows a file");
    // The models' files go to target/, which is there after a build.
    std::fs::create_dir_all(root.join("target")).expect("target/ can be made");

    let output = Command::new(program())
        .args(arguments.split_whitespace())
        .current_dir(&root)
        .output()
        .expect("ringfence starts");

    let mut printed = output.stdout;
    printed.extend(std::fs::read(root.join(output_file)).expect("the model wrote its file"));
    assert_eq!(
        String::from_utf8_lossy(&printed).trim_end(),
        shown.trim_end(),
        "standard error: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success());
}
