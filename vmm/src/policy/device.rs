//! The owner's PnP device: its names, and the resources that its driver is told of.
//!
//! Resources are what the PnP manager tells a driver in IRP_MN_START_DEVICE. They allow nothing by themselves: the port
//! and memory rules decide, and [`Policy::warnings`] says where they do not cover a resource.

use super::diagnostic::{Diagnostic, Source};
use super::{BarKind, PciRule, Policy, PortBackend};

/// Most resources of a device: as many as the guest takes.
pub const RESOURCES_MAX: usize = kernel_shim::pnp::resources::RESOURCES_MAX;

/// The `[device]` table, with the `[[resource]]`s.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Device {
    /// The driver whose device it is, without `.sys`; `None`: the last one that is started.
    pub driver: Option<String>,
    /// The last part of the instance path; `None`: 0000.
    pub instance_id: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// Hardware ids; empty: those of a root-enumerated device.
    pub hardware_ids: Vec<String>,
    /// Compatible ids.
    pub compatible_ids: Vec<String>,
    /// Resources, in the file's order.
    pub resources: Vec<Resource>,
}

impl Device {
    /// Whether the policy says nothing of a device.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Device {
    /// Makes it a modelled PCI function's: what the PCI bus driver would find by its registers. What has no place at the
    /// start is no resource.
    pub(super) fn add_function(&mut self, rule: &PciRule) {
        let Some(model) = rule.model() else { return };
        let mut add = |kind, share, place: super::Place| {
            self.resources.push(Resource {
                kind,
                share,
                line: place.line,
                span: (0, 0),
            });
        };
        for bar in &model.bars {
            let Some((first, last)) = bar.range() else {
                continue;
            };
            let ports = u16::try_from(first).ok().zip(u16::try_from(last).ok());
            let kind = match (bar.kind, ports) {
                (BarKind::Port, Some((first, last))) => ResourceKind::Port(first, last),
                (BarKind::Port, None) => continue,
                (BarKind::Memory | BarKind::Memory64, _) => ResourceKind::Memory(first, last),
            };
            add(kind, Share::Device, bar.place);
        }
        let line = model.interrupt.and_then(|pin| u8::try_from(pin.line).ok());
        if let Some(line) = line {
            let is_latched = false;
            let kind = ResourceKind::Interrupt { line, is_latched };
            add(kind, Share::Shared, rule.place);
        }
        self.add_pci_ids(rule, &model.initial);
    }

    /// The ids of "Identifiers for PCI Devices" (Windows driver documentation), most special first.
    fn add_pci_ids(&mut self, rule: &PciRule, header: &[u8]) {
        let Some(id) = rule.target.id else { return };
        let byte = |at: usize| header.get(at).copied().unwrap_or(0);
        let device = format!("PCI\\VEN_{:04X}&DEV_{:04X}", id.vendor, id.device);
        let subsystem = [0x2F, 0x2E, 0x2D, 0x2C].map(|at| format!("{:02X}", byte(at)));
        let subsystem = subsystem.concat();
        let revision = byte(8);
        let class = format!("{:02X}{:02X}", byte(11), byte(10));
        let interface = format!("{class}{:02X}", byte(9));
        if self.hardware_ids.is_empty() {
            self.hardware_ids = vec![
                format!("{device}&SUBSYS_{subsystem}&REV_{revision:02X}"),
                format!("{device}&SUBSYS_{subsystem}"),
                format!("{device}&CC_{interface}"),
                format!("{device}&CC_{class}"),
            ];
        }
        if self.compatible_ids.is_empty() {
            self.compatible_ids = vec![
                format!("{device}&REV_{revision:02X}"),
                device,
                format!("PCI\\VEN_{:04X}&CC_{interface}", id.vendor),
                format!("PCI\\VEN_{:04X}&CC_{class}", id.vendor),
                format!("PCI\\VEN_{:04X}", id.vendor),
                format!("PCI\\CC_{interface}"),
                format!("PCI\\CC_{class}"),
            ];
        }
    }
}

/// What a resource is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResourceKind {
    /// Ports, first to last.
    Port(u16, u16),
    /// Physical addresses, first to last.
    Memory(u64, u64),
    /// An interrupt line.
    Interrupt {
        /// 0 to 23.
        line: u8,
        /// Edge-triggered.
        is_latched: bool,
    },
    /// A DMA channel, 0 to 7.
    Dma(u8),
}

/// CM_SHARE_DISPOSITION.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// CmResourceShareDeviceExclusive.
    Device,
    /// CmResourceShareDriverExclusive.
    Driver,
    /// CmResourceShareShared.
    Shared,
}

/// A `[[resource]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resource {
    /// What it is.
    pub kind: ResourceKind,
    /// Who may use it.
    pub share: Share,
    /// Where it stands in the policy: line, from 1.
    pub line: usize,
    /// Where it stands in the policy: byte offsets of its header.
    pub(super) span: (usize, usize),
}

