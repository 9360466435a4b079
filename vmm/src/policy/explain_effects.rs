//! What becomes of an allowed access on its way to the back end, in words: masks, other ports, limits.

use super::{BitMasks, Limits, OnRate, PciRule, Policy, PortBackend, PortRule};
use crate::pci::PciRequest;
use crate::ports::PortRequest;

impl Policy {
    /// What the rules change about an allowed port access, and how often they allow one.
    pub(super) fn port_effects(&self, request: &PortRequest, index: u8) -> Vec<String> {
        let mut effects = Vec::new();
        let mut limited = None;
        let mut latched = index;
        for byte in 0..request.width.bytes() {
            let Some(port) = request.port.checked_add(byte) else {
                break;
            };
            let written = request
                .write
                .map(|value| value.to_le_bytes()[usize::from(byte)]);
            if let Some((number, rule)) = self.rule_of_port(port) {
                port_rule_effects(&mut effects, rule, port, written);
                if limited.replace(number) != Some(number) {
                    limit_effects(&mut effects, rule.limits);
                }
            } else if let Some((_, pair)) = self.pair_of_port(port) {
                if port == pair.index {
                    latched = written.unwrap_or(latched);
                } else if let Some(register) = pair.register(latched) {
                    let value = written.map(u64::from);
                    bit_effects(&mut effects, &register.masks, value, 0xFF);
                }
            }
        }
        effects
    }
}

fn port_rule_effects(effects: &mut Vec<String>, rule: &PortRule, port: u16, written: Option<u8>) {
    let offset = port - rule.first;
    if rule.backend == PortBackend::Passthrough && rule.host_first != rule.first {
        let host = rule.host_first.saturating_add(offset);
        effects.push(format!("port {port:#x} is the machine's port {host:#x}"));
    }
    let mask = match written {
        Some(_) => &rule.write_mask,
        None => &rule.read_mask,
    };
    let Some(mask) = mask else {
        return;
    };
    let stopped = !mask.mask.at(offset);
    if stopped == 0 {
        return;
    }
    effects.push(match (&mask.fixed, written) {
        (Some(_), Some(value)) => format!(
            "port {port:#x}: {value:#x} arrives as {:#x}",
            mask.apply(offset, value, 0)
        ),
        (None, Some(value)) => format!(
            "port {port:#x}: of {value:#x} the bits {stopped:#x} do not arrive: there they are as last passed on, 0 at first"
        ),
        (fixed, None) => {
            let fixed = fixed.as_ref().map_or(0, |fixed| fixed.at(offset)) & stopped;
            format!("port {port:#x}: the bits {stopped:#x} of what is read are replaced by {fixed:#x}")
        }
    });
}

/// What masks do to a register's value of which `mask` has all bits; `None`: to a read.
pub(super) fn bit_effects(
    effects: &mut Vec<String>,
    masks: &BitMasks,
    written: Option<u64>,
    mask: u64,
) {
    let stopped = mask
        & !match written {
            Some(_) => masks.write,
            None => masks.read,
        };
    if stopped == 0 {
        return;
    }
    effects.push(match (written, masks.write_fixed) {
        (Some(value), Some(_)) => {
            format!(
                "{value:#x} arrives as {:#x}",
                masks.written(value, 0) & mask
            )
        }
        (Some(value), None) => {
            format!("of {value:#x} the bits {stopped:#x} do not arrive: the register keeps its own")
        }
        (None, _) => format!(
            "the bits {stopped:#x} of what is read are replaced by {:#x}",
            masks.read_fixed & stopped
        ),
    });
}

/// What the rules of registers do to an allowed access to configuration space.
pub(super) fn pci_effects(rule: &PciRule, request: &PciRequest) -> Vec<String> {
    let mut effects = Vec::new();
    for byte in 0..request.width.bytes() {
        let offset = request.register.saturating_add(byte);
        let Some(register) = rule.register(offset) else {
            continue;
        };
        let masks = register.masks.byte(offset - register.first);
        let written = request
            .write
            .map(|value| u64::from(value.to_le_bytes()[usize::from(byte)]));
        let mut of_byte = Vec::new();
        bit_effects(&mut of_byte, &masks, written, 0xFF);
        let of_byte = of_byte.into_iter();
        effects.extend(of_byte.map(|effect| format!("register {offset:#x}: {effect}")));
    }
    limit_effects(&mut effects, rule.limits);
    effects
}

