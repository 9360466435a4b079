//! `ringfence trace`

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::named_files::NamedFiles;
use super::output::Output;
use crate::error_chain;
use crate::observe::ports::Direction;
use crate::recording::{
    Access, End, Filter, Form, PortRange, Recording, Signal, export, parse_time,
};
use crate::session::exit_code::ExitCode;

/// Show a recording of a driver's accesses, or convert it
///
/// `ringfence run DRIVER --record FILE` makes one. Of one that is not finished, because its run was killed, what is there is
/// shown, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A SIGNAL is bits of a port: PORT, PORT.BIT or PORT.HIGH:LOW, with r: or w: before it for reads or writes alone, and
=NAME behind it. Without any, each port that was touched is one.

Examples:
  ringfence trace run.rec --denied
  ringfence trace run.rec --format html --output run.html
  ringfence trace run.rec --format vcd --signal w:0x37a.0=strobe --signal w:0x378=data --output lpt.vcd
  ringfence trace run.rec --port 0x378-0x37a --from 1.5 --until 1.6
  ringfence trace run.rec --msr 0xc0000080-0xc0000084 --writes")]
pub(super) struct Arguments {
    /// The recording
    file: PathBuf,
    /// How it is written: text, json (an object a line), vcd (GTKWave), chrome (Perfetto), html (a page with a timeline)
    #[arg(long, value_enum, default_value = "text")]
    format: FormArgument,
    /// Where it is written; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Only these ports; may be given several times
    #[arg(long, value_name = "RANGE")]
    port: Vec<PortRange>,
    /// Only mappings of this physical memory and accesses to devices there; may be given several times
    #[arg(long, value_name = "RANGE")]
    memory: Vec<PortRange>,
    /// Only accesses to these MSRs; may be given several times
    #[arg(long, value_name = "RANGE")]
    msr: Vec<PortRange>,
    /// Only reads
    #[arg(long, conflicts_with = "writes")]
    reads: bool,
    /// Only writes
    #[arg(long)]
    writes: bool,
    /// Only what the policy denied
    #[arg(long, conflicts_with = "allowed")]
    denied: bool,
    /// Only what it allowed
    #[arg(long)]
    allowed: bool,
    /// Only accesses by this image
    #[arg(long, value_name = "NAME.SYS")]
    driver: Option<String>,
    /// Only from this time since boot on: 1.5, 20ms, 7us
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<u64>,
    /// Only until this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<u64>,
    /// A wave for vcd and html; may be given several times
    #[arg(long, value_name = "SIGNAL")]
    signal: Vec<Signal>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FormArgument {
    Text,
    Json,
    Vcd,
    Chrome,
    Html,
}

impl Arguments {
    fn filter(&self) -> Filter {
        Filter {
            ports: self.port.clone(),
            memory: self.memory.clone(),
            msrs: self.msr.clone(),
            direction: match (self.reads, self.writes) {
                (true, _) => Some(Direction::Read),
                (_, true) => Some(Direction::Write),
                _ => None,
            },
            is_allowed: match (self.allowed, self.denied) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
            module: self.driver.clone(),
            from_ns: self.from,
            until_ns: self.until,
        }
    }

    fn form(&self) -> Form {
        match self.format {
            FormArgument::Text => Form::Text,
            FormArgument::Json => Form::Json,
            FormArgument::Vcd => Form::Vcd,
            FormArgument::Chrome => Form::Chrome,
            FormArgument::Html => Form::Html,
        }
    }
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let mut output = Output::new(false);
    let mut files = NamedFiles::default();
    files.reads("FILE", &arguments.file);
    files.writes("--output", &arguments.output);
    if let Err(message) = files.check() {
        return output.error(ExitCode::Usage, &message);
    }
    let recording = match Recording::from_path(&arguments.file) {
        Ok(recording) => recording,
        Err(error) => return output.error(ExitCode::Usage, &error_chain(&error)),
    };
    match recording.end {
        End::Finished => {}
        End::GoesOn => {
            tracing::warn!("the run goes on: this is what it has written so far");
        }
        End::Unfinished => {
            tracing::error!(
                "the recording is not finished: whoever wrote it was killed, or its disk was full. Accesses at its end are \
                 missing"
            );
        }
    }
    if recording.dropped != 0 {
        tracing::warn!(
            "{} accesses before these were dropped (--record-last)",
            recording.dropped
        );
    }
    let filter = arguments.filter();
    let accesses: Vec<&Access> = recording
        .accesses
        .iter()
        .filter(|access| filter.takes(&recording, access))
        .collect();
    let cannot_write =
        |error: &io::Error| format!("cannot write {}: {error}", arguments.output.display());
    let mut to = match open(&arguments.output) {
        Ok(to) => to,
        Err(error) => return output.error(ExitCode::Usage, &cannot_write(&error)),
    };
    let written = export::write(
        arguments.form(),
        &recording,
        &accesses,
        &arguments.signal,
        &mut to,
    )
    .and_then(|()| to.flush());
    match written {
        // A script must not take what is there for all that there was.
        Ok(()) if recording.end == End::Unfinished => ExitCode::CommandFailed,
        Ok(()) => ExitCode::Success,
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::Success,
        Err(error) => output.error(ExitCode::CommandFailed, &cannot_write(&error)),
    }
}

fn open(path: &Path) -> io::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    Ok(Box::new(BufWriter::new(File::create(path)?)))
}
