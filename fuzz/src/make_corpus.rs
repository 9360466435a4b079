//! Writes the seeds of the corpora: `cargo run --bin make_corpus` in this folder.

mod seeds;

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    for (target, seeds) in seeds::all() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