pub(super) fn limit_effects(effects: &mut Vec<String>, limits: Limits) {
    if let Some(rate) = limits.rate {
        let others = match rate.on_rate {
            OnRate::Delay => "the guest waits for the others",
            OnRate::Deny => "the others are denied",
        };
        effects.push(format!(
            "at most {} accesses a second, {} at once: {others}",
            rate.per_second, rate.burst
        ));
    }
    if let Some(quota) = limits.quota {
        effects.push(format!(
            "at most {quota} accesses until the end of the run: the others are denied"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PciTarget;
    use crate::ports::Width;

    fn policy(text: &str) -> Policy {
        Policy::from_str("p.toml", text).unwrap()
    }

    #[test]
    fn masks_limits_and_other_ports_are_told() {
        let policy = policy(
            r#"
            [[port]]
            range = "0x378-0x37a"
            access = "rw"
            backend = "passthrough"
            remap = 0xe050
            write-mask = [0xff, 0xff, 0x0f]
            write-fixed = [0, 0, 0x20]
            read-mask = [0xff, 0xf8]
            rate = 100
            burst = 5
            on-rate = "delay"
            quota = 1000

            [[port]]
            range = 0x300
            access = "w"
            backend = "ram"
            write-mask = 0x7f
            "#,
        );
        let explain =
            |port, width, write| policy.explain_port(&PortRequest { port, width, write }, 0);
        let text = explain(0x379, Width::Word, Some(0xFF55));
        for expected in [
            "port 0x379 is the machine's port 0xe051\n",
            "port 0x37a: 0xff arrives as 0x2f\n",
            "at most 100 accesses a second, 5 at once: the guest waits for the others\n",
            "at most 1000 accesses until the end of the run: the others are denied\n",
        ] {
            assert_eq!(text.matches(expected).count(), 1, "{text}");
        }
        assert!(!text.contains("0x55 arrives"), "{text}");
        let text = explain(0x379, Width::Byte, None);
        assert!(
            text.contains("the bits 0x7 of what is read are replaced by 0x0\n"),
            "{text}"
        );
        let text = explain(0x300, Width::Byte, Some(0xFF));
        assert!(
            text.contains("of 0xff the bits 0x80 do not arrive"),
            "{text}"
        );
        // What is denied gets nowhere.
        let text = explain(0x300, Width::Byte, None);
        assert!(!text.contains("bits"), "{text}");
    }

    #[test]
    fn masks_of_registers_are_told() {
        let policy = policy(
            r#"
            [[index-pair]]
            index = 0x70
            data = 0x71
            backend = "ram"
            [[index-pair.register]]
            range = "0x0a-0x0b"
            access = "rw"
            write-mask = 0x0f

            [[pci]]
            bdf = "0000:00:03.0"
            backend = "passthrough"
            i-know-what-this-does = true
            [[pci.register]]
            range = "0x04-0x05"
            access = "rw"
            write-mask = 0x0003
            write-fixed = 0

            [[msr]]
            register = 0x1b
            access = "r"
            backend = "value"
            value = 0xfee00900
            read-mask = 0xfffff000
            quota = 3
            "#,
        );
        let request = PortRequest {
            port: 0x71,
            width: Width::Byte,
            write: Some(0x55),
        };
        let text = policy.explain_port(&request, 0x0B);
        assert!(
            text.contains("of 0x55 the bits 0xf0 do not arrive: the register keeps its own\n"),
            "{text}"
        );
        let target = PciTarget {
            address: crate::policy::PciAddress::parse("0000:00:03.0"),
            id: None,
        };
        let request = PciRequest {
            address: target.address.unwrap(),
            register: 4,
            width: Width::Word,
            write: Some(0x0107),
        };
        let text = policy.explain_pci(&target, &request);
        for expected in [
            "register 0x4: 0x7 arrives as 0x3\n",
            "register 0x5: 0x1 arrives as 0x0\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        let text = policy.explain_msr(0x1B, None);
        assert!(
            text.contains("the bits 0xffffffff00000fff of what is read"),
            "{text}"
        );
        assert!(text.contains("at most 3 accesses"), "{text}");
    }
}
