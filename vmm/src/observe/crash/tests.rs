use super::super::symbols::Module;
use super::super::trace::tests_support::{CLOCK, EXPORTS, call};
use super::super::unwind::tests::Pieces;
use super::*;

const DRIVER: u64 = 0x8200_0000;

struct Guest {
    memory: Pieces,
    symbols: Symbols,
    flight: Flight,
    unbound: Vec<(String, String)>,
}

impl Guest {
    fn new() -> Self {
        let mut memory = Pieces::default();
        memory.put(DRIVER + 0x1100, &[0x90, 0x90, 0xE8, 0, 0, 0, 0, 0x90]);
        // mov dword [eax], 0 / mov dword [rax], 0
        memory.put(DRIVER + 0x1234, &[0xC7, 0, 0, 0, 0, 0]);
        memory.put(0x8801_0000, &0x8200_1107_u64.to_le_bytes());
        let mut flight = Flight::default();
        let mut last = call(2, &[0x379], b"");
        last.caller = DRIVER + 0x1107;
        flight.record(&last);
        Self {
            memory,
            symbols: Symbols::new(vec![Module::driver("faulty.sys", DRIVER, 0x3000)]),
            flight,
            unbound: vec![("hal.dll".into(), "HalFrob\x07nicate".into())],
        }
    }

    fn reporter(&self, abi: DriverAbi) -> Reporter<'_> {
        Reporter {
            driver: "faulty.sys",
            abi,
            privilege: Privilege::Ring3,
            symbols: &self.symbols,
            memory: &self.memory,
            exports: EXPORTS,
            unbound: &self.unbound,
            flight: &self.flight,
            clock: CLOCK,
        }
    }
}

fn record(kind: CrashKind, code: u32) -> CrashRecord {
    let mut registers = Registers {
        rip: DRIVER + 0x1234,
        rflags: 0x10246,
        cs: 0x33,
        ..Registers::default()
    };
    registers.general[4] = 0x8801_0000;
    CrashRecord {
        kind: kind as u32,
        code,
        parameters: [0; 4],
        registers,
        vector: NO_VECTOR,
        error_code: 0,
        irql: 0,
        text_bytes: 0,
        text: [0; 512],
    }
}