impl Resource {
    /// The arguments of [`abi::channel::Operation::AddResource`].
    #[must_use]
    pub fn words(&self) -> [u64; 6] {
        // CM_RESOURCE_PORT_IO and CM_RESOURCE_PORT_16_BIT_DECODE; CM_RESOURCE_INTERRUPT_LATCHED.
        let (kind, first, count, flags) = match self.kind {
            ResourceKind::Port(first, last) => (1, first.into(), u64::from(last - first) + 1, 0x11),
            ResourceKind::Memory(first, last) => (3, first, last - first + 1, 0),
            ResourceKind::Interrupt { line, is_latched } => {
                (2, line.into(), 0, u64::from(is_latched))
            }
            ResourceKind::Dma(channel) => (4, channel.into(), 0, 0),
        };
        let share = match self.share {
            Share::Device => 1,
            Share::Driver => 2,
            Share::Shared => 3,
        };
        [kind, first, count, flags, 1, share]
    }

    /// Whether both name the same port, address, line or channel.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        use ResourceKind::{Dma, Interrupt, Memory, Port};
        match (self.kind, other.kind) {
            (Port(first, last), Port(other_first, other_last)) => {
                first <= other_last && other_first <= last
            }
            (Memory(first, last), Memory(other_first, other_last)) => {
                first <= other_last && other_first <= last
            }
            (Interrupt { line, .. }, Interrupt { line: other, .. }) => line == other,
            (Dma(channel), Dma(other)) => channel == other,
            _ => false,
        }
    }
}

/// The parts of `first..=last` that no range of `covered` has.
fn gaps(first: u64, last: u64, mut covered: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    covered.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = Some(first);
    for (from, to) in covered {
        let Some(at) = next.filter(|at| *at <= last) else {
            break;
        };
        if from > at {
            gaps.push((at, last.min(from - 1)));
        }
        next = if to >= at { to.checked_add(1) } else { next };
    }
    gaps.extend(next.filter(|at| *at <= last).map(|at| (at, last)));
    gaps
}

impl Policy {
    /// The PnP device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// Where modelled functions' BARs are at start: ports or memory.
fn bars(policy: &Policy, is_port: bool) -> impl Iterator<Item = (u64, u64)> + '_ {
    policy
        .pci_rules
        .iter()
        .filter_map(PciRule::model)
        .flat_map(|model| &model.bars)
        .filter(move |bar| (bar.kind == BarKind::Port) == is_port)
        .filter_map(super::PciBar::range)
}

/// The first part of a resource that no rule allows, whether there is more of it, and the name of such rules.
fn uncovered(policy: &Policy, kind: ResourceKind) -> Option<((u64, u64), bool, &'static str)> {
    let (gaps, rule) = match kind {
        ResourceKind::Port(first, last) => {
            let rules = policy
                .port_rules
                .iter()
                .filter(|rule| rule.backend != PortBackend::Deny)
                .map(|rule| (rule.first, rule.last));
            let pairs = policy
                .index_pairs
                .iter()
                .flat_map(|pair| [(pair.index, pair.index), (pair.data, pair.data)]);
            let covered = rules
                .chain(pairs)
                .map(|(from, to)| (from.into(), to.into()))
                .chain(bars(policy, true));
            let gaps = gaps(first.into(), last.into(), covered.collect());
            (gaps, "[[port]]")
        }
        ResourceKind::Memory(first, last) => {
            let rules = policy.memory_rules.iter();
            let covered = rules
                .filter(|rule| rule.access.is_some())
                .map(|rule| (rule.first, rule.last))
                .chain(bars(policy, false));
            (gaps(first, last, covered.collect()), "[[memory]]")
        }
        _ => return None,
    };
    gaps.first().map(|gap| (*gap, gaps.len() > 1, rule))
}

