//! MSRs under the policy's rules, by a driver's own `rdmsr` and `wrmsr`.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use integration_tests::codes::msr;
use integration_tests::{Client, Target, crash, fields, is_lane, machine_tests};
use vmm::session::Machine;
use vmm::session::driver::{RunningDriver, Stats};

machine_tests!(
    fixed_value_is_read_through_masks,
    denied_msr_reads_what_the_rule_says,
    msr_that_no_rule_names_faults,
    guests_own_registers_are_out_of_reach,
    quota_ends_reads,
    processors_msr_is_read,
);

fn start(target: Target, policy: &str) -> (Machine, Client) {
    let machine = target.start_sample("msr", policy);
    let client = Client::open(&machine, r"\\.\msr");
    (machine, client)
}

fn read(client: &mut Client, number: u32) -> u64 {
    let output = client.control(msr::READ, &fields!(0_u64, number, 0_u32), 8);
    u64::from_le_bytes(output.try_into().unwrap())
}

fn write(client: &mut Client, number: u32, value: u64) {
    client.control(msr::WRITE, &fields!(value, number, 0_u32), 0);
}

fn counts(client: &mut Client) -> (u64, u64, u64) {
    let Stats {
        msr_reads,
        msr_writes,
        msr_denied,
        ..
    } = client.process.stats().unwrap();
    (msr_reads, msr_writes, msr_denied)
}

fn fixed_value_is_read_through_masks(target: Target) {
    let (_machine, mut client) = start(
        target,
        r#"
        [[msr]]
        register = 0x1b
        access = "rw"
        backend = "value"
        value = "0xfedcba9876543210"
        read-mask = "0xffffffff000000ff"
        read-fixed = 0x500
        "#,
    );
    assert_eq!(read(&mut client, 0x1B), 0xFEDC_BA98_0000_0510);
    write(&mut client, 0x1B, u64::MAX);
    assert_eq!(read(&mut client, 0x1B), 0xFEDC_BA98_0000_0510);
    assert_eq!(counts(&mut client), (2, 1, 0));
}

fn denied_msr_reads_what_the_rule_says(target: Target) {
    let (_machine, mut client) = start(
        target,
        r#"
        [[msr]]
        range = "0xc0010000-0xc00100ff"
        backend = "deny"
        on-deny = "ignore"
        denied-read = "0x8000000000000001"

        [[msr]]
        register = 0x10
        access = "w"
        backend = "value"
        value = 0
        values = [1, 2]
        on-deny = "ignore"
        "#,
    );
    assert_eq!(read(&mut client, 0xC001_0015), 0x8000_0000_0000_0001);
    write(&mut client, 0xC001_0015, 0);
    write(&mut client, 0x10, 2);
    write(&mut client, 0x10, 3);
    assert_eq!(read(&mut client, 0x10), 0);
    assert_eq!(counts(&mut client), (0, 1, 4));
}

fn msr_that_no_rule_names_faults(target: Target) {
    let (_machine, mut client) = start(target, "");
    let report = crash(client.process.ioctl(
        client.handle,
        msr::READ,
        &fields!(0_u64, 0x1B_u32, 0_u32),
        8,
    ));
    assert!(report.location.starts_with("msr.sys+0x"), "{report}");
    assert!(
        report
            .history
            .iter()
            .any(|line| line.text == "rdmsr 0x1b -> 0x0 (denied, no rule)"),
        "{report}"
    );
}

/// Neither a read nor a write of EFER, of the GS base or of an APIC register of the guest gets past the rules.
fn guests_own_registers_are_out_of_reach(target: Target) {
    let (_machine, mut client) = start(target, "[default]\nmsr-on-deny = \"ignore\"\n");
    for number in [0xC000_0080, 0xC000_0082, 0xC000_0101, 0x80B, 0x174] {
        write(&mut client, number, 0);
        assert_eq!(read(&mut client, number), 0);
    }
    assert_eq!(counts(&mut client), (0, 0, 10));
}

fn quota_ends_reads(target: Target) {
    let (_machine, mut client) = start(
        target,
        r#"
        [[msr]]
        register = 0x3a
        access = "r"
        backend = "value"
        value = 5
        quota = 2
        on-deny = "ignore"
        denied-read = 9
        "#,
    );
    let values: Vec<u64> = (0..3).map(|_| read(&mut client, 0x3A)).collect();
    assert_eq!(values, [5, 5, 9]);
}

fn processors_msr_is_read(target: Target) {
    if !is_lane() {
        return;
    }
    static LOADING: Mutex<()> = Mutex::new(());
    {
        let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        let status = Command::new("load-module").arg("msr").status().unwrap();
        assert!(status.success());
    }
    // PAT: the kernel sets it at boot and never again.
    const PAT: u32 = 0x277;
    let file = std::fs::File::open("/dev/cpu/0/msr").unwrap();
    let mut bytes = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, PAT.into()).unwrap();
    let expected = u64::from_le_bytes(bytes);
    assert_ne!(expected, 0);
    let (_machine, mut client) = start(
        target,
        r#"
        [[msr]]
        register = 0x277
        access = "r"
        backend = "passthrough"
        "#,
    );
    assert_eq!(read(&mut client, PAT), expected);
    assert_eq!(counts(&mut client), (1, 0, 0));
}
