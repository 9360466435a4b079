//! docs/nt-coverage.md says what the export table says.

use integration_tests::coverage::{PATH, REFRESH, document};

#[test]
fn the_document_is_up_to_date() {
    let expected = document(&kernel_shim::table::EXPORTS);
    if std::env::var_os("RINGFENCE_BLESS").is_some() {
        std::fs::write(PATH, &expected).expect("docs/ is writable");
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    let first = expected
        .lines()
        .zip(found.lines().chain(std::iter::repeat("")));
    let line = first
        .clone()
        .position(|(expected, found)| expected != found);
    assert!(
        found == expected,
        "docs/nt-coverage.md is stale from line {} on; refresh it with: {REFRESH}",
        line.unwrap_or_else(|| expected.lines().count()) + 1
    );
}
