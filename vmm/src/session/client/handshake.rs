//! From a connection to shared memory.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use abi::client::{Hello, IN_FLIGHT_MAX, MAGIC, QueueLayout, TRANSFER_MAX, VERSION, Welcome};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pipe::PipeFlags;
use vmm_sys_util::eventfd::EventFd;
use zerocopy::{FromBytes, IntoBytes};

use super::connection::ClientEnd;
use super::queue;
use super::status;

/// How long a client may take for its [`Hello`] once it has begun it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a new connection wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Wanted {
    /// Text commands, one a line.
    Text,
    /// A channel.
    Channel,
    /// Nothing: it is closed.
    Nothing,
    /// Nothing yet, for as long as the socket lets a read take.
    Silent,
}

/// Looks at a connection's first byte without taking it.
pub(in crate::session) fn wanted(socket: &UnixStream) -> Wanted {
    let mut first = [0];
    loop {
        match rustix::net::recv(socket, &mut first, RecvFlags::PEEK) {
            Ok((_, 0)) => return Wanted::Nothing,
            Ok(_) if Some(&first[0]) == MAGIC.first() => return Wanted::Channel,
            Ok(_) => return Wanted::Text,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Wanted::Silent,
            Err(_) => return Wanted::Nothing,
        }
    }
}

/// Reads the client's hello.
pub(in crate::session) fn receive(mut socket: &UnixStream) -> io::Result<Hello> {
    let mut bytes = [0; size_of::<Hello>()];
    socket.set_read_timeout(Some(PATIENCE))?;
    let read = socket.read_exact(&mut bytes);
    socket.set_read_timeout(None)?;
    read?;
    let hello = Hello::read_from_bytes(&bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a hello"))?;
    if hello.magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a hello"));
    }
    Ok(hello)
}

/// Refuses a client.
pub(in crate::session) fn refuse(socket: &UnixStream, status: u32) {
    // A client that is gone needs no refusal.
    let _ = send(socket, &refusal(status), &[]).is_ok();
}

fn refusal(status: u32) -> Welcome {
    Welcome {
        magic: MAGIC,
        version: VERSION,
        status,
        queue_size: 0,
        process: 0,
        in_flight_max: 0,
        transfer_max: 0,
        descriptors: 0,
        available: 0,
        used: 0,
        data: 0,
        data_bytes: 0,
        driver_abi: 0,
        reserved: 0,
    }
}

/// The layout that a client wants.
pub(super) fn layout(hello: &Hello) -> Result<QueueLayout, u32> {
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        return Err(status::NOT_SUPPORTED);
    }
    if hello.flags != 0 {
        return Err(status::INVALID_PARAMETER);
    }
    QueueLayout::new(hello.queue_size, hello.data_bytes).ok_or(status::INVALID_PARAMETER)
}

/// What the client's side gets.
#[derive(Debug)]
pub(in crate::session) struct TheirEnd {
    welcome: Welcome,
    memory: OwnedFd,
    kick: EventFd,
    call: OwnedFd,
}

/// Makes both ends of a channel; the error is a status.
pub(in crate::session) fn make(
    hello: &Hello,
    socket: &UnixStream,
    process: u32,
    driver_abi: abi::DriverAbi,
) -> Result<(ClientEnd, TheirEnd), u32> {
    let layout = layout(hello)?;
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!("no channel for a client: {error}");
        status::INSUFFICIENT_RESOURCES
    };
    let (queue, memory) = queue::create(layout).map_err(|error| failed(&error))?;
    let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
    let kick = EventFd::new(flags).map_err(|error| failed(&error))?;
    let theirs = kick.try_clone().map_err(|error| failed(&error))?;
    let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
    let (read_end, write_end) = pipe.map_err(|error| failed(&error))?;
    let socket = socket.try_clone().map_err(|error| failed(&error))?;
    let welcome = Welcome {
        version: VERSION,
        status: 0,
        queue_size: u32::from(layout.size),
        process,
        in_flight_max: IN_FLIGHT_MAX,
        transfer_max: TRANSFER_MAX,
        descriptors: layout.descriptors,
        available: layout.available,
        used: layout.used,
        data: layout.data,
        data_bytes: layout.data_bytes,
        driver_abi: driver_abi as u32,
        ..refusal(0)
    };
    let end = ClientEnd {
        queue,
        kick,
        call: write_end,
        socket,
        process,
    };
    let theirs = TheirEnd {
        welcome,
        memory,
        kick: theirs,
        call: read_end,
    };
    Ok((end, theirs))
}

/// Sends the client its end.
pub(in crate::session) fn welcome(socket: &UnixStream, end: &TheirEnd) -> io::Result<()> {
    let kick = borrow(&end.kick);
    send(
        socket,
        &end.welcome,
        &[end.memory.as_fd(), kick, end.call.as_fd()],
    )
}

#[expect(unsafe_code, reason = "vmm-sys-util's EventFd has no AsFd")]
fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    let raw = std::os::fd::AsRawFd::as_raw_fd(event);
    // SAFETY: the descriptor is open as long as `event`, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(raw) }
}

fn send(socket: &UnixStream, welcome: &Welcome, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no room for descriptors"));
    }
    let bytes = [IoSlice::new(welcome.as_bytes())];
    let sent = rustix::net::sendmsg(socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent != size_of::<Welcome>() {
        return Err(io::Error::other("the welcome was cut short"));
    }
    Ok(())
}
