//! Port rules.

use super::models::{self, MODEL_KEYS};
use super::{
    ACCESS_KEY, BURST, COMMENT, I_KNOW, INDEX_PAIR_BACKENDS, Key, Kind, NAME, ON_DENY_KEY,
    ON_RATE_KEY, PORT_BACKENDS, QUOTA, RATE, READ_FIXED, READ_MASK, REAL, Table, U32, VALUES,
    WIDTHS, WRITE_FIXED, WRITE_MASK, joined, key, mask, only, required, words,
};

/// Models with an interrupt line of their own.
const INTERRUPTS: &[&str] = &[
    "lpt",
    "printer",
    "uart16550",
    "adc12",
    "external",
    "rtc",
    "pit",
];

const OWN: [Key; 24] = [
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
    only(INTERRUPTS, "irq", Kind::Number(0, 63), "the interrupt line"),
    only(
        &["lpt"],
        "ecp",
        Kind::Flag,
        "ECP registers, 0x400 above the range",
    ),
    only(
        &["pit"],
        "speaker",
        Kind::Number(0, 0xFFFF),
        "the port of counter 2's gate, usually 0x61",
    ),
];

const KEYS: [Key; OWN.len() + models::COUNT] = joined(OWN, MODEL_KEYS);

/// `[[port]]`
pub(in crate::policy) static PORT: Table = Table {
    title: "[[port]]",
    keys: &KEYS,
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
