//! Rules for memory, PCI functions, MSRs and interrupts.

use super::models::{self, MODEL_KEYS};
use super::{
    ACCESS, ACCESS_KEY, ADDRESS_MAX, BAR_BACKENDS, BAR_KINDS, BURST, CACHE, COMMENT, DMA, I_KNOW,
    INTERRUPT_BACKENDS, Key, Kind, MEMORY_BACKENDS, MEMORY_ON_DENY, MSR_BACKENDS, NAME,
    ON_DENY_KEY, ON_RATE_KEY, PCI_BACKENDS, PIN_NAMES, QUOTA, RATE, READ_FIXED, READ_MASK, REAL,
    Table, U32, VALUES, WIDTHS, WRITE_FIXED, WRITE_MASK, joined, key, mask, only, required, words,
};

const FUNCTION: Kind = Kind::Form("^([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f][.][0-7]$");
const IDS: Kind = Kind::Form("^[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}$");

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
            EXTERNAL,
            "command",
            Kind::Texts(1, 256, 4096),
            "the program, and its arguments, which is the model",
        ),
        only(
            EXTERNAL,
            "socket",
            Kind::Text(1, 107),
            "the path of the Unix socket that the model listens at",
        ),
        only(
            EXTERNAL,
            "answer-ms",
            Kind::Number(1, 10_000),
            "how long the model may take for an answer, in milliseconds",
        ),
        only(
            EXTERNAL,
            "dma",
            Kind::Flag,
            "whether the model reads and writes the memory that drivers have for devices",
        ),
        only(EXTERNAL, "irq", Kind::Number(0, 63), "the interrupt line"),
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

const EXTERNAL: &[&str] = &["external"];

/// `[[pci]]`
pub(in crate::policy) static PCI: Table = Table {
    title: "[[pci]]",
    keys: &[
        key("device", IDS, "vendor and device id"),
        key("bdf", FUNCTION, "segment, bus, device and function"),
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
            MODEL,
            "initial",
            Kind::Bytes,
            "values at start, from register 0 on",
        ),
        only(
            MODEL,
            "class",
            Kind::Number(0, 0xFF_FFFF),
            "class code: class, subclass and programming interface",
        ),
        only(MODEL, "revision", Kind::Number(0, 0xFF), "revision id"),
        only(MODEL, "subsystem", IDS, "subsystem vendor and subsystem id"),
        only(
            MODEL,
            "interrupt-line",
            Kind::Number(0, abi::interrupt::LINES as u64 - 1),
            "the guest's interrupt line that its pin is wired to",
        ),
        only(
            MODEL,
            "interrupt-pin",
            Kind::Choice(&words(PIN_NAMES)),
            "the interrupt pin",
        ),
        only(
            MODEL,
            "bar",
            Kind::Tables(&PCI_BAR),
            "base address registers, and the devices behind them",
        ),
    ],
};

const MODEL: &[&str] = &["model"];

const BAR_OWN: [Key; 8] = [
    required(
        "index",
        Kind::Number(0, 5),
        "which base address register it is",
    ),
    required("type", Kind::Choice(&words(BAR_KINDS)), "what it decodes"),
    required(
        "size",
        Kind::Number(4, crate::policy::BAR_BYTES_MAX),
        "ports or bytes, a power of two",
    ),
    key(
        "base",
        Kind::Number(0, ADDRESS_MAX),
        "where it is at start; without it, the driver has to say",
    ),
    key(
        "prefetchable",
        Kind::Flag,
        "reads have no side effects; for memory",
    ),
    required(
        "backend",
        Kind::Choice(&words(BAR_BACKENDS)),
        "the device behind it",
    ),
    NAME,
    COMMENT,
];

const BAR_KEYS: [Key; BAR_OWN.len() + models::COUNT] = joined(BAR_OWN, MODEL_KEYS);

/// `[[pci.bar]]`
pub(in crate::policy) static PCI_BAR: Table = Table {
    title: "[[pci.bar]]",
    keys: &BAR_KEYS,
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
        only(
            &["vfio"],
            "msi-x",
            Kind::Number(0, 2047),
            "the vector of the function's MSI-X table that it is, instead of the interrupt pin",
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