/// Resources that the driver is told of, but may not use.
pub(super) fn warnings(policy: &Policy, source: &Source<'_>) -> Vec<Diagnostic> {
    policy
        .device
        .resources
        .iter()
        .filter_map(|resource| {
            let ((first, last), has_more, rule) = uncovered(policy, resource.kind)?;
            let more = if has_more { " and more" } else { "" };
            Some(source.diagnostic(
                &(resource.span.0..resource.span.1),
                format!("no {rule} rule allows {first:#x}-{last:#x}{more} of this resource"),
                format!("a {rule} rule for the range; a resource allows nothing by itself"),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_left() {
        assert_eq!(gaps(0, 9, vec![]), [(0, 9)]);
        assert_eq!(gaps(2, 9, vec![(8, 20), (0, 3)]), [(4, 7)]);
        assert_eq!(gaps(2, 9, vec![(0, 5), (3, 4), (6, 9)]), []);
        assert_eq!(gaps(2, 9, vec![(3, 3), (5, 5)]), [(2, 2), (4, 4), (6, 9)]);
        assert_eq!(gaps(0, u64::MAX, vec![(1, u64::MAX)]), [(0, 0)]);
    }

    fn policy(text: &str) -> Policy {
        Policy::from_str("p.toml", text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn mistake(text: &str) -> String {
        let error = Policy::from_str("p.toml", text).unwrap_err().to_string();
        let line = error.lines().next().unwrap_or_default();
        line.to_owned()
    }

    #[test]
    fn device_and_resources_are_read() {
        let policy = policy(
            "[device]\ndriver = \"a.sys\"\ninstance-id = \"7\"\ndescription = \"A card\"\nhardware-ids = [\"X\"]\n\
             compatible-ids = [\"Y\"]\n[[resource]]\ntype = \"port\"\nrange = 0x300\n[[resource]]\n\
             type = \"interrupt\"\nline = 5\nmode = \"latched\"\nshare = \"shared\"\n",
        );
        let device = policy.device();
        assert_eq!(device.driver.as_deref(), Some("a.sys"));
        assert_eq!(
            (&*device.hardware_ids, &*device.compatible_ids),
            (&["X".to_owned()][..], &["Y".to_owned()][..])
        );
        assert_eq!(device.resources[0].words(), [1, 0x300, 1, 0x11, 1, 1]);
        assert_eq!(device.resources[1].words(), [2, 5, 0, 1, 1, 3]);
        assert!(!device.is_empty());
        assert!(Policy::deny_all().device().is_empty());
    }

    #[test]
    fn mistakes_in_resources_have_their_place() {
        for (text, expected) in [
            (
                "[[resource]]\nrange = 1\n",
                "p.toml:1:1: [[resource]] has no `type`",
            ),
            (
                "[[resource]]\ntype = \"port\"\n",
                "p.toml:1:1: [[resource]] has no `range`",
            ),
            (
                "[[resource]]\ntype = \"prt\"\nrange = 1\n",
                "p.toml:2:8: `type` cannot be \"prt\"; did you mean \"port\"?",
            ),
            (
                "[[resource]]\ntype = \"port\"\nrange = \"0-0x10000\"\n",
                "p.toml:3:9: 0x10000 is above 0xffff",
            ),
            (
                "[[resource]]\ntype = \"interrupt\"\nline = 24\n",
                "p.toml:3:8: `line` cannot be 24",
            ),
            (
                "[[resource]]\ntype = \"dma\"\nline = 2\nchannel = 1\n",
                "p.toml:3:1: `line` belongs to a resource of another type",
            ),
            (
                "[[resource]]\ntype = \"memory\"\nrange = \"0-0xffffffff\"\n",
                "p.toml:3:9: a memory resource has less than 4 GiB",
            ),
            (
                "[device]\nhardware-ids = \"x\"\n",
                "p.toml:2:16: `hardware-ids` is no list",
            ),
            (
                "[device]\nhardware-ids = [\"a b\"]\n",
                "p.toml:2:17: this is no id",
            ),
            (
                "[device]\ninstance-id = \"a\\\\b\"\n",
                "p.toml:2:15: `instance-id` cannot be this text",
            ),
            (
                "[device]\nrange = 1\n",
                "p.toml:2:1: `range` belongs to a [[resource]]",
            ),
            (
                "[[resource]]\ntype = \"port\"\nrange = \"1-4\"\n[[resource]]\ntype = \"port\"\nrange = \"4-9\"\n",
                "p.toml:4:1: this resource and the one of line 1 overlap",
            ),
        ] {
            let found = mistake(text);
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
        let many: String = (0..=RESOURCES_MAX)
            .map(|port| format!("[[resource]]\ntype = \"port\"\nrange = {port}\n"))
            .collect();
        assert!(mistake(&many).contains("65 [[resource]]s"));
    }

    #[test]
    fn resources_without_rules_are_warned_of() {
        let ports = "[[resource]]\ntype = \"port\"\nrange = \"0x300-0x307\"\n";
        let rule = "[[port]]\nrange = \"0x300-0x303\"\naccess = \"r\"\nbackend = \"ram\"\n";
        let deny = "[[port]]\nrange = \"0x304-0x307\"\nbackend = \"deny\"\n";
        let denied = policy(&format!("{ports}{rule}{deny}"));
        let warnings = denied.warnings();
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].line, 1);
        assert!(
            warnings[0]
                .message
                .contains("no [[port]] rule allows 0x304-0x307"),
            "{}",
            warnings[0]
        );
        let allowed = deny.replace("backend = \"deny\"", "access = \"rw\"\nbackend = \"ram\"");
        assert!(
            policy(&format!("{ports}{rule}{allowed}"))
                .warnings()
                .is_empty()
        );
        let memory = "[[resource]]\ntype = \"memory\"\nrange = \"0xd0010-0xd001f\"\n";
        assert!(policy(memory).warnings()[0].message.contains("[[memory]]"));
    }
}
