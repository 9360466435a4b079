//! The fuzzer's seeds in the repository are what `cargo run --bin make_corpus` in fuzz/ writes now.

#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn seeds_are_current() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, seeds) in seeds::all() {
        let wanted: BTreeMap<String, Vec<u8>> = seeds.into_iter().collect();
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(corpus.join(target)).expect("the corpus is there") {
            let entry = entry.expect("it can be listed");
            let name = entry
                .file_name()
                .into_string()
                .expect("seeds have plain names");
            found.insert(name, std::fs::read(entry.path()).expect("it can be read"));
        }
        assert!(!wanted.is_empty(), "{target}");
        let names = |map: &BTreeMap<String, Vec<u8>>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&wanted), "{target}");
        for (name, bytes) in &wanted {
            assert!(found[name] == *bytes, "{target}/{name} is stale");
        }
    }
}