#[test]
fn null_write_reads_as_a_report() {
    let guest = Guest::new();
    let mut record = record(CrashKind::Bugcheck, 0x1E);
    record.parameters = [0xFFFF_FFFF_C000_0005, DRIVER + 0x1234, 1, 0];
    record.vector = 14;
    record.error_code = 2;
    let report = guest
        .reporter(DriverAbi::Amd64)
        .crashed(&record)
        .to_string();
    assert_eq!(
        report,
        "\
faulty.sys crashed: bugcheck 0x1e KMODE_EXCEPTION_NOT_HANDLED
  The driver raised an exception and no handler took it.
  parameter 1: 0xffffffffc0000005 = STATUS_ACCESS_VIOLATION  exception code
  parameter 2: 0x0000000082001234 = faulty.sys+0x1234  address of the instruction
  parameter 3: 0x0000000000000001  exception's first parameter
  parameter 4: 0x0000000000000000  exception's second parameter
  exception 14 (#PF), error code 0x2: wrote to 0x0 (a null pointer): nothing is mapped there
  at faulty.sys+0x1234, IRQL PASSIVE_LEVEL (amd64, ring3)
  c7 00 00 00 00 00    mov dword [rax], 0

Registers:
    rax 0000000000000000    rcx 0000000000000000    rdx 0000000000000000    rbx 0000000000000000
    rsp 0000000088010000    rbp 0000000000000000    rsi 0000000000000000    rdi 0000000000000000
     r8 0000000000000000     r9 0000000000000000    r10 0000000000000000    r11 0000000000000000
    r12 0000000000000000    r13 0000000000000000    r14 0000000000000000    r15 0000000000000000
    rip 0000000082001234 rflags 0000000000010246     cs 0000000000000033    cr2 0000000000000000

Stack:
    0x0000000082001234  faulty.sys+0x1234
  ? 0x0000000082001107  faulty.sys+0x1107
  (? = found by scanning the stack; may be left over from earlier calls)

Last API calls and port accesses:
  [    0.000000] READ_PORT_UCHAR(port: 0x379) = ?  from faulty.sys+0x1107"
    );
}

#[test]
fn i386_report_has_32_bit_registers_and_code() {
    let guest = Guest::new();
    let report = guest
        .reporter(DriverAbi::I386)
        .crashed(&record(CrashKind::Bugcheck, 0xD1));
    assert_eq!(report.registers[0].0, "eax");
    assert_eq!(
        report.instruction.unwrap().text.unwrap(),
        "mov dword [eax], 0"
    );
}

#[test]
fn unbound_import_is_named_with_its_caller() {
    let guest = Guest::new();
    let report = guest
        .reporter(DriverAbi::Amd64)
        .crashed(&record(CrashKind::UnboundImport, 0))
        .to_string();
    assert!(
        report.starts_with(
            "faulty.sys stopped: it called hal.dll!HalFrob\\x07nicate, which Ringfence does not have\n  \
             called from faulty.sys+0x1234\n"
        ),
        "{report}"
    );
    let beyond = guest
        .reporter(DriverAbi::Amd64)
        .crashed(&record(CrashKind::UnboundImport, 7));
    assert!(beyond.headline().contains("unbound import 7"));
}

#[test]
fn shim_panic_is_called_a_bug_of_ours() {
    let guest = Guest::new();
    let mut record = record(CrashKind::ShimPanic, 0);
    record.text[..8].copy_from_slice(b"\x1b[2Jboom");
    record.text_bytes = u32::MAX;
    let report = guest
        .reporter(DriverAbi::Amd64)
        .crashed(&record)
        .to_string();
    assert!(report.contains("a bug of Ringfence"), "{report}");
    assert!(report.contains("\\x1b[2Jboom\\0"), "{report}");
    assert!(!report.contains('\x1b'));
}

#[test]
fn hang_says_where_it_was() {
    let guest = Guest::new();
    let registers = record(CrashKind::Bugcheck, 0).registers;
    let report = guest
        .reporter(DriverAbi::Amd64)
        .hung(Duration::from_millis(2500), &registers);
    assert_eq!(report.headline(), "faulty.sys hung: no answer for 2.500 s");
    assert_eq!(report.location, "faulty.sys+0x1234");
    assert_eq!(report.irql, None);
}

#[test]
fn no_memory_at_the_instruction_pointer_is_no_problem() {
    let guest = Guest::new();
    let report = guest
        .reporter(DriverAbi::Amd64)
        .vm_failed("KVM_EXIT_SHUTDOWN", &Registers::default())
        .to_string();
    assert!(
        report.contains("(no memory at the instruction pointer)"),
        "{report}"
    );
}

#[test]
fn damaged_record_is_still_a_report() {
    let guest = Guest::new();
    let mut record = record(CrashKind::Bugcheck, 0);
    record.kind = 77;
    record.irql = u32::MAX;
    record.vector = 200;
    let report = guest.reporter(DriverAbi::I386).crashed(&record);
    assert_eq!(report.cause, Cause::DamagedRecord { number: 77 });
}

#[test]
fn json_is_one_object() {
    let guest = Guest::new();
    let report = guest
        .reporter(DriverAbi::Amd64)
        .crashed(&record(CrashKind::Bugcheck, 0xDEAD_0001));
    let object = serde_json::to_value(&report).unwrap();
    assert_eq!(object["cause"]["kind"], "bugcheck");
    assert_eq!(object["cause"]["code"], "0xdead0001");
    assert_eq!(object["registers"]["rip"], "0x82001234");
    assert_eq!(object["stack"][1]["is_guess"], true);
    assert_eq!(object["history"][0]["from"], "faulty.sys+0x1107");
}
