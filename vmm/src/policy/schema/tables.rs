//! The tables of a policy.

use super::{Key, Kind, Table, words};
use crate::policy::parse::choices::{
    ACCESS, CACHE, DMA, EPP, INDEX_PAIR_BACKENDS, INTERRUPT_BACKENDS, MEMORY_BACKENDS,
    MEMORY_ON_DENY, MSR_BACKENDS, ON_DENY, ON_RATE, PCI_BACKENDS, PORT_BACKENDS,
};
use crate::policy::parse::clients::{NAME_MAX, NAMES_MAX};
use crate::policy::parse::device::{CHANNEL_MAX, ID_MAX, IDS_MAX, KINDS, LINE_MAX, MODES, SHARES};
use crate::policy::{ADDRESS_MAX, LOG_RATE_MAX, RATE_MAX};

const U32: u64 = 0xFFFF_FFFF;
const REAL: &[&str] = &["passthrough"];
const PARALLEL: &[&str] = &["lpt", "printer"];
const OUTPUTS: &[&str] = &["lpt", "printer", "uart16550"];
const COMMANDS: &[&str] = &["lpt", "printer", "uart16550", "external"];
const INTERRUPTS: &[&str] = &[
    "lpt",
    "printer",
    "uart16550",
    "adc12",
    "external",
    "rtc",
    "pit",
];
const INPUTS: &[&str] = &["lpt", "uart16550"];

/// A key of rules with any back end.
const fn key(name: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key {
        name,
        kind,
        is_required: false,
        backends: &[],
        meaning,
    }
}

const fn required(name: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key {
        is_required: true,
        ..key(name, kind, meaning)
    }
}

const fn only(
    backends: &'static [&'static str],
    name: &'static str,
    kind: Kind,
    meaning: &'static str,
) -> Key {
    Key {
        backends,
        ..key(name, kind, meaning)
    }
}

const ACCESS_KEY: Key = key(
    "access",
    Kind::Choice(&words(ACCESS)),
    "directions that are allowed",
);
const ON_DENY_KEY: Key = key(
    "on-deny",
    Kind::Choice(&words(ON_DENY)),
    "what a denied access does besides being counted and logged",
);
const NAME: Key = key(
    "name",
    Kind::Text(1, 64),
    "what logs and statistics call it",
);
const COMMENT: Key = key("comment", Kind::Text(0, 1 << 20), "for readers");
const WIDTHS: Key = key(
    "widths",
    Kind::Widths,
    "bytes of an access that are allowed",
);
const RATE: Key = key("rate", Kind::Number(1, RATE_MAX), "accesses a second");
const BURST: Key = key(
    "burst",
    Kind::Number(1, RATE_MAX),
    "accesses that may come at once after a pause",
);
const ON_RATE_KEY: Key = key(
    "on-rate",
    Kind::Choice(&words(ON_RATE)),
    "what happens above the rate",
);
const QUOTA: Key = key(
    "quota",
    Kind::Number(0, i64::MAX as u64),
    "accesses until the end of the run",
);
const I_KNOW: Key = key(
    "i-know-what-this-does",
    Kind::Flag,
    "lets a pass-through reach what can damage the machine or its running system",
);

const fn mask(name: &'static str, max: u64, meaning: &'static str) -> Key {
    key(name, Kind::Number(0, max), meaning)
}

const WRITE_MASK: &str = "bits of a write that pass";
const WRITE_FIXED: &str = "what stands for the bits of a write that do not pass";
const READ_MASK: &str = "bits of a read that pass";
const READ_FIXED: &str = "what stands for the bits of a read that do not pass";
const VALUES: &str = "values that may be written";

/// The whole policy.
pub(in crate::policy) static TOP: Table = Table {
    title: "a policy",
    keys: &[
        key(
            "default",
            Kind::Table(&DEFAULT),
            "what holds where no rule says otherwise",
        ),
        key("port", Kind::Tables(&PORT), "ranges of ports"),
        key(
            "index-pair",
            Kind::Tables(&INDEX_PAIR),
            "ports that select registers, and their data ports",
        ),
        key("memory", Kind::Tables(&MEMORY), "ranges of physical memory"),
        key(
            "pci",
            Kind::Tables(&PCI),
            "PCI functions' configuration space",
        ),
        key("msr", Kind::Tables(&MSR), "model-specific registers"),
        key("device", Kind::Table(&DEVICE), "the PnP driver's device"),
        key(
            "resource",
            Kind::Tables(&RESOURCE),
            "resources that the PnP driver is told of; they allow nothing",
        ),
        key(
            "interrupt",
            Kind::Tables(&INTERRUPT),
            "interrupts from outside",
        ),
        key(
            "clients",
            Kind::Table(&CLIENTS),
            "who may connect to the driver's socket",
        ),
    ],
};

