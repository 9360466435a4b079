//! Device models of `[[port]]` rules and of PCI functions' BARs.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::choices::{EPP, PortKind};
use super::common::string_of;
use crate::policy::fields::{Context, Fields, SpannedRange};
use crate::policy::schema::{PORT, Table};
use crate::policy::{
    AdcSpec, DeviceOutput, DeviceSpec, ExternalSpec, LPT_STATUS_DEFAULT, LptSpec, PortBackend,
    RtcSpec, Shape, UartLink, UartSpec, Wave,
};

/// How far an ECP port's extended registers are from its data register.
const ECP_OFFSET: u64 = 0x400;

const OUTPUT: &str =
    "a file's path, \"-\" for standard output, or \"pty\" for a new pseudo terminal";

/// The back end of a rule with a model; `None` when something is wrong or the kind is no model.
pub(super) fn parse(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    kind: PortKind,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    match kind {
        PortKind::Lpt | PortKind::Printer => {
            parse_lpt(context, fields, kind == PortKind::Printer, range)
        }
        PortKind::Uart => parse_uart(context, fields, range),
        PortKind::Rtc => parse_rtc(context, fields, range),
        PortKind::Pit | PortKind::Gameport | PortKind::Pio => {
            parse_small(context, fields, kind, range)
        }
        PortKind::Adc => parse_adc(context, fields, range),
        PortKind::External => parse_external(context, fields, &PORT)
            .map(|spec| PortBackend::Device(Box::new(DeviceSpec::External(spec)))),
        PortKind::Ppdev => parse_ppdev(context, fields, range),
        PortKind::Passthrough | PortKind::Ram | PortKind::Deny => None,
    }
}

fn parse_ppdev(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    const DEVICE: &str = "a parallel port of the kernel's, such as \"/dev/parport0\"";
    let registers = "data, status, control and EPP's five";
    check_ports(context, range, "ppdev", (3, 8), registers);
    let is_exclusive = fields.flag(context, "exclusive");
    if fields.table.get("device").is_none() {
        fields.missing(context, "device", DEVICE.to_owned());
        return None;
    }
    let (text, span) = fields.string(context, "device", DEVICE)?;
    let is_port = text.strip_prefix("/dev/parport").is_some_and(|number| {
        (1..=3).contains(&number.len()) && number.bytes().all(|digit| digit.is_ascii_digit())
    });
    if !is_port {
        context.error(&span, format!("`device` cannot be \"{text}\""), DEVICE);
        return None;
    }
    Some(PortBackend::Device(Box::new(DeviceSpec::Ppdev {
        device: PathBuf::from(text),
        is_exclusive,
    })))
}

/// The ports that a model has besides those of its range.
pub(super) fn second_range(
    context: &mut Context<'_>,
    range: &SpannedRange,
    backend: &PortBackend,
) -> Option<(u16, u16)> {
    match backend {
        PortBackend::Lpt(spec) if spec.is_ecp => {
            let first = u16::try_from(range.first + ECP_OFFSET).ok();
            let last = u16::try_from(range.first + ECP_OFFSET + 2).ok();
            let second = first.zip(last);
            if second.is_none() {
                context.error(
                    &range.span,
                    "`ecp` has its registers 0x400 ports further, past the last port",
                    "a range below 0xfbfe",
                );
            }
            second
        }
        PortBackend::Device(spec) => match **spec {
            DeviceSpec::Pit { speaker, .. } => speaker.map(|port| (port, port)),
            _ => None,
        },
        _ => None,
    }
}

/// Reports a range that does not fit the model.
fn check_ports(
    context: &mut Context<'_>,
    range: Option<&SpannedRange>,
    model: &str,
    (min, max): (u64, u64),
    registers: &str,
) {
    let Some(range) = range else { return };
    let ports = range.last - range.first + 1;
    if (min..=max).contains(&ports) {
        return;
    }
    let first = range.first.min(0xFFFF - (min - 1));
    let count = if min == max {
        format!("{min} port(s)")
    } else {
        format!("{min} to {max} ports")
    };
    context.error(
        &range.span,
        format!("backend \"{model}\" cannot have {ports} port(s): its registers are {registers}"),
        format!("{count}, such as \"{first:#x}-{:#x}\"", first + min - 1),
    );
}

