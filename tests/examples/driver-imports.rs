//! Writes the definitions that import libraries for test drivers are made from:
//! `cargo run -p integration-tests --example driver-imports -- FOLDER`.

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .ok_or_else(|| anyhow::anyhow!("usage: driver-imports FOLDER"))?;
    integration_tests::imports::write_definitions(folder.as_ref())?;
    Ok(())
}
