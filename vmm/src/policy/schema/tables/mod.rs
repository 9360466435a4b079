//! The tables of a policy.

mod device;
mod hardware;
mod models;
mod port;

pub(in crate::policy) use device::{DEVICE, RESOURCE};
pub(in crate::policy) use hardware::{INTERRUPT, MEMORY, MSR, PCI, PCI_BAR, PCI_REGISTER};
pub(in crate::policy) use port::{INDEX_PAIR, INDEX_REGISTER, PORT};

use super::{Key, Kind, Table, words};
use crate::policy::parse::choices::{
    ACCESS, BAR_BACKENDS, BAR_KINDS, CACHE, DMA, EPP, INDEX_PAIR_BACKENDS, INTERRUPT_BACKENDS,
    MEMORY_BACKENDS, MEMORY_ON_DENY, MSR_BACKENDS, ON_DENY, ON_RATE, PCI_BACKENDS, PIN_NAMES,
    PORT_BACKENDS,
};
use crate::policy::parse::clients::{NAME_MAX, NAMES_MAX};
use crate::policy::{ADDRESS_MAX, LOG_RATE_MAX, RATE_MAX};

const U32: u64 = 0xFFFF_FFFF;
const REAL: &[&str] = &["passthrough"];
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

/// Both lists.
const fn joined<const A: usize, const B: usize, const N: usize>(
    first: [Key; A],
    second: [Key; B],
) -> [Key; N] {
    assert!(A + B == N, "a table's keys are counted wrongly");
    let mut keys = [key("", Kind::Flag, ""); N];
    let mut index = 0;
    while index < N {
        keys[index] = if index < A {
            first[index]
        } else {
            second[index - A]
        };
        index += 1;
    }
    keys
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
