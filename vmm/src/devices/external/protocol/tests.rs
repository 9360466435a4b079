use super::*;
use proptest::prelude::*;

const VERSIONS: [Version; 2] = [Version::One, Version::Two];

const TRANSFER: Transfer = Transfer {
    number: 0x0506_0708,
    address: 0x0000_0001_0200_3000,
    bytes: 0x1234,
    buffer_offset: 0x8000,
    is_write: true,
};

fn messages(version: Version) -> Vec<FromModel> {
    let mut messages = vec![
        FromModel::Hello {
            version,
            width: 2,
            takes_page: true,
            has_event: version == Version::Two,
        },
        FromModel::Done {
            number: 0x0102_0304,
            value: match version {
                Version::One => 0xA0B0_C0D0,
                Version::Two => 0xA0B0_C0D0_E0F0_0102,
            },
        },
        FromModel::Signal(Signal::Assert),
        FromModel::Signal(Signal::Deassert),
        FromModel::Signal(Signal::Pulse),
        FromModel::Doorbell,
        FromModel::Goodbye,
    ];
    if version == Version::Two {
        messages.push(FromModel::Dma(TRANSFER));
    }
    messages
}

#[test]
fn transfers_lie_in_the_buffer_and_are_for_bus_masters_of_version_2() {
    let mut bytes = *b"\x88\0\x01\0\x08\x07\x06\x05\0\x30\0\x02\x01\0\0\0\x34\x12\0\0\0\x80\0\0";
    assert_eq!(*FromModel::Dma(TRANSFER).encode(Version::Two), bytes);
    assert_eq!(
        FromModel::decode(&bytes, Version::Two),
        Ok(FromModel::Dma(TRANSFER))
    );
    let of_version_1 = FromModel::decode(&bytes[..MESSAGE_BYTES], Version::One);
    assert_eq!(of_version_1, Err(Malformed::Kind(0x88)));
    let mut with = |size: u32, offset: u32| {
        bytes[16..20].copy_from_slice(&size.to_le_bytes());
        bytes[20..].copy_from_slice(&offset.to_le_bytes());
        FromModel::decode(&bytes, Version::Two)
    };
    let last = u32::try_from(DMA_BYTES).unwrap();
    for (size, offset) in [(1, last - 1), (last, 0)] {
        assert!(matches!(with(size, offset), Ok(FromModel::Dma(_))));
    }
    for (size, offset) in [
        (0, 0),
        (1, last),
        (last, 1),
        (last + 1, 0),
        (u32::MAX, u32::MAX),
    ] {
        assert_eq!(with(size, offset), Err(Malformed::Buffer));
    }

    let done = ToModel::DmaDone {
        number: 7,
        end: TransferEnd::NoMaster,
    };
    assert_eq!(
        *done.encode(Version::Two),
        *b"\x08\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"
    );
    let hello = messages(Version::Two)[0];
    for (has_dma, expected) in [
        (true, Ok(FromModel::Dma(TRANSFER))),
        (false, Err(Malformed::NoDma)),
    ] {
        let mut dialogue = Dialogue::new(true).with_dma(has_dma);
        assert!(dialogue.judge(FromModel::Dma(TRANSFER)).is_err());
        dialogue.judge(hello).unwrap();
        assert_eq!(dialogue.judge(FromModel::Dma(TRANSFER)), expected);
    }
}

#[test]
fn messages_have_the_documented_bytes() {
    let said = |range| {
        ToModel::Hello(Hello {
            range,
            has_line: true,
            has_page: true,
            is_again: false,
            has_dma: false,
        })
    };
    let ports = said(ModelRange::ports(0x300, 8));
    let memory = ModelRange {
        first: 0x1_FEB0_1000,
        bytes: 0x10_0000,
        is_memory: true,
    };
    for version in VERSIONS {
        assert_eq!(
            *ports.encode(version),
            *b"\x01\0\x02\0RFDM\x08\0\0\0\x00\x03\x03\x00"
        );
        assert_eq!(
            *said(memory).encode(version),
            *b"\x01\0\x02\0RFDM\0\0\x01\0\x00\x10\x0b\x00"
        );
    }
    let access = |write| ToModel::Access {
        number: 7,
        access: Access {
            offset: 0x0201,
            bytes: 4,
            write,
        },
    };
    assert_eq!(
        *access(None).encode(Version::One),
        *b"\x02\x04\x01\x02\0\0\0\0\x07\0\0\0\0\0\0\0"
    );
    assert_eq!(
        *access(Some(0x1234_5678)).encode(Version::One),
        *b"\x03\x04\x01\x02\x78\x56\x34\x12\x07\0\0\0\0\0\0\0"
    );
    assert_eq!(
        *access(Some(0x1234_5678)).encode(Version::Two),
        *b"\x03\x04\0\0\x07\0\0\0\x01\x02\0\0\0\0\0\0\x78\x56\x34\x12\0\0\0\0"
    );
    assert_eq!(
        *ToModel::Range(memory).encode(Version::Two),
        *b"\x07\0\x01\0\0\0\0\0\x00\x10\xb0\xfe\x01\0\0\0\0\0\x10\0\0\0\0\0"
    );
    let read = Access {
        offset: 0x0201,
        bytes: 8,
        write: None,
    };
    assert_eq!(read.word(Version::One), 0x0201_0802);
    assert_eq!(read.word(Version::Two), 0x0000_0802);
    assert_eq!(
        *messages(Version::One)[0].encode(Version::One),
        *b"\x81\x02\x01\0RFDM\x01\0\0\0\0\0\0\0"
    );
    assert_eq!(
        *messages(Version::Two)[0].encode(Version::One),
        *b"\x81\x02\x02\0RFDM\x03\0\0\0\0\0\0\0"
    );
    for version in VERSIONS {
        for message in messages(version) {
            let bytes = message.encode(version);
            assert_eq!(FromModel::decode(&bytes, version), Ok(message));
        }
    }
}

