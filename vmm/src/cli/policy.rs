//! `ringfence policy`

mod query;

use self::query::{Access, Query};
use super::output::{Closed, Output};
use crate::error_chain;
use crate::policy::{MemoryRequest, Policy, PolicyError, json_schema};
use crate::ports::{PortRequest, Width};
use crate::session::exit_code::ExitCode;
use serde_json::json;
use std::path::PathBuf;

/// Check a policy, or learn one
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommands {
    Check(Check),
    // Boxed: by far the larger.
    Learn(Box<super::learn::Arguments>),
    /// Print the JSON schema of policies
    Schema,
}

/// Check a policy file, and say what it does with accesses
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An ACCESS is one of
  inb:PORT  inw:PORT  ind:PORT     a port read of 1, 2 or 4 bytes
  outb:PORT outw:PORT outd:PORT    a port write
  map:ADDRESS+BYTES                a read-write mapping of physical memory
  mapro:ADDRESS+BYTES              a read-only one

Examples:
  ringfence policy check lpt.toml
  ringfence policy check lpt.toml outb:0x378 inb:0x60 map:0xa0000+0x1000
  ringfence policy check lpt.toml --port 0x378 --width 1 --write 0x55
  ringfence policy check cmos.toml --port 0x71 --index 0x0a
  ringfence policy check card.toml --pci 0000:00:03.0 --register 4 --width 2
  ringfence policy check card.toml --msr 0x1b

Exit code 0: the file is well formed (whether or not the accesses are allowed); 2: it is not.")]
struct Check {
    /// The policy
    file: PathBuf,
    /// Accesses to explain
    #[arg(value_parser = parse_access)]
    access: Vec<Access>,
    #[command(flatten)]
    query: Query,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is no number; write 888 or 0x378"))
}

fn parse_access(text: &str) -> Result<Access, String> {
    let Some((kind, place)) = text.split_once(':') else {
        return Err("write KIND:PLACE, such as outb:0x378 or map:0xa0000+0x1000".into());
    };
    if let "map" | "mapro" = kind {
        let Some((address, bytes)) = place.split_once('+') else {
            return Err(format!(
                "write {kind}:ADDRESS+BYTES, such as {kind}:0xa0000+0x1000"
            ));
        };
        return Ok(Access::Memory(MemoryRequest {
            address: number(address)?,
            bytes: number(bytes)?,
            is_write: kind == "map",
        }));
    }
    let (is_write, width) = match kind {
        "inb" => (false, Width::Byte),
        "inw" => (false, Width::Word),
        "ind" => (false, Width::Dword),
        "outb" => (true, Width::Byte),
        "outw" => (true, Width::Word),
        "outd" => (true, Width::Dword),
        _ => {
            return Err(format!(
                "`{kind}` is none of inb inw ind outb outw outd map mapro"
            ));
        }
    };
    let port = u16::try_from(number(place)?).map_err(|_| "ports end at 0xffff".to_owned())?;
    let request = PortRequest {
        port,
        width,
        write: is_write.then_some(0),
    };
    Ok(Access::Port { request, index: 0 })
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let check = match &arguments.command {
        Subcommands::Check(check) => check,
        Subcommands::Learn(arguments) => return super::learn::main(arguments),
        Subcommands::Schema => {
            let schema = json_schema();
            return match Output::new(false).result(&schema, &schema) {
                Ok(()) => ExitCode::Success,
                Err(_) => ExitCode::CommandFailed,
            };
        }
    };
    let mut output = Output::new(check.json);
    let policy = match Policy::from_path(&check.file) {
        Ok(policy) => policy,
        Err(error) => return output.error(ExitCode::Usage, &error_chain(&error)),
    };
    let mut accesses = check.access.clone();
    match check.query.access() {
        Ok(access) => accesses.extend(access),
        Err(message) => return output.error(ExitCode::Usage, &message),
    }
    match report(&policy, &accesses, &mut output) {
        Ok(()) => ExitCode::Success,
        Err(_) => ExitCode::CommandFailed,
    }
}

fn report(policy: &Policy, accesses: &[Access], output: &mut Output) -> Result<(), Closed> {
    let counts = [
        ("port_rules", "port rule(s)", policy.port_rules().len()),
        ("index_pairs", "index pair(s)", policy.index_pairs().len()),
        (
            "memory_rules",
            "memory rule(s)",
            policy.memory_rules().len(),
        ),
        ("pci_rules", "PCI rule(s)", policy.pci_rules().len()),
        ("msr_rules", "MSR rule(s)", policy.msr_rules().len()),
        (
            "interrupt_rules",
            "interrupt rule(s)",
            policy.interrupt_rules().len(),
        ),
        ("resources", "resource(s)", policy.device().resources.len()),
    ];
    let mut text = format!("{}: well formed", policy.file());
    let mut object = json!({"ok": true});
    for (key, words, count) in counts {
        object[key] = json!(count);
        // The first policies had only these two.
        if count > 0 || matches!(key, "port_rules" | "memory_rules") {
            text += &format!(", {count} {words}");
        }
    }
    let mut warnings = policy.warnings().to_vec();
    if let Err(PolicyError::Invalid(found)) = policy.check_this_host() {
        // The policy may be for another machine.
        warnings.extend(found);
    }
    if let Err(PolicyError::Invalid(found)) = policy.check_any_guest() {
        warnings.extend(found);
    }
    let unknown = policy.clients().ids().err();
    object["warnings"] = warnings
        .iter()
        .map(|warning| json!({"line": warning.line, "column": warning.column, "message": warning.message}))
        .collect();
    for warning in &warnings {
        text += &format!("\nwarning: {warning}");
    }
    if let Some(unknown) = unknown {
        // As above.
        object["clients"] = json!(unknown.to_string());
        text += &format!("\nwarning: {unknown}");
    }
    output.result(&text, &object)?;
    for access in accesses {
        let (text, object) = access.explain(policy);
        output.result(&text, &object)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_parsed() {
        assert_eq!(
            parse_access("outw:0x378").unwrap(),
            Access::Port {
                request: PortRequest {
                    port: 0x378,
                    width: Width::Word,
                    write: Some(0)
                },
                index: 0
            }
        );
        assert_eq!(
            parse_access("mapro:0xa0000+4096").unwrap(),
            Access::Memory(MemoryRequest {
                address: 0xA_0000,
                bytes: 4096,
                is_write: false
            })
        );
        for bad in ["", "outb", "frob:1", "inb:0x10000", "map:1", "inb:x"] {
            assert!(parse_access(bad).is_err(), "{bad}");
        }
    }
}
