//! What real drivers import is whole: tests/data/nt-imports.tsv lists the functions that two or more of them need.

use kernel_shim::export::Coverage;
use kernel_shim::table::{EXPORTS, find};

#[test]
fn what_two_drivers_import_is_implemented() {
    let list = include_str!("../data/nt-imports.tsv");
    let names: Vec<&str> = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once('\t').expect("NAME TAB COUNT").0)
        .collect();
    assert!(names.len() >= 400, "the list has {} names", names.len());
    let is_whole = |name: &&str| {
        find(name).is_some_and(|number| {
            let export = &EXPORTS[usize::try_from(number).expect("a position")];
            matches!(export.coverage, Coverage::Implemented)
        })
    };
    let missing: Vec<_> = names.into_iter().filter(|name| !is_whole(name)).collect();
    assert!(
        missing.is_empty(),
        "missing or partial, though drivers import them: {missing:#?}"
    );
}
