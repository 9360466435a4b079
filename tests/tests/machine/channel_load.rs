//! Many clients at once: every request is answered, with its own answer, however both sides sleep and wake.
//!
//! A wake-up that is lost shows as a client that does not go on.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use abi::DriverAbi;
use integration_tests::codes::{echo, status};
use integration_tests::{Target, fields, machine_tests, patience};
use ringfence_client::{Connection, Notify, Request};

use super::channel::Served;

machine_tests!(many_clients_get_each_its_own_answers);

const CLIENTS: u32 = 16;
/// Most requests of a client at a time.
const AT_A_TIME: u64 = 6;

/// Numbers that look random, the same in each run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % end
    }

    /// None, one that is shorter than a look, about as long as one, longer than anybody looks for.
    fn pause(&mut self) {
        match self.below(8) {
            0 => std::thread::yield_now(),
            1 => {
                let (began, length) = (Instant::now(), Duration::from_micros(self.below(150)));
                while began.elapsed() < length {
                    std::hint::spin_loop();
                }
            }
            2 => std::thread::sleep(Duration::from_micros(self.below(400))),
            3 if self.below(16) == 0 => std::thread::sleep(Duration::from_millis(3)),
            _ => {}
        }
    }
}

/// Requests of which some complete at once and some when a timer says so, waited for in any order.
fn rounds(socket: &Path, number: u32, count: u32) {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15 ^ u64::from(number) << 32);
    let client = Connection::connect(socket).unwrap();
    let handle = client.open(r"\\.\echo").unwrap();
    for round in 0..count {
        let mut under_way = Vec::new();
        for request in 0..=numbers.below(AT_A_TIME) {
            let own = number << 24 | round << 8 | u32::try_from(request).unwrap();
            let is_late = numbers.below(16) == 0;
            let (code, input, expected) = if is_late {
                let delay = u32::try_from(numbers.below(3)).unwrap();
                let answer = (!own).to_le_bytes().to_vec();
                (echo::PEND, fields!(delay, own), answer)
            } else {
                let input = own.to_le_bytes().repeat(16);
                let answer = echo::coded(&input, 0xA5);
                (echo::BUFFERED, input, answer)
            };
            let request = Request::ioctl(handle.0, code, &input, 64);
            under_way.push((client.submit(&request, Notify::Wait).unwrap(), expected));
            numbers.pause();
        }
        while !under_way.is_empty() {
            let index = usize::try_from(numbers.below(under_way.len() as u64)).unwrap();
            let (tag, expected) = under_way.swap_remove(index);
            let done = client.wait(tag).unwrap();
            assert_eq!(done.status, status::SUCCESS);
            assert_eq!(done.output, expected, "client {number}, round {round}");
            numbers.pause();
        }
    }
}

fn many_clients_get_each_its_own_answers(target: Target) {
    // What is interpreted takes milliseconds a request.
    let count = if target.abi == DriverAbi::I386 {
        4
    } else {
        100
    };
    let served = Served::start(target, "echo", "");
    let (sender, done) = channel();
    for number in 0..CLIENTS {
        let (socket, sender) = (served.path.clone(), sender.clone());
        std::thread::spawn(move || {
            rounds(&socket, number, count);
            sender.send(number).unwrap();
        });
    }
    drop(sender);

    let mut left: Vec<u32> = (0..CLIENTS).collect();
    while !left.is_empty() {
        match done.recv_timeout(patience() * 2) {
            Ok(number) => left.retain(|&other| other != number),
            Err(RecvTimeoutError::Timeout) => panic!("clients {left:?} do not go on"),
            Err(RecvTimeoutError::Disconnected) => panic!("clients {left:?} failed"),
        }
    }
}