/// `output`, or `command` instead.
fn parse_output(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<DeviceOutput> {
    let has_output = fields.table.get("output").is_some();
    if fields.table.get("command").is_some() {
        if has_output {
            context.error(
                &fields.span_of("command"),
                "`command` stands for `output`, which is there as well",
                "one of both",
            );
        }
        return parse_command(context, fields).map(DeviceOutput::Command);
    }
    if !has_output {
        fields.missing(context, "output", format!("{OUTPUT}; or `command`"));
        return None;
    }
    let (text, span) = fields.string(context, "output", OUTPUT)?;
    match text {
        "-" => Some(DeviceOutput::Stdout),
        "pty" => Some(DeviceOutput::Pty),
        "" => {
            context.error(&span, "`output` is empty", OUTPUT);
            None
        }
        path if path.contains('\0') => {
            context.error(&span, "`output` has a NUL character", OUTPUT);
            None
        }
        path => Some(DeviceOutput::File(PathBuf::from(path))),
    }
}

fn parse_command(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<Vec<String>> {
    let allowed = "a list of the program and its arguments, such as [\"lp\", \"-s\"]";
    let mut words = Vec::new();
    for element in fields.list(context, "command", allowed)? {
        match element.get_ref() {
            DeValue::String(text) if !text.is_empty() && !text.contains('\0') => {
                words.push(text.clone().into_owned());
            }
            _ => {
                context.error(
                    &element.span(),
                    "this is no text, or an empty one, or has a NUL character",
                    allowed,
                );
                return None;
            }
        }
    }
    Some(words)
}

fn irq(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<u32> {
    let number = fields.bounded(context, &PORT, "irq")?;
    u32::try_from(number).ok()
}

/// `input`: what the peer sends, at most this many bytes.
fn input(context: &mut Context<'_>, fields: &Fields<'_>) -> Vec<u8> {
    fields.bytes(context, "input", 1 << 20).unwrap_or_default()
}

fn byte(context: &mut Context<'_>, fields: &Fields<'_>, key: &str) -> Option<u8> {
    let number = fields.bounded(context, &PORT, key)?;
    u8::try_from(number).ok()
}

fn parse_lpt(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    is_printer: bool,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    let model = if is_printer { "printer" } else { "lpt" };
    check_ports(
        context,
        range,
        model,
        (3, 8),
        "data, status, control and up to five of EPP",
    );
    let status = byte(context, fields, "status").unwrap_or(LPT_STATUS_DEFAULT);
    let irq = irq(context, fields);
    let input = input(context, fields);
    let epp = fields.choice(context, "epp", EPP);
    let is_ecp = fields.flag(context, "ecp");
    if epp.is_some()
        && let Some(range) = range
        && range.last - range.first != 7
    {
        context.error(
            &fields.span_of("epp"),
            "EPP's registers are the fourth to the eighth port",
            format!(
                "a range of 8 ports, such as \"{0:#x}-{1:#x}\"",
                range.first,
                range.first + 7
            ),
        );
    }
    let output = parse_output(context, fields)?;
    Some(PortBackend::Lpt(Box::new(LptSpec {
        output,
        status,
        irq,
        input,
        epp,
        is_ecp,
        is_printer,
    })))
}

fn parse_uart(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    check_ports(context, range, "uart16550", (8, 8), "eight bytes");
    let irq = irq(context, fields);
    let input = input(context, fields);
    let given = string_of(fields, "output");
    let link = match given {
        Some("stdio") => UartLink::Stdio,
        Some("pty") => UartLink::Pty,
        Some(text) if text.starts_with("tcp:") => {
            let port = text.strip_prefix("tcp:").and_then(|port| port.parse().ok());
            let Some(port) = port else {
                context.error(
                    &fields.span_of("output"),
                    format!("`output` cannot be \"{text}\""),
                    "\"tcp:PORT\", 0 to 65535: it listens on 127.0.0.1",
                );
                return None;
            };
            UartLink::Tcp(port)
        }
        _ => UartLink::Output(parse_output(context, fields)?),
    };
    let spec = DeviceSpec::Uart(UartSpec { link, input, irq });
    Some(PortBackend::Device(Box::new(spec)))
}

fn parse_rtc(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    check_ports(context, range, "rtc", (2, 2), "an index and its data");
    let irq = irq(context, fields);
    let allowed = "seconds as text, such as \"-3600\"";
    let offset = match fields.string(context, "offset", allowed) {
        None => 0,
        Some((text, span)) => {
            let offset = text.parse().ok();
            let Some(offset) = offset.filter(|offset: &i64| offset.unsigned_abs() < 10_000_000_000)
            else {
                context.error(&span, format!("`offset` cannot be \"{text}\""), allowed);
                return None;
            };
            offset
        }
    };
    let nvram = match fields.string(context, "nvram", "a file's path") {
        Some((text, span)) if text.is_empty() || text.contains('\0') => {
            context.error(&span, "`nvram` is no path", "a file's path");
            return None;
        }
        other => other.map(|(text, _)| PathBuf::from(text)),
    };
    let spec = DeviceSpec::Rtc(RtcSpec { offset, nvram, irq });
    Some(PortBackend::Device(Box::new(spec)))
}

/// A list of at most `N` bytes; the rest is `rest`.
fn few_bytes<const N: usize>(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    key: &str,
    rest: u8,
) -> [u8; N] {
    let mut bytes = [rest; N];
    let given = fields.bytes(context, key, N).unwrap_or_default();
    for (byte, given) in bytes.iter_mut().zip(given) {
        *byte = given;
    }
    bytes
}

fn parse_small(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    kind: PortKind,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    let spec = match kind {
        PortKind::Pit => {
            check_ports(context, range, "pit", (4, 4), "three counters and control");
            let speaker = fields.bounded(context, &PORT, "speaker");
            DeviceSpec::Pit {
                speaker: speaker.and_then(|port| u16::try_from(port).ok()),
                irq: irq(context, fields),
            }
        }
        PortKind::Gameport => {
            check_ports(context, range, "gameport", (1, 8), "one that repeats");
            DeviceSpec::Gameport {
                axes: few_bytes(context, fields, "axes", 128),
                buttons: byte(context, fields, "buttons").unwrap_or(0),
            }
        }
        PortKind::Pio => {
            check_ports(context, range, "pio8255", (4, 4), "A, B, C and control");
            DeviceSpec::Pio {
                inputs: few_bytes(context, fields, "inputs", 0xFF),
                is_looped: fields.flag(context, "loop"),
            }
        }
        _ => return None,
    };
    Some(PortBackend::Device(Box::new(spec)))
}

fn parse_adc(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    check_ports(context, range, "adc12", (8, 8), "eight bytes");
    let irq = irq(context, fields);
    let micros = fields.bounded(context, &PORT, "conversion-us");
    let digital_in = byte(context, fields, "digital-inputs").unwrap_or(0);
    let allowed = "\"sine\", \"square\", \"triangle\" or \"ramp\", then such as amplitude=1000 frequency=50 \
                   offset=2048; or \"csv:PATH\"";
    let wave = match fields.string(context, "wave", allowed) {
        None => parse_wave("sine"),
        Some((text, span)) => {
            let wave = parse_wave(text);
            if wave.is_none() {
                context.error(&span, format!("`wave` cannot be \"{text}\""), allowed);
            }
            wave
        }
    };
    let spec = DeviceSpec::Adc(AdcSpec {
        irq,
        wave: wave?,
        conversion_micros: micros
            .and_then(|micros| u32::try_from(micros).ok())
            .unwrap_or(10),
        digital_in,
    });
    Some(PortBackend::Device(Box::new(spec)))
}

/// The keys of an external model, which ports and memory may have.
pub(super) fn parse_external(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    table: &Table,
) -> Option<ExternalSpec> {
    let irq = fields
        .bounded(context, table, "irq")
        .and_then(|irq| u32::try_from(irq).ok());
    let millis = fields.bounded(context, table, "answer-ms").unwrap_or(1000);
    let has = |key| fields.table.get(key).is_some();
    let allowed = "a path of at most 107 bytes, where the model listens";
    if !has("socket") && !has("command") {
        fields.missing(context, "socket", format!("{allowed}; or `command`"));
        return None;
    }
    let command = match has("command") {
        true => Some(parse_command(context, fields)?),
        false => None,
    };
    let socket = match has("socket") {
        true => {
            let (text, span) = fields.string(context, "socket", allowed)?;
            // The size of a socket's address.
            if text.is_empty() || text.len() > 107 || text.contains('\0') {
                context.error(&span, "`socket` is no such path", allowed);
                return None;
            }
            Some(PathBuf::from(text))
        }
        false => None,
    };
    Some(ExternalSpec {
        socket,
        command,
        answer_limit: Duration::from_millis(millis),
        irq,
        has_dma: fields.flag(context, "dma"),
    })
}

/// A signal as `wave` has it.
pub(crate) fn parse_wave(text: &str) -> Option<Wave> {
    if let Some(path) = text.strip_prefix("csv:") {
        let is_path = !path.is_empty() && !path.contains('\0');
        return is_path.then(|| Wave::Csv(PathBuf::from(path)));
    }
    let mut words = text.split_whitespace();
    let shape = match words.next()? {
        "sine" => Shape::Sine,
        "square" => Shape::Square,
        "triangle" => Shape::Triangle,
        "ramp" => Shape::Ramp,
        _ => return None,
    };
    let (mut amplitude, mut offset, mut millihertz) = (2047, 2048, 50_000);
    let code = |value: &str| value.parse().ok().filter(|code: &u16| *code <= 4095);
    for word in words {
        match word.split_once('=')? {
            ("amplitude", value) => amplitude = code(value)?,
            ("offset", value) => offset = code(value)?,
            ("frequency", value) => {
                // Hertz with up to three decimals.
                let (whole, part) = value.split_once('.').unwrap_or((value, ""));
                let is_part = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
                let part: u32 = format!("{part:0<3}").parse().ok().filter(|_| is_part)?;
                let whole: u32 = whole.parse().ok()?;
                millihertz = whole.checked_mul(1000)?.checked_add(part)?;
            }
            _ => return None,
        }
    }
    Some(Wave::Formula {
        shape,
        amplitude,
        offset,
        millihertz,
    })
}
