//! Whether a device may be let loose on memory: only behind an IOMMU, by VFIO.

use std::fs;
use std::path::Path;

/// Why bus mastering of a function cannot be passed through. There is always a reason: this version moves no DMA by VFIO,
/// so that what the machine has decides only which.
pub(super) fn refusal(function: &Path) -> String {
    let link = function.join("iommu_group");
    let Ok(group) = fs::canonicalize(&link) else {
        return "the machine has no IOMMU that is on (there is no iommu_group): the device would reach all of the \
                machine's memory. On Intel machines turn VT-d on in the firmware and boot with intel_iommu=on"
            .to_owned();
    };
    let number = group.file_name().unwrap_or_default().to_string_lossy();
    let mut others: Vec<String> = fs::read_dir(group.join("devices"))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let driver = fs::canonicalize(entry.path().join("driver")).ok();
            let driver = driver.as_deref().and_then(Path::file_name);
            // Ports of bridges belong to the machine; a function without a driver does nothing.
            let is_free = driver.is_none_or(|driver| {
                ["vfio-pci", "pci-stub", "pcieport"]
                    .iter()
                    .any(|name| driver == *name)
            });
            let driver = driver.unwrap_or_default().to_string_lossy();
            (!is_free).then(|| format!("{} by {driver}", entry.file_name().to_string_lossy()))
        })
        .collect();
    others.sort();
    if !others.is_empty() {
        return format!(
            "its IOMMU group {number} is not viable: it is in use by other drivers ({}); all of a group's functions must be \
             bound to vfio-pci",
            others.join(", ")
        );
    }
    format!("its IOMMU group {number} could be used by VFIO, but this version has no way to it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn each_reason_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let function = folder.path().join("0000:00:10.0");
        fs::create_dir(&function).unwrap();
        assert!(refusal(&function).contains("no IOMMU"));

        let group = folder.path().join("iommu_groups/7");
        let drivers = folder.path().join("drivers");
        for driver in ["vfio-pci", "e1000e"] {
            fs::create_dir_all(drivers.join(driver)).unwrap();
        }
        fs::create_dir_all(group.join("devices/0000:00:10.0")).unwrap();
        symlink(&group, function.join("iommu_group")).unwrap();
        let driver = group.join("devices/0000:00:10.0/driver");
        symlink(drivers.join("e1000e"), &driver).unwrap();
        let text = refusal(&function);
        assert!(text.contains("group 7 is not viable"), "{text}");
        assert!(text.contains("0000:00:10.0 by e1000e"), "{text}");

        fs::remove_file(&driver).unwrap();
        symlink(drivers.join("vfio-pci"), &driver).unwrap();
        assert!(refusal(&function).contains("no way to it"));
    }
}
