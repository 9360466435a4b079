//! Builds the guest image once for each driver ABI with a nested cargo, so that a plain `cargo build` is all
//! that anybody needs.
//!
//! The nested build has target and build directories of its own (an inherited one would be locked by the
//! outer cargo), a fixed profile, and none of the outer build's flags, wrappers or settings: an image's bytes
//! depend on the sources and the compiler alone.
//!
//! With RINGFENCE_FAST_GUEST=1 in the environment the images are built incrementally and optimised less: seconds
//! instead of minutes after a change of the kernel. Such images are slower and their bytes are not reproducible; they are
//! for developing, never for measuring or releasing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::thread;

/// Asks for images that are built quickly.
const FAST_GUEST: &str = "RINGFENCE_FAST_GUEST";
/// Separates flags in CARGO_ENCODED_RUSTFLAGS.
const FLAG_SEPARATOR: &str = "\x1f";
/// Settings of the outer cargo that the nested one needs too.
const KEPT_SETTINGS: [&str; 5] = [
    "CARGO",
    "CARGO_HOME",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_OFFLINE",
    "CARGO_TERM_COLOR",
];

fn main() {
    let manifest_dir = PathBuf::from(required("CARGO_MANIFEST_DIR"));
    let Some(root) = manifest_dir.parent().map(Path::to_path_buf) else {
        fail("images/ has no parent folder");
    };
    for watched in [
        "Cargo.toml",
        "Cargo.lock",
        "abi",
        "channel",
        "guest-stub",
        "kernel-shim",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo::rerun-if-env-changed={FAST_GUEST}");
    let abis = ["i386", "amd64"];
    // The compiler spends most of an image's time in one thread, so the two are built side by side.
    let images = thread::scope(|scope| {
        let builds = abis.map(|abi| {
            let root = &root;
            scope.spawn(move || image(root, abi))
        });
        builds.map(|build| build.join().unwrap_or_else(|_| fail("a build panicked")))
    });
    for (abi, image) in abis.iter().zip(images) {
        println!(
            "cargo::rustc-env=GUEST_IMAGE_{}={}",
            abi.to_uppercase(),
            image.display()
        );
    }
}

/// The prebuilt image that the environment names, or one built now.
fn image(root: &Path, abi: &str) -> PathBuf {
    let variable = format!("RINGFENCE_GUEST_{}", abi.to_uppercase());
    println!("cargo::rerun-if-env-changed={variable}");
    match env::var_os(&variable) {
        Some(prebuilt) => PathBuf::from(prebuilt),
        None => build(root, abi, abi == "i386"),
    }
}

fn build(root: &Path, abi: &str, is_i386: bool) -> PathBuf {
    let is_fast = env::var_os(FAST_GUEST).is_some_and(|value| value == "1");
    let suffix = if is_fast { "-fast" } else { "" };
    let target_dir = PathBuf::from(required("OUT_DIR")).join(format!("guest-{abi}{suffix}"));
    let cargo_home = env::var("CARGO_HOME")
        .or_else(|_| env::var("HOME").map(|home| format!("{home}/.cargo")))
        .unwrap_or_default();
    let mut flags = vec![
        "--cfg=guest".to_owned(),
        "-Cpanic=abort".to_owned(),
        "-Crelocation-model=pic".to_owned(),
        "-Cno-redzone=yes".to_owned(),
        "-Cforce-frame-pointers=yes".to_owned(),
        format!("--remap-path-prefix={}=/ringfence", root.display()),
        format!("--remap-path-prefix={}=/guest", target_dir.display()),
        format!("--remap-path-prefix={cargo_home}=/cargo"),
    ];
    if is_i386 {
        flags.push("--cfg=nt_i386".to_owned());
    }
    let script = root.join("guest-stub/guest.ld");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none,-z,max-page-size=4096,-z,noexecstack",
        &format!("-Wl,-T,{}", script.display()),
    ] {
        flags.push(format!("-Clink-arg={argument}"));
    }

    let mut cargo = Command::new(required("CARGO"));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let is_setting = ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC", "CLIPPY"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if is_setting && !KEPT_SETTINGS.contains(&text.as_ref()) {
            cargo.env_remove(&name);
        }
    }
    if is_fast {
        for setting in [
            "opt-level=1",
            "package.kernel-shim.opt-level=1",
            "codegen-units=256",
            "incremental=true",
        ] {
            cargo
                .arg("--config")
                .arg(format!("profile.guest.{setting}"));
        }
    }
    let status = cargo
        .current_dir(root)
        .args([
            "build",
            "--package=guest-stub",
            "--profile=guest",
            "--locked",
        ])
        .arg("--target=x86_64-unknown-linux-gnu")
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_BUILD_BUILD_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(FLAG_SEPARATOR))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "the {abi} guest image did not build ({status}); see above"
        )),
        Err(error) => fail(&format!(
            "cannot start cargo for the {abi} guest image: {error}"
        )),
    }
    target_dir.join("x86_64-unknown-linux-gnu/guest/guest-stub")
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("{name} is not set; run by cargo only")))
}

#[expect(
    clippy::exit,
    reason = "cargo shows a build script's own error line, not a panic's backtrace"
)]
fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