#[test]
fn fields_that_a_message_does_not_have_are_zero() {
    for version in VERSIONS {
        for message in messages(version) {
            let bytes = message.encode(version);
            for at in 1..bytes.len() {
                let mut changed = bytes.to_vec();
                changed[at] ^= 0x40;
                if let Ok(other) = FromModel::decode(&changed, version) {
                    // Value and number of an answer are any, and much of a transfer.
                    let is_any = matches!(other, FromModel::Done { .. } | FromModel::Dma(_));
                    assert!(is_any, "{changed:x?}");
                    assert_eq!(*other.encode(version), *changed);
                }
            }
        }
    }
}

#[test]
fn hellos_of_version_1_cannot_say_what_version_2_has() {
    for (bytes, expected) in [
        (b"\x81\x08\x01\0RFDM\0\0\0\0\0\0\0\0", Malformed::Width(8)),
        (
            b"\x81\x04\x01\0RFDM\x02\0\0\0\0\0\0\0",
            Malformed::Field(0x81),
        ),
        (b"\x81\x04\x03\0RFDM\0\0\0\0\0\0\0\0", Malformed::Version(3)),
        (b"\x81\x03\x02\0RFDM\0\0\0\0\0\0\0\0", Malformed::Width(3)),
    ] {
        assert_eq!(FromModel::decode(bytes, Version::One), Err(expected));
    }
}

#[test]
fn dialogue_begins_with_a_hello_and_answers_what_was_asked() {
    let hello = |takes_page| FromModel::Hello {
        version: Version::Two,
        width: 1,
        takes_page,
        has_event: false,
    };
    let done = |number| FromModel::Done { number, value: 0 };
    let mut dialogue = Dialogue::new(false);
    assert_eq!(
        dialogue.judge(FromModel::Goodbye),
        Err(Malformed::BeforeHello(0x86))
    );
    assert_eq!(dialogue.judge(hello(true)), Err(Malformed::Memory));
    assert_eq!(dialogue.judge(hello(false)), Ok(hello(false)));
    assert_eq!(dialogue.judge(hello(false)), Err(Malformed::SecondHello));
    assert_eq!(dialogue.judge(done(0)), Err(Malformed::Answer(0)));
    dialogue.expect(5);
    assert_eq!(dialogue.judge(done(4)), Err(Malformed::Answer(4)));
    assert_eq!(dialogue.judge(done(5)), Ok(done(5)));
    assert_eq!(dialogue.judge(done(5)), Err(Malformed::Answer(5)));
}

proptest! {
    #[test]
    fn bytes_in_any_pieces_are_the_same_messages(
        is_second in any::<bool>(),
        choice in prop::collection::vec(1_usize..7, 0..100),
        pieces in prop::collection::vec(1_usize..600, 1..200),
    ) {
        let version = VERSIONS[usize::from(is_second)];
        let all = messages(version);
        // A hello comes first, and says of which version the others are.
        let sent: Vec<FromModel> = [0].iter().chain(&choice).map(|at| all[*at]).collect();
        let mut bytes: Vec<u8> = sent.iter().flat_map(|one| one.encode(version).to_vec()).collect();
        let mut inbox = Inbox::default();
        let mut received = Vec::new();
        for piece in pieces.iter().cycle() {
            let room = inbox.room();
            let count = (*piece).min(room.len()).min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            bytes.drain(..count);
            inbox.filled(count);
            while let Some(message) = inbox.next_message() {
                received.push(message.unwrap());
                inbox.set_version(version);
            }
            if bytes.is_empty() {
                break;
            }
        }
        prop_assert_eq!(received, sent);
    }
}
