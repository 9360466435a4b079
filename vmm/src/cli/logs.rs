//! `ringfence logs`

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::launching::RunDirectoryArgument;
use super::output::Output;
use crate::error_chain;
use crate::launch::directory::RunDirectory;
use crate::launch::entry;
use crate::launch::name::Name;
use crate::observe::escape::escape_bytes;
use crate::session::exit_code::ExitCode;

/// How often a log that is followed is looked at.
const INTERVAL: Duration = Duration::from_millis(200);
/// Most bytes of a log that are looked at from its end.
const BYTES_MAX: u64 = 8 << 20;

/// Show a driver's log
///
/// Logs of drivers that have ended are there until the name is used again and the log is full.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The driver's name, as `ringfence ps` shows it
    name: String,
    /// Go on until the driver ends, or Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines
    #[arg(
        short = 'n',
        long,
        value_name = "LINES",
        default_value = "1000000",
        hide_default_value = true
    )]
    lines: usize,
    /// The report of the last crash instead, or of the one so many before: 1 is the last
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, default_missing_value = "1", conflicts_with = "follow")]
    crash: Option<u32>,
    #[command(flatten)]
    directory: RunDirectoryArgument,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let mut output = Output::new(false);
    let directory = match arguments.directory.locate() {
        Ok(directory) => directory,
        Err(error) => return output.error(ExitCode::Usage, &error_chain(&error)),
    };
    let folder = arguments
        .name
        .parse()
        .map(|name: Name| directory.folder(&name));
    let opened = folder
        .map_err(|_| io::ErrorKind::NotFound.into())
        .and_then(|folder| {
            let path = match arguments.crash {
                Some(number) => entry::crash(&folder, number),
                None => entry::log(&folder),
            };
            open(&path)
        });
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match (directory.find(&arguments.name), arguments.crash) {
                (Err(unknown), None) => output.error(ExitCode::Usage, &unknown.to_string()),
                (_, Some(_)) => output.error(
                    ExitCode::CommandFailed,
                    "there is no report of such a crash",
                ),
                (Ok(_), None) => output.error(ExitCode::CommandFailed, "it has no log yet"),
            };
        }
        Err(error) => {
            let message = format!("cannot read the log: {error}");
            return output.error(ExitCode::CommandFailed, &message);
        }
    };
    match show(file, arguments, &directory) {
        Ok(()) => ExitCode::Success,
        // `| head`: whoever read has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::Success,
        Err(error) => output.error(
            ExitCode::CommandFailed,
            &format!("cannot show the log: {error}"),
        ),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(file)
}

fn show(mut file: File, arguments: &Arguments, directory: &RunDirectory) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(BYTES_MAX);
    file.seek(SeekFrom::Start(begin))?;
    let mut last: VecDeque<Vec<u8>> = VecDeque::new();
    let mut lines = BufReader::new((&file).take(length - begin));
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if last.len() >= arguments.lines {
            last.pop_front();
        }
        if arguments.lines != 0 {
            last.push_back(line);
        }
    }
    for line in &last {
        show_bytes(&mut out, line)?;
    }
    out.flush()?;
    if arguments.follow {
        follow(&mut file, length, &mut out, || {
            directory.find(&arguments.name).is_err()
        })?;
    }
    Ok(())
}

/// Shows what is added to a log, until the run is over.
fn follow(
    file: &mut File,
    mut position: u64,
    out: &mut impl Write,
    is_over: impl Fn() -> bool,
) -> io::Result<()> {
    loop {
        // Looked at first: what is logged at the end is shown.
        let is_over = is_over();
        let length = file.metadata()?.len();
        if length < position {
            // It was full, and has begun anew.
            position = 0;
        }
        if length > position {
            file.seek(SeekFrom::Start(position))?;
            let mut bytes = Vec::new();
            (&*file)
                .take((length - position).min(BYTES_MAX))
                .read_to_end(&mut bytes)?;
            position += bytes.len() as u64;
            show_bytes(out, &bytes)?;
            out.flush()?;
        } else if is_over {
            return Ok(());
        } else {
            std::thread::sleep(INTERVAL);
        }
    }
}

/// Line ends stay, and everything else that a terminal would obey does not.
fn show_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
        let (line, end) = match piece.strip_suffix(b"\n") {
            Some(line) => (line, "\n"),
            None => (piece, ""),
        };
        write!(out, "{}{end}", escape_bytes(line))?;
    }
    Ok(())
}
