//! The memory of a client of the channel holds the fuzzer's bytes, at every step, under the queue that VMM and shim share.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use abi::client::QueueLayout;
use channel::{HEADER, Incoming, Piece, RESULT, Refusal};
use libfuzzer_sys::fuzz_target;
use vmm::session::client::queue;

/// What a driver gets of a client's memory lies inside of it.
fn check(piece: Option<Piece>, bytes: u64, layout: &QueueLayout) {
    if let Some(piece) = piece {
        assert_eq!(piece.bytes, bytes);
        assert!(piece.at.checked_add(piece.bytes).is_some_and(|end| end <= layout.bytes()));
    }
}

fuzz_target!(|data: &[u8]| {
    let layout = QueueLayout::new(8, 4096).expect("it is within bounds");
    let (mut queue, file) = queue::create(layout).expect("there is memory");
    let file = File::from(file);
    // The memory changes between two requests, as a client's may.
    for piece in data.chunks(1024) {
        file.write_all_at(piece, 0).expect("it fits");
        // The VMM's way: the chain is taken, then understood.
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
        // The shim's: it is understood first, and taken if it is whole.
        while let Ok(Some(head)) = queue.peek() {
            let Ok(incoming) = Incoming::decode(&queue, head) else { break };
            if !incoming.is_for_shim() {
                break;
            }
            check(incoming.chain.single_readable(HEADER), incoming.header.input_bytes.into(), &layout);
            check(incoming.chain.single_writable(RESULT), incoming.header.output_bytes.into(), &layout);
            queue.take_peeked(head);
            assert!(queue.is_busy(head));
            // The other side goes on with what this one knows.
            let state = *queue.state();
            queue.set_state(state);
            queue.write(&incoming.chain, 0, &[0; 32]);
            queue.give_back(head, 32).expect("the ring is where it is");
        }
        assert_eq!(queue.busy_count(), 0);
        queue.is_signal_due().expect("the ring is where it is");
        queue.arm().expect("the ring is where it is");
    }
});
