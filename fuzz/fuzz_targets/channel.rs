//! The memory of a client of the channel holds the fuzzer's bytes, at every step.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use abi::client::QueueLayout;
use libfuzzer_sys::fuzz_target;
use vmm::session::client::queue::Queue;
use vmm::session::client::request::{Incoming, Refusal};

fuzz_target!(|data: &[u8]| {
    let layout = QueueLayout::new(8, 4096).expect("it is within bounds");
    let (mut queue, file) = Queue::create(layout).expect("there is memory");
    let file = File::from(file);
    // The memory changes between two requests, as a client's may.
    for piece in data.chunks(1024) {
        file.write_all_at(piece, 0).expect("it fits");
        for _ in 0..8 {
            let Ok(Some(head)) = queue.take() else { break };
            let written = match Incoming::decode(&queue, head) {
                Ok(incoming) => {
                    assert_eq!(incoming.input(&queue).len() as u64 + incoming.output(&queue).len() as u64, incoming.bytes());
                    queue.write(&incoming.chain, 0, piece)
                }
                Err(Refusal::Status(chain, _)) => queue.write(&chain, 0, &[0; 32]),
                Err(Refusal::Unanswerable) => 0,
            };
            let written = u32::try_from(written).unwrap_or(u32::MAX);
            queue.give_back(head, written).expect("the ring is where it is");
        }
        queue.is_signal_due().expect("the ring is where it is");
        queue.arm().expect("the ring is where it is");
    }
});
