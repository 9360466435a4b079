//! `ringfence policy`

use super::output::Output;
use crate::error_chain;
use crate::policy::Policy;
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

Exit code 0: the file is well formed (whether or not the accesses are allowed); 2: it is not.")]
struct Check {
    /// The policy
    file: PathBuf,
    /// Accesses to explain
    #[arg(value_parser = parse_access)]
    access: Vec<Access>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Port {
        port: u16,
        width: Width,
        is_write: bool,
    },
    Memory {
        address: u64,
        bytes: u64,
        is_write: bool,
    },
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
        return Ok(Access::Memory {
            address: number(address)?,
            bytes: number(bytes)?,
            is_write: kind == "map",
        });
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
    Ok(Access::Port {
        port,
        width,
        is_write,
    })
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let check = match &arguments.command {
        Subcommands::Check(check) => check,
        Subcommands::Learn(arguments) => return super::learn::main(arguments),
    };
    let mut output = Output::new(check.json);
    let policy = match Policy::from_path(&check.file) {
        Ok(policy) => policy,
        Err(error) => return output.error(ExitCode::Usage, &error_chain(&error)),
    };
    let (ports, memory) = (policy.port_rules().len(), policy.memory_rules().len());
    let warnings = policy.warnings();
    let mut text = format!(
        "{}: well formed, {ports} port rule(s), {memory} memory rule(s)",
        policy.file()
    );
    let resources = policy.device().resources.len();
    if resources != 0 {
        text.push_str(&format!(", {resources} resource(s)"));
    }
    for warning in warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    let messages: Vec<String> = warnings
        .iter()
        .map(|warning| format!("{}:{}: {}", warning.line, warning.column, warning.message))
        .collect();
    let object = json!({
        "ok": true, "port_rules": ports, "memory_rules": memory, "resources": resources, "warnings": messages,
    });
    if output.result(&text, &object).is_err() {
        return ExitCode::CommandFailed;
    }
    for access in &check.access {
        let (text, is_allowed) = explain(&policy, *access);
        let object = json!({"allowed": is_allowed, "text": text});
        if output.result(&text, &object).is_err() {
            return ExitCode::CommandFailed;
        }
    }
    ExitCode::Success
}

fn explain(policy: &Policy, access: Access) -> (String, Option<bool>) {
    match access {
        Access::Port {
            port,
            width,
            is_write,
        } => {
            let request = PortRequest {
                port,
                width,
                write: is_write.then_some(0),
            };
            (
                policy.explain_port(&request, 0),
                Some(policy.decide_port(&request, 0).is_allowed()),
            )
        }
        Access::Memory {
            address,
            bytes,
            is_write,
        } => (policy.explain_memory(address, bytes, is_write), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_parsed() {
        assert_eq!(
            parse_access("outw:0x378").unwrap(),
            Access::Port {
                port: 0x378,
                width: Width::Word,
                is_write: true
            }
        );
        assert_eq!(
            parse_access("mapro:0xa0000+4096").unwrap(),
            Access::Memory {
                address: 0xA_0000,
                bytes: 4096,
                is_write: false
            }
        );
        for bad in ["", "outb", "frob:1", "inb:0x10000", "map:1", "inb:x"] {
            assert!(parse_access(bad).is_err(), "{bad}");
        }
    }
}
