//! Feeds arbitrary bytes, in arbitrary pieces, to what reads a device model's socket.
//!
//! Nothing may panic, and what is decoded must be what was sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::devices::external::protocol::{Dialogue, FromModel, Inbox, Version};

fuzz_target!(|bytes: &[u8]| {
    // The first byte says in which pieces the others come, whether there is shared memory, and a bus master.
    let Some((&first, mut rest)) = bytes.split_first() else {
        return;
    };
    let sent = rest;
    let piece = usize::from(first >> 1) + 1;
    let has_memory = first & 1 != 0;
    let mut inbox = Inbox::default();
    let has_dma = first & 2 != 0;
    let mut dialogue = Dialogue::new(has_memory).with_dma(has_dma);
    let mut read = 0;
    let mut hellos = 0;
    let mut version = Version::One;
    while !rest.is_empty() {
        let room = inbox.room();
        let count = piece.min(room.len()).min(rest.len());
        assert!(count > 0, "no room although everything was read");
        let (now, later) = rest.split_at(count);
        room[..count].copy_from_slice(now);
        inbox.filled(count);
        rest = later;
        while let Some(decoded) = inbox.next_message() {
            let raw = &sent[read..read + version.message_bytes()];
            read += version.message_bytes();
            let message = match decoded {
                Ok(message) => message,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    // The connection ends here.
                    return;
                }
            };
            // A second hello has no form of its own in version 2; the dialogue refuses it.
            if hellos == 0 || !matches!(message, FromModel::Hello { .. }) {
                assert_eq!(*message.encode(version), *raw);
            }
            if read % 3 == 0 {
                dialogue.expect(u32::from(first));
            }
            match dialogue.judge(message) {
                Ok(FromModel::Hello {
                    version: said,
                    width,
                    takes_page,
                    has_event,
                }) => {
                    hellos += 1;
                    assert!(has_memory || !takes_page);
                    assert!(width.is_power_of_two() && width <= said.width_max());
                    assert!(!has_event || said == Version::Two);
                    version = said;
                    inbox.set_version(said);
                }
                Ok(FromModel::Done { number, .. }) => assert_eq!(number, u32::from(first)),
                Ok(FromModel::Dma(_)) => assert!(has_dma && version == Version::Two),
                Ok(_) => {}
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return;
                }
            }
            assert_eq!(hellos, 1, "one hello, and it comes first");
        }
    }
    assert!(sent.len() - read < version.message_bytes());
});
