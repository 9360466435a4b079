//! The commands of a run: those of `-c`, then those of `--script`.

use std::io::{self, Error, ErrorKind, Read};
use std::path::Path;

use crate::observe::escape::escape;
use crate::session::command::{Command, parse_script_line};

/// Largest script, in bytes.
const SCRIPT_MAX: u64 = 16 << 20;

/// All commands, parsed before anything starts; `None` if none were asked for (an empty script is a script).
pub(super) fn commands(
    lines: &[String],
    script: Option<&Path>,
) -> Result<Option<Vec<Command>>, String> {
    if lines.is_empty() && script.is_none() {
        return Ok(None);
    }
    let mut commands = Vec::new();
    for line in lines {
        let command = line.parse();
        commands.push(command.map_err(|error| format!("in -c `{}`: {error}", escape(line)))?);
    }
    if let Some(path) = script {
        let name = escape(&path.display().to_string());
        let text =
            read_script(path).map_err(|error| format!("cannot read the script {name}: {error}"))?;
        for (number, line) in (1..).zip(text.lines()) {
            let command = parse_script_line(line);
            commands.extend(command.map_err(|error| format!("{name}:{number}: {error}"))?);
        }
    }
    Ok(Some(commands))
}

fn read_script(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    crate::input_file::open(path)?
        .take(SCRIPT_MAX + 1)
        .read_to_end(&mut bytes)?;
    let invalid = |message| Error::new(ErrorKind::InvalidData, message);
    if bytes.len() as u64 > SCRIPT_MAX {
        return Err(invalid(format!("more than {SCRIPT_MAX} bytes")));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let before = error
            .as_bytes()
            .iter()
            .take(error.utf8_error().valid_up_to());
        let line = before.filter(|&&byte| byte == b'\n').count() + 1;
        invalid(format!("line {line} is not UTF-8 text"))
    })?;
    // Editors on Windows begin a file with a byte order mark.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}
