//! The PnP device.

use super::{ADDRESS_MAX, COMMENT, Kind, NAME, Table, key, required, words};
use crate::policy::parse::device::{CHANNEL_MAX, ID_MAX, IDS_MAX, KINDS, LINE_MAX, MODES, SHARES};

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
            "pci",
            Kind::Form("^([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f][.][0-7]$"),
            "the modelled function whose BARs and interrupt it has",
        ),
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
