//! The guest's TSS bitmap (ring-3 stub) and the VMM's mirror of it decide alike, and as a naive model does.

use std::sync::{Mutex, PoisonError};

use integration_tests::codes::{ioperm, status};
use integration_tests::{Client, Target, fields, is_lane, machine_tests, status_of};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vmm::session::driver::{DriverError, PortWidth, RunningDriver};

machine_tests!(guest_and_mirror_decide_as_the_map_says);

const WIDTHS: [PortWidth; 3] = [PortWidth::Byte, PortWidth::Word, PortWidth::Dword];

/// One change to a map of all ones.
#[derive(Clone, Debug)]
enum Edit {
    AllowRange(u16, u16),
    DenyRange(u16, u16),
    /// One byte of the map as it is.
    Byte(u16, u8),
}

#[derive(Clone, Debug)]
struct Access {
    port: u16,
    width: PortWidth,
    is_write: bool,
}

/// Ports near what is interesting: both ends, bytes of the map, and the edges of ranges in `edges`.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        3 => any::<u16>(),
        2 => 0xFFF8..=0xFFFF_u16,
        1 => 0..=8_u16,
        2 => (any::<u8>(), 0..4_u16).prop_map(|(byte, back)| {
            (u16::from(byte) * 8).wrapping_sub(back)
        }),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let range =
        || (port(), 0..40_u16).prop_map(|(first, more)| (first, first.saturating_add(more)));
    prop_oneof![
        4 => range().prop_map(|(first, last)| Edit::AllowRange(first, last)),
        1 => (port(), port()).prop_map(|(one, two)| Edit::AllowRange(one.min(two), one.max(two))),
        2 => range().prop_map(|(first, last)| Edit::DenyRange(first, last)),
        2 => (0..8192_u16, any::<u8>()).prop_map(|(index, bits)| Edit::Byte(index, bits)),
    ]
}

fn case() -> impl Strategy<Value = (Vec<Edit>, Vec<Access>)> {
    prop::collection::vec(edit(), 0..6).prop_flat_map(|edits| {
        // Mostly around the edges of what was edited, one to three ports off: accesses straddle them.
        let edges: Vec<u16> = edits
            .iter()
            .flat_map(|edit| match *edit {
                Edit::AllowRange(first, last) | Edit::DenyRange(first, last) => [first, last],
                Edit::Byte(index, _) => [index * 8, index * 8 + 7],
            })
            .chain([0xFFFF])
            .collect();
        let near = (prop::sample::select(edges), -4..5_i32).prop_map(|(edge, off)| {
            u16::try_from((i32::from(edge) + off).rem_euclid(0x1_0000)).unwrap_or(0)
        });
        let access = (
            prop_oneof![3 => near, 1 => port()],
            prop::sample::select(&WIDTHS[..]),
            any::<bool>(),
        )
            .prop_map(|(port, width, is_write)| Access {
                port,
                width,
                is_write,
            });
        (Just(edits), prop::collection::vec(access, 1..12))
    })
}

/// The model: a list of ports.
struct Model(Vec<bool>);

impl Model {
    fn new(edits: &[Edit]) -> Self {
        let mut allowed = vec![false; 0x1_0000];
        for edit in edits {
            match *edit {
                Edit::AllowRange(first, last) => {
                    allowed[usize::from(first)..=usize::from(last)].fill(true);
                }
                Edit::DenyRange(first, last) => {
                    allowed[usize::from(first)..=usize::from(last)].fill(false);
                }
                Edit::Byte(index, bits) => {
                    for bit in 0..8 {
                        allowed[usize::from(index) * 8 + bit] = bits >> bit & 1 == 0;
                    }
                }
            }
        }
        Self(allowed)
    }

    fn map(&self) -> Vec<u8> {
        self.0
            .chunks(8)
            .map(|ports| {
                ports
                    .iter()
                    .rev()
                    .fold(0, |byte, allowed| byte << 1 | u8::from(!allowed))
            })
            .collect()
    }

    /// Every port that the access covers, and none beyond 0xFFFF.
    fn allows(&self, access: &Access) -> bool {
        let first = usize::from(access.port);
        (first..first + usize::from(access.width.bytes()))
            .all(|port| self.0.get(port).is_some_and(|allowed| *allowed))
    }
}

fn decision<T>(result: Result<T, DriverError>) -> bool {
    match status_of(result).0 {
        status::SUCCESS => true,
        status::PRIVILEGED_INSTRUCTION => false,
        other => panic!("status {other:#x}"),
    }
}

fn guest_and_mirror_decide_as_the_map_says(target: Target) {
    // Nothing is named by the policy: allowed reads are ones, allowed writes are dropped.
    let machine = target.start_sample("ioperm", "[default]\nmax-log-rate = 0\n");
    let client = Mutex::new(Client::open(&machine, r"\\.\ioperm"));
    let cases = std::env::var("RINGFENCE_PROPERTY_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or_else(|| if is_lane() { 24 } else { 200 });
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });

    let outcome = runner.run(&case(), |(edits, accesses)| {
        let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
        let model = Model::new(&edits);
        let set = [&fields!(1_u32)[..], &model.map()].concat();
        client.control(ioperm::SET_MAP, &set, 0);
        for access in &accesses {
            let expected = model.allows(access);
            let process = &mut client.process;
            let guest = if access.is_write {
                decision(process.port_out(access.port, access.width, 0x55))
            } else {
                decision(process.port_in(access.port, access.width))
            };
            let write = access.is_write.then_some(0x55);
            let mirror = decision(process.port_by_mirror(access.port, access.width, write));
            prop_assert_eq!(guest, expected, "guest, {:?}", access);
            prop_assert_eq!(mirror, expected, "mirror, {:?}", access);
        }
        Ok(())
    });

    outcome.unwrap_or_else(|error| panic!("{error}"));
    // The cases were not all of one kind.
    let denied = client
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .process
        .stats()
        .unwrap()
        .port_denied;
    assert!(denied > u64::from(cases), "only {denied} were allowed");
}