/// `[clients]`
pub(in crate::policy) static CLIENTS: Table = Table {
    title: "[clients]",
    keys: &[
        key(
            "users",
            Kind::Texts(1, NAMES_MAX, NAME_MAX),
            "users who may connect, by name or number, besides root and who runs the driver",
        ),
        key(
            "groups",
            Kind::Texts(1, NAMES_MAX, NAME_MAX),
            "groups whose members may connect, by name or number",
        ),
        key(
            "socket-mode",
            Kind::Form("^0?[0-7]{3}$"),
            "the socket's permission bits",
        ),
        COMMENT,
    ],
};

/// `[default]`
pub(in crate::policy) static DEFAULT: Table = Table {
    title: "[default]",
    keys: &[
        key(
            "on-deny",
            Kind::Choice(&words(ON_DENY)),
            "what a denied access does: of ports, memory and PCI",
        ),
        key(
            "memory-on-deny",
            Kind::Choice(&words(MEMORY_ON_DENY)),
            "what a denied mapping does",
        ),
        key(
            "pci-on-deny",
            Kind::Choice(&words(ON_DENY)),
            "what a denied access to configuration space does",
        ),
        key(
            "msr-on-deny",
            Kind::Choice(&words(ON_DENY)),
            "what a denied rdmsr or wrmsr does",
        ),
        key(
            "denied-read",
            Kind::Number(0, U32),
            "what a denied read returns, of ports and of PCI",
        ),
        key(
            "max-log-rate",
            Kind::Number(0, LOG_RATE_MAX as u64),
            "log lines a second for denied accesses, of each kind",
        ),
    ],
};

/// `[[port]]`
pub(in crate::policy) static PORT: Table = Table {
    title: "[[port]]",
    keys: &[
        required("range", Kind::Range(0xFFFF), "the ports"),
        ACCESS_KEY,
        required(
            "backend",
            Kind::Choice(&words(PORT_BACKENDS)),
            "what stands behind them",
        ),
        ON_DENY_KEY,
        key(
            "denied-read",
            Kind::Number(0, U32),
            "what a denied read returns",
        ),
        NAME,
        COMMENT,
        WIDTHS,
        key("write-mask", Kind::ByteOrBytes, WRITE_MASK),
        key("write-fixed", Kind::ByteOrBytes, WRITE_FIXED),
        key("read-mask", Kind::ByteOrBytes, READ_MASK),
        key("read-fixed", Kind::ByteOrBytes, READ_FIXED),
        key("values", Kind::Values(U32), VALUES),
        RATE,
        BURST,
        ON_RATE_KEY,
        QUOTA,
        only(
            REAL,
            "remap",
            Kind::Number(0, 0xFFFF),
            "the machine's port that the range begins at",
        ),
        I_KNOW,
        only(
            &["ppdev"],
            "device",
            Kind::Form("^/dev/parport[0-9]{1,3}$"),
            "the machine's parallel port",
        ),
        only(
            &["ppdev"],
            "exclusive",
            Kind::Flag,
            "no other program may share the port",
        ),
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
        only(INTERRUPTS, "irq", Kind::Number(0, 63), "the interrupt line"),
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
            &["lpt"],
            "ecp",
            Kind::Flag,
            "ECP registers, 0x400 above the range",
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
            &["pit"],
            "speaker",
            Kind::Number(0, 0xFFFF),
            "the port of counter 2's gate, usually 0x61",
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
    ],
};

