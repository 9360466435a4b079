use super::*;

#[test]
fn smallest_and_largest_guest_fit() {
    for abi in [DriverAbi::I386, DriverAbi::Amd64] {
        let image = GuestImage::parse(images::guest(abi), abi).unwrap();
        for privilege in [Privilege::Ring0, Privilege::Ring3] {
            for (bytes, is_verifying) in [
                (layout::RAM_MIN, false),
                (layout::RAM_MIN, true),
                (layout::RAM_MAX, true),
            ] {
                let mut plan =
                    Plan::new(&image, abi, privilege, bytes, Windows::Seven, is_verifying).unwrap();
                plan.finish(Plan::empty_boot_info()).unwrap();
                assert!(plan.pool_bytes > bytes / 4, "{abi:?} {privilege:?} {bytes}");
            }
        }
    }
}

#[test]
fn devices_reach_data_of_drivers_and_nothing_else() {
    for abi in [DriverAbi::I386, DriverAbi::Amd64] {
        let image = GuestImage::parse(images::guest(abi), abi).unwrap();
        for privilege in [Privilege::Ring0, Privilege::Ring3] {
            let mut plan =
                Plan::new(&image, abi, privilege, 16 << 20, Windows::Seven, false).unwrap();
            let slot = plan.reserve_driver(3 * PAGE_SIZE).unwrap();
            // Code, data, constants.
            plan.place_driver(slot, &[0; 0x3000], |page| (page == 1, page == 0))
                .unwrap();
            plan.finish(Plan::empty_boot_info()).unwrap();

            let memory = plan.dma_memory();
            let total: u64 = memory.iter().map(|(_, bytes)| bytes).sum();
            assert_eq!(total, plan.pool_bytes + plan.user_bytes + PAGE_SIZE);
            let is_reached = |address: u64| {
                memory
                    .iter()
                    .any(|(first, bytes)| (*first..first + bytes).contains(&address))
            };
            assert!(!is_reached(plan.tables.root()));
            for region in &plan.regions {
                let pages = (0..region.bytes / PAGE_SIZE).map(|page| {
                    let is_data = region.kind == RegionKind::Driver as u32 && page == 1;
                    let kinds = [RegionKind::Pool, RegionKind::User, RegionKind::UserAlias];
                    let is_meant = kinds.iter().any(|kind| region.kind == *kind as u32) || is_data;
                    (region.physical_address + page * PAGE_SIZE, is_meant)
                });
                for (address, is_meant) in pages {
                    assert_eq!(is_reached(address), is_meant, "{region:?} {address:#x}");
                }
            }
        }
    }
}
