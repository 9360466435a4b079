//! The images of ntoskrnl.exe and hal.dll: import stubs and the shim's variables, where drivers look for them.

use abi::DriverAbi;
use abi::boot::{RegionFlags, RegionKind};
use abi::layout::{self, PAGE_SIZE, STUB_BYTES};
use abi::windows::Windows;
use kernel_shim::export::{Coverage, Export, ExportKind, Module};
use kernel_shim::table::EXPORTS;

use super::super::convert::to_usize;
use super::super::kernel_image::{self, KernelImage, Parts};
use super::super::stubs;
use super::{GuestImage, Plan, PlanError};

/// Where the shim's variables are, and where the images show them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KernelData {
    /// First address of the shim's writable segment.
    pub(super) address: u64,
    /// Bytes of it, a multiple of the page size.
    pub(super) bytes: u64,
    /// RVA of `.data` in both images.
    pub(super) rva: u32,
}

/// Whether an image lists an export. What is only declared is not there for a driver that looks.
fn lists(export: &Export, abi: DriverAbi, is_hal: bool) -> bool {
    let belongs = match export.module {
        Module::Either => true,
        Module::Hal => is_hal,
        Module::Ntoskrnl => !is_hal,
        // Bound by address; neither image lists them.
        Module::Wdfldr | Module::Wdf => false,
    };
    belongs && export.machines.has(abi) && export.coverage != Coverage::Missing
}

impl Plan {
    /// The offset of a kernel image in kernel space.
    const fn image_offset(is_hal: bool) -> u64 {
        if is_hal {
            layout::HAL
        } else {
            layout::NTOSKRNL
        }
    }

    /// RVA of an export in ntoskrnl.exe or hal.dll; `None` for a variable that this ABI does not have.
    fn export_rva(&self, index: usize, export: &Export) -> Option<u64> {
        match export.kind {
            ExportKind::Function { .. } => {
                Some(layout::KERNEL_TEXT_RVA + index as u64 * STUB_BYTES)
            }
            ExportKind::Data { .. } => {
                let address = *self.export_addresses.get(index)?;
                let offset = address.checked_sub(self.kernel_data.address)?;
                (offset < self.kernel_data.bytes).then(|| u64::from(self.kernel_data.rva) + offset)
            }
        }
    }

    /// Address of export `index` in the image that has it, in hal.dll's if both have and `dll` is hal.dll.
    #[must_use]
    pub(in super::super) fn import_address(&self, index: usize, dll: &str) -> Option<u64> {
        let export = EXPORTS.get(index)?;
        let is_hal = match export.module {
            Module::Hal => true,
            Module::Ntoskrnl | Module::Wdfldr | Module::Wdf => false,
            Module::Either => dll.eq_ignore_ascii_case("hal.dll"),
        };
        let rva = self.export_rva(index, export)?;
        Some(self.kernel_base + Self::image_offset(is_hal) + rva)
    }

    /// Maps both images.
    pub(super) fn kernel_images(
        &mut self,
        image: &GuestImage<'_>,
        windows: Windows,
    ) -> Result<(), PlanError> {
        let text = stubs::code(
            self.abi,
            self.privilege,
            &self.export_addresses,
            &image.header,
        )?;
        let variables = image.segments.iter().find(|segment| segment.write);
        self.kernel_data = variables.map_or_else(KernelData::default, |segment| KernelData {
            address: segment.address,
            bytes: segment.memory_bytes,
            rva: kernel_image::data_rva(text.len()),
        });
        // By name, as both images have them: sorted once.
        let mut by_name: Vec<(usize, &Export)> = EXPORTS.iter().enumerate().collect();
        by_name.sort_unstable_by_key(|(_, export)| export.name.as_bytes());
        for is_hal in [false, true] {
            let exports = by_name
                .iter()
                .copied()
                .filter(|(_, export)| lists(export, self.abi, is_hal))
                .filter_map(|(index, export)| {
                    let rva = self.export_rva(index, export)?;
                    Some((export.name, u32::try_from(rva).ok()?))
                })
                .collect();
            let offset = Self::image_offset(is_hal);
            let built = KernelImage::new(&Parts {
                name: if is_hal { "hal.dll" } else { "ntoskrnl.exe" },
                abi: self.abi,
                base: self.kernel_base + offset,
                release: windows.release(self.abi),
                text: &text,
                data_bytes: self.kernel_data.bytes,
                exports,
            });
            self.kernel_image(offset, &text, &built)?;
        }
        Ok(())
    }

    fn kernel_image(
        &mut self,
        offset: u64,
        text: &[u8],
        built: &KernelImage,
    ) -> Result<(), PlanError> {
        let constants = offset + u64::from(built.constants_rva);
        for (offset, bytes, flags) in [
            (offset, built.headers.as_slice(), RegionFlags::empty()),
            (offset + layout::KERNEL_TEXT_RVA, text, RegionFlags::EXECUTE),
            (constants, built.constants.as_slice(), RegionFlags::empty()),
        ] {
            let physical = self.map(offset, bytes.len() as u64, RegionKind::Exports, flags)?;
            self.ram.write(physical, bytes)?;
        }
        let KernelData { address, bytes, .. } = self.kernel_data;
        if let Some((physical, _)) = self.translate(address)
            && bytes != 0
        {
            let data = self.kernel_base + offset + u64::from(built.data_rva);
            self.map_at(
                data,
                physical,
                bytes,
                RegionKind::Exports,
                RegionFlags::WRITE,
            )?;
        }
        debug_assert_eq!(to_usize(constants % PAGE_SIZE), 0);
        Ok(())
    }
}