/// `[[index-pair]]`
pub(in crate::policy) static INDEX_PAIR: Table = Table {
    title: "[[index-pair]]",
    keys: &[
        required(
            "index",
            Kind::Number(0, 0xFFFF),
            "the port that selects a register",
        ),
        required(
            "data",
            Kind::Number(0, 0xFFFF),
            "the port of the selected register",
        ),
        required(
            "backend",
            Kind::Choice(&words(INDEX_PAIR_BACKENDS)),
            "what stands behind them",
        ),
        key(
            "index-mask",
            Kind::Number(1, 0xFF),
            "bits of the index port that select",
        ),
        key(
            "index-fixed",
            Kind::Number(0, 0xFF),
            "what the device gets for the other bits",
        ),
        key(
            "register",
            Kind::Tables(&INDEX_REGISTER),
            "the registers that may be accessed",
        ),
        ON_DENY_KEY,
        key(
            "denied-read",
            Kind::Number(0, U32),
            "what a denied read of the data port returns",
        ),
        NAME,
        COMMENT,
        only(
            REAL,
            "remap",
            Kind::Number(0, 0xFFFF),
            "the machine's port that the index port stands for",
        ),
        I_KNOW,
        only(&["ram"], "initial", Kind::Bytes, "values at start"),
    ],
};

/// `[[index-pair.register]]`
pub(in crate::policy) static INDEX_REGISTER: Table = Table {
    title: "[[index-pair.register]]",
    keys: &[
        required("range", Kind::Range(0xFF), "the indices"),
        ACCESS_KEY,
        mask("write-mask", 0xFF, WRITE_MASK),
        mask("write-fixed", 0xFF, WRITE_FIXED),
        mask("read-mask", 0xFF, READ_MASK),
        mask("read-fixed", 0xFF, READ_FIXED),
        key("values", Kind::Values(0xFF), VALUES),
        NAME,
        COMMENT,
    ],
};

/// `[[memory]]`
pub(in crate::policy) static MEMORY: Table = Table {
    title: "[[memory]]",
    keys: &[
        required(
            "range",
            Kind::Range(ADDRESS_MAX),
            "the physical addresses, whole pages",
        ),
        key(
            "access",
            Kind::Choice(&["r", "rw"]),
            "directions that are allowed",
        ),
        required(
            "backend",
            Kind::Choice(&words(MEMORY_BACKENDS)),
            "what stands behind them",
        ),
        key(
            "on-deny",
            Kind::Choice(&words(MEMORY_ON_DENY)),
            "what a denied mapping does",
        ),
        NAME,
        COMMENT,
        only(&["ram"], "file", Kind::Text(1, 4096), "contents at start"),
        only(
            REAL,
            "source",
            Kind::Form(r"^(dev-mem|/sys/(bus/pci/devices|devices)/[^.].*/resource[0-5](_wc)?)$"),
            "where the memory comes from",
        ),
        only(
            REAL,
            "remap",
            Kind::Number(0, ADDRESS_MAX),
            "where the range begins in the source",
        ),
        only(
            REAL,
            "cache",
            Kind::Choice(&words(CACHE)),
            "how the processor caches it",
        ),
        I_KNOW,
    ],
};

/// `[[pci]]`
pub(in crate::policy) static PCI: Table = Table {
    title: "[[pci]]",
    keys: &[
        key(
            "device",
            Kind::Form("^[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}$"),
            "vendor and device id",
        ),
        key(
            "bdf",
            Kind::Form("^([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f][.][0-7]$"),
            "segment, bus, device and function",
        ),
        key(
            "access",
            Kind::Choice(&words(ACCESS)),
            "directions that are allowed for registers without a rule",
        ),
        required(
            "backend",
            Kind::Choice(&words(PCI_BACKENDS)),
            "what stands behind it",
        ),
        ON_DENY_KEY,
        key(
            "denied-read",
            Kind::Number(0, U32),
            "what a denied read returns",
        ),
        NAME,
        COMMENT,
        WIDTHS,
        RATE,
        BURST,
        ON_RATE_KEY,
        QUOTA,
        key(
            "register",
            Kind::Tables(&PCI_REGISTER),
            "registers with rules of their own",
        ),
        I_KNOW,
        only(
            REAL,
            "dma",
            Kind::Choice(&words(DMA)),
            "how the device's DMA is confined",
        ),
        only(
            &["model"],
            "initial",
            Kind::Bytes,
            "values at start, from register 0 on",
        ),
    ],
};

