//! The handshake: hello, welcome, and the descriptors that come with it.

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use abi::client::{DATA_MAX, Hello, MAGIC, QUEUE_MAX, QueueLayout, VERSION, Welcome};
use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::Error;

/// Asks for a data area of `data_bytes`. The welcome, the memory's layout, which is what this version computes itself, and
/// the descriptors of memory, kick and call.
///
/// # Errors
/// The socket's; the status with which the driver refuses a client; what came is no welcome of this version's.
pub(crate) fn shake_hands(
    socket: &mut UnixStream,
    data_bytes: u64,
) -> Result<(Welcome, QueueLayout, [OwnedFd; 3]), Error> {
    let hello = Hello {
        magic: MAGIC,
        version_min: VERSION,
        version_max: VERSION,
        queue_size: u32::from(QUEUE_MAX),
        flags: 0,
        data_bytes: data_bytes.min(DATA_MAX),
    };
    socket.write_all(hello.as_bytes())?;
    let (welcome, descriptors) = receive(socket)?;
    let descriptors = descriptors
        .try_into()
        .map_err(|_| Error::Protocol("the welcome came without its descriptors"))?;
    let layout = QueueLayout::new(welcome.queue_size, welcome.data_bytes)
        .filter(|layout| {
            layout.descriptors == welcome.descriptors
                && layout.available == welcome.available
                && layout.used == welcome.used
                && layout.data == welcome.data
        })
        .ok_or(Error::Protocol("the memory's layout is not this version's"))?;
    Ok((welcome, layout, descriptors))
}

fn receive(socket: &UnixStream) -> Result<(Welcome, Vec<OwnedFd>), Error> {
    let mut bytes = [0; size_of::<Welcome>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // A driver that is being started may take a while: signals come and go.
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::WAITALL | RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let no_welcome = Error::Protocol(
        "what came is no welcome; is this a `ringfence run --socket`, with room for a client?",
    );
    let Ok(welcome) = Welcome::read_from_bytes(&bytes) else {
        return Err(no_welcome);
    };
    if received.bytes != size_of::<Welcome>() || welcome.magic != MAGIC {
        return Err(no_welcome);
    }
    if welcome.status != 0 {
        return Err(Error::Status(welcome.status));
    }
    Ok((welcome, descriptors))
}
