//! Whether a device may be let loose on memory: only behind an IOMMU, by VFIO.

use std::fs;
use std::path::Path;

/// Drivers that leave a function to VFIO: ports of bridges belong to the machine, and pci-stub does nothing (Linux,
/// Documentation/driver-api/vfio.rst).
const HARMLESS: [&str; 3] = ["vfio-pci", "pci-stub", "pcieport"];

/// What keeps VFIO from confining a function's DMA, and what to do about it; `None`: nothing that sysfs tells.
pub(crate) fn obstacle(function: &Path) -> Option<String> {
    let link = function.join("iommu_group");
    let Ok(group) = fs::canonicalize(&link) else {
        return Some(
            "the machine has no IOMMU that is on (there is no iommu_group): the device would reach all of the machine's \
             memory. Turn it on in the firmware (VT-d on Intel machines, AMD-Vi on AMD's); on Intel machines boot with \
             intel_iommu=on as well"
                .to_owned(),
        );
    };
    let number = name(&group);
    let address = name(function);
    let mut others: Vec<String> = fs::read_dir(group.join("devices"))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let other = entry.file_name().to_string_lossy().into_owned();
            let driver = driver_of(&entry.path())?;
            // A function without a driver does nothing.
            let is_free = HARMLESS.contains(&driver.as_str());
            (!is_free && other != address).then(|| format!("{other} by {driver}"))
        })
        .collect();
    others.sort();
    if !others.is_empty() {
        return Some(format!(
            "its IOMMU group {number} is not viable: it is in use by other drivers ({}); all of a group's functions must be \
             bound to vfio-pci, or to no driver",
            others.join(", ")
        ));
    }
    let driver = driver_of(function);
    if driver.as_deref() == Some("vfio-pci") {
        return None;
    }
    let unbind = match &driver {
        None => String::new(),
        Some(_) => format!("write {address} to {}/driver/unbind, ", function.display()),
    };
    Some(format!(
        "it is bound to {} and not to vfio-pci: as root, modprobe vfio-pci, then {unbind}write vfio-pci to \
         {}/driver_override and {address} to /sys/bus/pci/drivers_probe",
        driver.as_deref().unwrap_or("no driver"),
        function.display()
    ))
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The driver that has a function.
fn driver_of(function: &Path) -> Option<String> {
    let driver = fs::canonicalize(function.join("driver")).ok()?;
    Some(name(&driver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn each_obstacle_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let function = folder.path().join("devices/0000:00:10.0");
        fs::create_dir_all(&function).unwrap();
        let text = |function: &Path| obstacle(function).unwrap();
        assert!(text(&function).contains("no IOMMU"));

        let group = folder.path().join("iommu_groups/7");
        let drivers = folder.path().join("drivers");
        for driver in ["vfio-pci", "e1000e"] {
            fs::create_dir_all(drivers.join(driver)).unwrap();
        }
        fs::create_dir_all(group.join("devices")).unwrap();
        let other = folder.path().join("devices/0000:00:10.1");
        fs::create_dir_all(&other).unwrap();
        for function in [&function, &other] {
            symlink(&group, function.join("iommu_group")).unwrap();
            symlink(function, group.join("devices").join(name(function))).unwrap();
        }
        let none = text(&function);
        assert!(
            none.contains("no driver") && none.contains("modprobe vfio-pci"),
            "{none}"
        );
        assert!(!none.contains("unbind"), "{none}");

        symlink(drivers.join("e1000e"), other.join("driver")).unwrap();
        let busy = text(&function);
        assert!(busy.contains("group 7 is not viable"), "{busy}");
        assert!(busy.contains("0000:00:10.1 by e1000e"), "{busy}");
        let own = text(&other);
        assert!(
            own.contains("bound to e1000e") && own.contains("driver/unbind"),
            "{own}"
        );

        fs::remove_file(other.join("driver")).unwrap();
        symlink(drivers.join("vfio-pci"), function.join("driver")).unwrap();
        assert_eq!(obstacle(&function), None);
    }
}
