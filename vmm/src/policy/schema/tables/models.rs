//! The keys of device models, which `[[port]]` rules and a PCI function's BARs share.

use super::{EPP, Key, Kind, only, words};

const PARALLEL: &[&str] = &["lpt", "printer"];
const OUTPUTS: &[&str] = &["lpt", "printer", "uart16550"];
const COMMANDS: &[&str] = &["lpt", "printer", "uart16550", "external"];
const INPUTS: &[&str] = &["lpt", "uart16550"];

/// How many keys there are.
pub(super) const COUNT: usize = 18;

/// In the order in which `--device help` shows them.
pub(super) const MODEL_KEYS: [Key; COUNT] = [
    only(
        OUTPUTS,
        "output",
        Kind::Text(1, 4096),
        "where bytes go: a path, \"-\", \"pty\"; of a uart16550 also \"stdio\" or \"tcp:PORT\"",
    ),
    only(
        COMMANDS,
        "command",
        Kind::Texts(1, 256, 4096),
        "the program, and its arguments, whose standard input gets the bytes, or which is the external model",
    ),
    only(
        &["external"],
        "socket",
        Kind::Text(1, 107),
        "the path of the Unix socket that the model listens at",
    ),
    only(
        &["external"],
        "answer-ms",
        Kind::Number(1, 10_000),
        "how long the model may take for an answer, in milliseconds",
    ),
    only(
        &["external"],
        "dma",
        Kind::Flag,
        "whether the model reads and writes the memory that drivers have for devices",
    ),
    only(
        INPUTS,
        "input",
        Kind::Bytes,
        "what the device at the connector sends",
    ),
    only(
        PARALLEL,
        "status",
        Kind::Number(0, 0xFF),
        "what the status register reads",
    ),
    only(
        &["lpt"],
        "epp",
        Kind::Choice(&words(EPP)),
        "EPP registers, and whether a device answers",
    ),
    only(
        &["rtc"],
        "offset",
        Kind::Form("^[+-]?[0-9]{1,10}$"),
        "seconds from the machine's UTC to its time",
    ),
    only(
        &["rtc"],
        "nvram",
        Kind::Text(1, 4096),
        "the file that keeps its memory",
    ),
    only(
        &["gameport"],
        "axes",
        Kind::Bytes,
        "positions of up to four axes, 0 to 255",
    ),
    only(
        &["gameport"],
        "buttons",
        Kind::Number(0, 0xF),
        "a bit for each button that is pressed",
    ),
    only(
        &["pio8255"],
        "inputs",
        Kind::Bytes,
        "what drives ports A, B and C while they are inputs",
    ),
    only(
        &["pio8255"],
        "loop",
        Kind::Flag,
        "port B's lines are wired to port A's",
    ),
    only(
        &["adc12"],
        "wave",
        Kind::Text(1, 4096),
        "the signal: a shape, amplitude=, frequency=, offset=; or csv:PATH",
    ),
    only(
        &["adc12"],
        "conversion-us",
        Kind::Number(1, 1_000_000),
        "how long a conversion takes, in microseconds",
    ),
    only(
        &["adc12"],
        "digital-inputs",
        Kind::Number(0, 0xFF),
        "what the digital inputs read",
    ),
    only(&["ram"], "initial", Kind::ByteOrBytes, "values at start"),
];
