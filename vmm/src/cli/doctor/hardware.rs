//! What this machine's kernel lets a policy pass through, and what to load or allow for the rest.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use super::{Check, State};
use crate::hardware::{HostBar, bars_of, dma_obstacle};
use crate::policy::PciAddress;

/// What a device's DMA needs to be locked: the smallest guest's memory.
const GUEST_BYTES: u64 = 16 << 20;

/// Looks below `root`, which is `/` but in tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hardware<'a> {
    pub(super) root: &'a Path,
}

fn ok(subject: &str, finding: String) -> Check {
    Check::new(State::Ok, subject, finding, "")
}

fn warn(subject: &str, finding: impl Into<String>, advice: &str) -> Check {
    Check::new(State::Warn, subject, finding.into(), advice)
}

impl Hardware<'_> {
    /// Everything but ioperm and /dev/port.
    pub(super) fn checks(self) -> Vec<Check> {
        let mut checks = vec![
            self.lockdown(),
            self.dev_mem(),
            self.msr(),
            self.parport(),
            self.pci(),
            self.uio(),
        ];
        checks.extend(self.iommu());
        checks
    }

    fn path(self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn text(self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    /// `None`: the file is not there.
    fn opens(self, path: &str) -> Option<bool> {
        let path = self.path(path);
        path.exists().then(|| {
            let opened = OpenOptions::new().read(true).write(true).open(path);
            opened.is_ok()
        })
    }

    /// The entries of a folder whose names begin like this.
    fn names(self, folder: &str, begin: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(begin))
            .collect();
        names.sort();
        names
    }

    fn lockdown(self) -> Check {
        let text = self.text("sys/kernel/security/lockdown");
        // "[none] integrity confidentiality"
        let mode = text.as_deref().and_then(|text| {
            let (_, rest) = text.split_once('[')?;
            Some(rest.split_once(']')?.0)
        });
        match mode {
            None => ok(
                "lockdown",
                "the kernel has none, or does not tell".to_owned(),
            ),
            Some("none") => ok("lockdown", "off".to_owned()),
            Some(mode) => warn(
                "lockdown",
                format!(
                    "{mode}: the kernel refuses ports, /dev/mem, writes to MSRs, BARs and PCI configuration, to root too"
                ),
                "Secure Boot turns it on: turn that off in the firmware; ppdev, UIO and VFIO do without",
            ),
        }
    }

    fn dev_mem(self) -> Check {
        let release = self.text("proc/sys/kernel/osrelease").unwrap_or_default();
        let config = self
            .text(&format!("boot/config-{}", release.trim()))
            .unwrap_or_default();
        let has = |option: &str| config.lines().any(|line| line == option);
        let is_relaxed = self
            .text("proc/cmdline")
            .is_some_and(|line| line.split_whitespace().any(|word| word == "iomem=relaxed"));
        let strictness = if has("CONFIG_IO_STRICT_DEVMEM=y") && !is_relaxed {
            "; not RAM, and not what a driver of the kernel has claimed (CONFIG_IO_STRICT_DEVMEM; iomem=relaxed on the \
             kernel's command line lifts it)"
        } else if has("CONFIG_STRICT_DEVMEM=y") {
            "; not RAM (CONFIG_STRICT_DEVMEM)"
        } else {
            ""
        };
        match self.opens("dev/mem") {
            Some(true) => ok("/dev/mem", format!("can be opened{strictness}")),
            Some(false) => warn(
                "/dev/mem",
                "no permission",
                "for memory rules with source = \"dev-mem\" run as root",
            ),
            None => warn(
                "/dev/mem",
                "does not exist",
                "memory of the machine is passed through by PCI functions' BARs alone here",
            ),
        }
    }

    fn msr(self) -> Check {
        let processors = self.names("dev/cpu", "");
        let first = processors
            .iter()
            .find_map(|name| self.opens(&format!("dev/cpu/{name}/msr")));
        let writes = self
            .text("sys/module/msr/parameters/allow_writes")
            .unwrap_or_default();
        let writes = match writes.trim() {
            "off" => "; writes are refused (msr.allow_writes=off)",
            _ => "",
        };
        match first {
            Some(true) => ok("/dev/cpu/*/msr", format!("can be opened{writes}")),
            Some(false) => warn(
                "/dev/cpu/*/msr",
                "no permission",
                "for MSR rules with passthrough run as root",
            ),
            None => warn(
                "/dev/cpu/*/msr",
                "does not exist",
                "for MSR rules with passthrough load the kernel's module, as root: modprobe msr",
            ),
        }
    }

    fn parport(self) -> Check {
        let ports = self.names("dev", "parport");
        if ports.is_empty() {
            return warn(
                "ppdev",
                "there is no /dev/parport0",
                "for rules with ppdev load the kernel's modules, as root: modprobe -a parport_pc ppdev",
            );
        }
        let usable: Vec<String> = ports
            .iter()
            .filter(|port| self.opens(&format!("dev/{port}")) == Some(true))
            .map(|port| format!("/dev/{port}"))
            .collect();
        if usable.is_empty() {
            return warn(
                "ppdev",
                format!("no permission for /dev/{}", ports.join(", /dev/")),
                "join the file's group: usermod -aG lp NAME, then log in again",
            );
        }
        ok("ppdev", format!("{} can be opened", usable.join(", ")))
    }

    fn pci(self) -> Check {
        let functions = self.names("sys/bus/pci/devices", "");
        if functions.is_empty() {
            return warn(
                "PCI",
                "this machine has no functions",
                "only modelled ones can be passed to a driver here",
            );
        }
        ok(
            "PCI",
            format!(
                "{} functions; `ringfence doctor --pci {}` says what can be done with one",
                functions.len(),
                functions.first().map_or("", String::as_str)
            ),
        )
    }

    fn uio(self) -> Check {
        let devices: Vec<String> = self
            .names("sys/class/uio", "uio")
            .into_iter()
            .map(|name| {
                let driver = self.text(&format!("sys/class/uio/{name}/name"));
                format!("/dev/{name} ({})", driver.unwrap_or_default().trim())
            })
            .collect();
        if !devices.is_empty() {
            return ok("UIO", devices.join(", "));
        }
        if self.path("sys/bus/pci/drivers/uio_pci_generic").exists() {
            return ok(
                "UIO",
                "uio_pci_generic is loaded, and has no function yet".to_owned(),
            );
        }
        warn(
            "UIO",
            "no device",
            "for interrupts by uio load the kernel's module, as root: modprobe uio_pci_generic; then give it the function \
             (docs/policy.md)",
        )
    }

    fn iommu(self) -> Vec<Check> {
        let groups = self.names("sys/kernel/iommu_groups", "");
        if groups.is_empty() {
            return vec![warn(
                "IOMMU",
                "none that is on: a driver cannot have a device's DMA",
                "turn it on in the firmware (VT-d, AMD-Vi); on Intel machines boot with intel_iommu=on as well",
            )];
        }
        let mut checks = vec![ok("IOMMU", format!("{} groups", groups.len()))];
        if self.path("dev/vfio/vfio").exists() {
            let given: Vec<String> = self
                .names("dev/vfio", "")
                .into_iter()
                .filter(|name| name != "vfio" && name != "devices")
                .map(|group| {
                    let folder = format!("sys/kernel/iommu_groups/{group}/devices");
                    let functions = self.names(&folder, "").join(", ");
                    let permission = match self.opens(&format!("dev/vfio/{group}")) {
                        Some(true) => "",
                        _ => ", no permission",
                    };
                    format!("/dev/vfio/{group} ({functions}{permission})")
                })
                .collect();
            checks.push(if given.is_empty() {
                warn(
                    "VFIO",
                    "vfio-pci has no function",
                    "for dma = \"vfio\" give it one: `ringfence doctor --pci BUS-ADDRESS` says how",
                )
            } else {
                ok("VFIO", given.join(", "))
            });
        } else {
            checks.push(warn(
                "VFIO",
                "there is no /dev/vfio/vfio",
                "for dma = \"vfio\" load the kernel's module, as root: modprobe vfio-pci",
            ));
        }
        if let Some(limit) = self.locked_memory_limit()
            && limit < 2 * GUEST_BYTES
        {
            checks.push(warn(
                "locked memory",
                format!("the limit is {} KiB", limit >> 10),
                "for dma = \"vfio\" raise it above the guest's memory: ulimit -l, or /etc/security/limits.conf",
            ));
        }
        checks
    }

    /// Bytes; `None`: there is none.
    fn locked_memory_limit(self) -> Option<u64> {
        let limits = self.text("proc/self/limits")?;
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max locked memory"))?;
        line.split_whitespace().nth(3)?.parse().ok()
    }

    /// One function: what it is, where its BARs are, and whether a driver can have its interrupt and its DMA. `None`: it is
    /// not there.
    pub(super) fn function(self, address: PciAddress) -> Option<Vec<Check>> {
        let folder = self.path("sys/bus/pci/devices").join(address.to_string());
        let id = |name: &str| {
            let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
            text.trim().trim_start_matches("0x").to_owned()
        };
        if !folder.exists() {
            return None;
        }
        let driver = fs::canonicalize(folder.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name);
        let driver =
            driver.map_or_else(|| "none".into(), |name| name.to_string_lossy().into_owned());
        let mut checks = vec![ok(
            "function",
            format!(
                "{address} is {}:{}, class {}; its driver: {driver}",
                id("vendor"),
                id("device"),
                id("class")
            ),
        )];
        let bars = bars_of(&folder);
        checks.extend(bars.iter().map(|bar| self.bar(&folder, bar)));
        checks.push(match id("irq").as_str() {
            "" | "0" => warn("interrupt", "it has no interrupt pin that is wired", ""),
            _ if driver.starts_with("uio") => ok("interrupt", "by uio".to_owned()),
            _ if driver == "vfio-pci" => ok("interrupt", "by vfio".to_owned()),
            _ => warn(
                "interrupt",
                "neither UIO nor VFIO has it",
                "bind the function to uio_pci_generic, or, with an IOMMU, to vfio-pci (docs/policy.md)",
            ),
        });
        checks.push(match dma_obstacle(&folder) {
            None => ok("dma = \"vfio\"", "nothing is in the way".to_owned()),
            Some(obstacle) => warn("dma = \"vfio\"", "not as it is", &obstacle),
        });
        Some(checks)
    }

    fn bar(self, folder: &Path, bar: &HostBar) -> Check {
        let subject = format!("BAR {}", bar.number);
        let range = format!("{:#x}-{:#x}", bar.first, bar.last);
        if bar.is_port {
            return ok(
                &subject,
                format!("ports {range}: [[port]] with backend = \"passthrough\""),
            );
        }
        let cache = if bar.is_prefetchable {
            ", prefetchable"
        } else {
            ""
        };
        let file = folder.join(format!("resource{}", bar.number));
        let finding = format!("memory {range}{cache}: source = {file:?}");
        match OpenOptions::new().read(true).write(true).open(&file) {
            Ok(_) => ok(&subject, finding),
            Err(error) => warn(
                &subject,
                format!("{finding}: {error}"),
                "run as root, or give the file to a user",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn all(root: &Path) -> String {
        crate::cli::doctor::render(&Hardware { root }.checks())
    }

    #[test]
    fn a_machine_with_nothing_is_told_what_to_load() {
        let folder = tempfile::tempdir().unwrap();
        let text = all(folder.path());
        for expected in [
            "modprobe msr",
            "modprobe -a parport_pc ppdev",
            "modprobe uio_pci_generic",
            "intel_iommu=on",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        assert!(!text.contains("VFIO"), "no IOMMU, no VFIO: {text}");
    }

    #[test]
    fn what_the_kernel_restricts_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        put(
            root,
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
        );
        put(root, "dev/mem", "");
        put(root, "dev/cpu/0/msr", "");
        put(root, "sys/module/msr/parameters/allow_writes", "off\n");
        put(root, "proc/sys/kernel/osrelease", "6.1.0-test\n");
        put(
            root,
            "boot/config-6.1.0-test",
            "CONFIG_STRICT_DEVMEM=y\nCONFIG_IO_STRICT_DEVMEM=y\n",
        );
        let text = all(root);
        assert!(
            text.contains("integrity: the kernel refuses ports"),
            "{text}"
        );
        assert!(text.contains("CONFIG_IO_STRICT_DEVMEM"), "{text}");
        assert!(text.contains("msr.allow_writes=off"), "{text}");
        put(root, "proc/cmdline", "quiet iomem=relaxed\n");
        assert!(all(root).contains("not RAM (CONFIG_STRICT_DEVMEM)"));
        put(
            root,
            "sys/kernel/security/lockdown",
            "[none] integrity confidentiality\n",
        );
        assert!(all(root).contains("lockdown          off"), "{}", all(root));
    }

    #[test]
    fn devices_that_can_be_used_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        put(root, "dev/parport0", "");
        put(root, "sys/class/uio/uio0/name", "uio_pci_generic\n");
        fs::create_dir_all(root.join("sys/kernel/iommu_groups/7/devices/0000:00:10.0")).unwrap();
        put(
            root,
            "proc/self/limits",
            "Max locked memory         65536                65536                bytes\n",
        );
        let text = all(root);
        assert!(text.contains("/dev/parport0 can be opened"), "{text}");
        assert!(text.contains("/dev/uio0 (uio_pci_generic)"), "{text}");
        assert!(text.contains("modprobe vfio-pci"), "{text}");
        assert!(text.contains("the limit is 64 KiB"), "{text}");
        put(root, "dev/vfio/vfio", "");
        assert!(all(root).contains("vfio-pci has no function"));
        put(root, "dev/vfio/7", "");
        assert!(all(root).contains("/dev/vfio/7 (0000:00:10.0)"));
    }

    #[test]
    fn a_function_is_described_with_what_is_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let address = PciAddress::parse("0000:00:10.0").unwrap();
        let hardware = Hardware { root };
        assert_eq!(hardware.function(address), None);
        let at = |name: &str| format!("sys/bus/pci/devices/0000:00:10.0/{name}");
        put(root, &at("vendor"), "0x1234\n");
        put(root, &at("device"), "0x11e8\n");
        put(root, &at("class"), "0x00ff00\n");
        put(root, &at("irq"), "11\n");
        put(
            root,
            &at("resource"),
            "0xfeb00000 0xfebfffff 0x40200\n0xc000 0xc01f 0x40101\n",
        );
        put(root, &at("resource0"), "");
        let text = || crate::cli::doctor::render(&hardware.function(address).unwrap());
        let before = text();
        assert!(
            before.contains("is 1234:11e8, class 00ff00; its driver: none"),
            "{before}"
        );
        assert!(
            before.contains("memory 0xfeb00000-0xfebfffff: source = "),
            "{before}"
        );
        assert!(before.contains("ports 0xc000-0xc01f"), "{before}");
        assert!(before.contains("neither UIO nor VFIO has it"), "{before}");
        assert!(before.contains("no IOMMU"), "{before}");

        let group = root.join("sys/kernel/iommu_groups/7");
        fs::create_dir_all(group.join("devices")).unwrap();
        symlink(&group, root.join(at("iommu_group"))).unwrap();
        let driver = root.join("sys/bus/pci/drivers/vfio-pci");
        fs::create_dir_all(&driver).unwrap();
        symlink(&driver, root.join(at("driver"))).unwrap();
        let bound = text();
        assert!(bound.contains("by vfio"), "{bound}");
        assert!(bound.contains("nothing is in the way"), "{bound}");
    }
}