/// `[[interrupt]]`
pub(in crate::policy) static INTERRUPT: Table = Table {
    title: "[[interrupt]]",
    keys: &[
        required(
            "line",
            Kind::Number(0, abi::interrupt::LINES as u64 - 1),
            "the guest's interrupt line",
        ),
        required(
            "backend",
            Kind::Choice(&words(INTERRUPT_BACKENDS)),
            "where it comes from",
        ),
        only(
            &["uio", "vfio"],
            "device",
            Kind::Form(
                "^(/dev/uio[0-9]{1,4}|([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f][.][0-7])$",
            ),
            "the machine's device",
        ),
        only(
            &["eventfd"],
            "fd",
            Kind::Number(3, i32::MAX as u64),
            "the eventfd's number in this process",
        ),
        only(
            &["vfio"],
            "message-signaled",
            Kind::Flag,
            "whether it is MSI instead of the interrupt pin",
        ),
        NAME,
        COMMENT,
    ],
};

/// `[[pci.register]]`
pub(in crate::policy) static PCI_REGISTER: Table = Table {
    title: "[[pci.register]]",
    keys: &[
        required("range", Kind::Range(0xFFF), "bytes of configuration space"),
        ACCESS_KEY,
        mask("write-mask", u64::MAX, WRITE_MASK),
        mask("write-fixed", u64::MAX, WRITE_FIXED),
        mask("read-mask", u64::MAX, READ_MASK),
        mask("read-fixed", u64::MAX, READ_FIXED),
        NAME,
        COMMENT,
    ],
};

/// `[[msr]]`
pub(in crate::policy) static MSR: Table = Table {
    title: "[[msr]]",
    keys: &[
        key("register", Kind::Number(0, U32), "one MSR"),
        key("range", Kind::Range(U32), "several MSRs"),
        ACCESS_KEY,
        required(
            "backend",
            Kind::Choice(&words(MSR_BACKENDS)),
            "what stands behind them",
        ),
        only(
            &["value"],
            "value",
            Kind::Number(0, u64::MAX),
            "what reads return",
        ),
        mask("write-mask", u64::MAX, WRITE_MASK),
        mask("write-fixed", u64::MAX, WRITE_FIXED),
        mask("read-mask", u64::MAX, READ_MASK),
        mask("read-fixed", u64::MAX, READ_FIXED),
        key("values", Kind::Values(u64::MAX), VALUES),
        RATE,
        BURST,
        ON_RATE_KEY,
        QUOTA,
        ON_DENY_KEY,
        key(
            "denied-read",
            Kind::Number(0, u64::MAX),
            "what a denied read returns",
        ),
        NAME,
        COMMENT,
        I_KNOW,
    ],
};

/// `[device]`
pub(in crate::policy) static DEVICE: Table = Table {
    title: "[device]",
    keys: &[
        key("driver", Kind::Text(1, ID_MAX), "whose device it is"),
        key(
            "instance-id",
            Kind::Form(r"^[^ ,\\/#]{1,199}$"),
            "the last part of the instance path",
        ),
        key("description", Kind::Text(1, ID_MAX), "what it is called"),
        key(
            "hardware-ids",
            Kind::Texts(0, IDS_MAX, ID_MAX),
            "hardware ids",
        ),
        key(
            "compatible-ids",
            Kind::Texts(0, IDS_MAX, ID_MAX),
            "compatible ids",
        ),
        COMMENT,
    ],
};

/// `[[resource]]`
pub(in crate::policy) static RESOURCE: Table = Table {
    title: "[[resource]]",
    keys: &[
        required("type", Kind::Choice(&words(KINDS)), "what it is"),
        key(
            "range",
            Kind::Range(ADDRESS_MAX),
            "ports or physical addresses",
        ),
        key("line", Kind::Number(0, LINE_MAX as u64), "interrupt line"),
        key(
            "mode",
            Kind::Choice(&words(MODES)),
            "how the interrupt is triggered",
        ),
        key(
            "channel",
            Kind::Number(0, CHANNEL_MAX as u64),
            "DMA channel",
        ),
        key(
            "share",
            Kind::Choice(&words(SHARES)),
            "who may use it besides the device",
        ),
        NAME,
        COMMENT,
    ],
};
