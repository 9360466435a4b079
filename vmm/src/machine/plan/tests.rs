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
