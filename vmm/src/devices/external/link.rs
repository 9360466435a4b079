//! A connection to a model: what is sent and awaited, never for longer than the rule allows.
//!
//! Every call on the socket is one that does not wait (`MSG_DONTWAIT`); waiting is poll(2) with the time that is left.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};

use super::dma::Dma;
use super::memory::SharedPage;
use super::protocol::{
    Access, Dialogue, Encoded, FromModel, Hello, Inbox, Malformed, Signal, ToModel, Transfer,
    Version,
};
use crate::machine::{BusMemory, InterruptLine};

/// Messages that a model may send in a second without being asked, which are interrupts.
const UNASKED_MAX: u32 = 100_000;
/// Messages that are looked at before others get a turn.
const BATCH: u32 = 256;
/// How long Ringfence looks for the answer of a model that polls before it sleeps.
const SPIN: Duration = Duration::from_micros(100);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The other end is closed: the model has ended, or crashed.
    #[error("it has closed the connection")]
    Closed,
    /// As the model wanted.
    #[error("it has said goodbye")]
    Goodbye,
    /// The time limit.
    #[error("it has not answered {what} within {} ms", .limit.as_millis())]
    Late {
        /// What was asked.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// Something that the protocol does not have.
    #[error("it has sent {0}")]
    Malformed(Malformed),
    /// Too many messages.
    #[error("it has sent more than {UNASKED_MAX} messages in a second that nobody asked for")]
    Flood,
    /// A model that comes back is another one.
    #[error("it has come back with another widest access")]
    Changed,
    /// The socket, or the shared memory.
    #[error(transparent)]
    Io(#[from] io::Error),
}

// Its text has the other one's, which is no source then.
impl From<Malformed> for Lost {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<Errno> for Lost {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            error => Self::Io(error.into()),
        }
    }
}

/// What a model has said of itself.
#[derive(Debug)]
pub(super) struct Opened {
    /// The widest access that it takes as one, in bytes.
    pub(super) width: u8,
    /// An eventfd of the model's: each write to it is an interrupt. It is waited for and never read or written, so that
    /// nothing that the model does to it can block.
    pub(super) event: Option<OwnedFd>,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    inbox: Inbox,
    dialogue: Dialogue,
    line: Option<InterruptLine>,
    version: Version,
    /// What has come with the hello, before it was read.
    descriptor: Option<OwnedFd>,
    number: u32,
    /// Where accesses go, if the model wants that.
    page: Option<SharedPage>,
    /// If it may be a bus master.
    dma: Option<Dma>,
    /// How long it may take for an answer.
    limit: Duration,
    unasked: u32,
    unasked_since: Instant,
}

impl Link {
    /// Says hello and waits for the model's, then resets the device.
    pub(super) fn open(
        socket: OwnedFd,
        mut hello: Hello,
        line: Option<InterruptLine>,
        memory: Option<BusMemory>,
        limit: Duration,
    ) -> Result<(Self, Opened), Lost> {
        let page = SharedPage::new()?;
        let dma = memory.map(Dma::new).transpose()?;
        hello.has_page = true;
        hello.has_dma = dma.is_some();
        let mut link = Self {
            socket,
            inbox: Inbox::default(),
            dialogue: Dialogue::new(true).with_dma(dma.is_some()),
            line,
            version: Version::One,
            descriptor: None,
            number: 0,
            page: None,
            dma,
            limit,
            unasked: 0,
            unasked_since: Instant::now(),
        };
        let said = ToModel::Hello(hello).encode(Version::One);
        send_hello(&link.socket, &said, &page, link.dma.as_ref())?;
        let end = Instant::now() + limit;
        let late = || Lost::Late {
            what: "Ringfence's hello".to_owned(),
            limit,
        };
        loop {
            match link.next()? {
                Some(FromModel::Hello {
                    version,
                    width,
                    takes_page,
                    has_event,
                }) => {
                    link.version = version;
                    link.inbox.set_version(version);
                    link.page = takes_page.then_some(page);
                    let came = link.descriptor.take();
                    let event = match has_event {
                        true => Some(came.filter(is_event).ok_or(Malformed::Event)?),
                        false => None,
                    };
                    if version >= Version::Two {
                        link.send(ToModel::Range(hello.range), end, limit)?;
                    }
                    link.send(ToModel::Reset, end, limit)?;
                    return Ok((link, Opened { width, event }));
                }
                // Nothing else passes the dialogue.
                Some(_) => {}
                None => link.wait(PollFlags::IN, end, late)?,
            }
        }
    }

    /// Carries an access out. What was read; 0 for a write.
    pub(super) fn access(&mut self, access: Access, limit: Duration) -> Result<u64, Lost> {
        if access.offset > self.version.offset_max() {
            // Version 1 has no such offset: nothing is there.
            return Ok(u64::MAX);
        }
        let end = Instant::now() + limit;
        self.limit = limit;
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let value = match self.page.take() {
            Some(page) => {
                let value = self.access_by_page(&page, number, access, end, limit);
                self.page = Some(page);
                value
            }
            None => self.access_by_message(number, access, end, limit),
        }?;
        Ok(match access.write {
            Some(_) => 0,
            None => value,
        })
    }

    fn access_by_message(
        &mut self,
        number: u32,
        access: Access,
        end: Instant,
        limit: Duration,
    ) -> Result<u64, Lost> {
        self.dialogue.expect(number);
        self.send(ToModel::Access { number, access }, end, limit)?;
        loop {
            match self.next()? {
                Some(FromModel::Done { value, .. }) => return Ok(value),
                Some(_) if Instant::now() > end => return Err(late(access, limit)),
                Some(_) => {}
                None => self.wait(PollFlags::IN, end, || late(access, limit))?,
            }
        }
    }

    fn access_by_page(
        &mut self,
        page: &SharedPage,
        number: u32,
        access: Access,
        end: Instant,
        limit: Duration,
    ) -> Result<u64, Lost> {
        page.set_polling(true);
        if page.put(number, access, self.version) {
            self.send(ToModel::Doorbell, end, limit)?;
        } else {
            let spin_end = end.min(Instant::now() + SPIN);
            while page.answer(number, self.version).is_none() && Instant::now() < spin_end {
                std::hint::spin_loop();
            }
        }
        page.set_polling(false);
        let value = loop {
            if let Some(value) = page.answer(number, self.version) {
                break value;
            }
            // A doorbell, an interrupt, or nothing.
            if self.next()?.is_some() {
                if Instant::now() > end {
                    return Err(late(access, limit));
                }
                continue;
            }
            if page.answer(number, self.version).is_none() {
                self.wait(PollFlags::IN, end, || late(access, limit))?;
            }
        };
        // What the model did to its line before it answered is to be seen before the driver goes on.
        while !self.listen()? {
            if Instant::now() > end {
                return Err(late(access, limit));
            }
        }
        Ok(value)
    }

    /// Takes what the model has sent without being asked, up to a limit; whether that was all.
    pub(super) fn listen(&mut self) -> Result<bool, Lost> {
        for _ in 0..BATCH {
            if self.next()?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says that the run is over. A model that does not take it is left alone.
    pub(super) fn say_goodbye(&mut self) {
        let bytes = ToModel::Goodbye.encode(self.version);
        let _ = rustix::net::send(&self.socket, &bytes, SEND).is_ok();
        self.close();
    }

    /// Closes both directions, whoever else has the descriptor.
    pub(super) fn close(&self) {
        // It fails when the model has closed its end already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both).is_ok();
    }

    /// The next message, with what it does to the line done; `None` if none is there.
    fn next(&mut self) -> Result<Option<FromModel>, Lost> {
        let message = loop {
            if let Some(message) = self.inbox.next_message() {
                break self.dialogue.judge(message?)?;
            }
            if !self.receive()? {
                return Ok(None);
            }
        };
        match message {
            FromModel::Signal(signal) => {
                self.count_unasked()?;
                self.signal(signal);
            }
            FromModel::Doorbell => self.count_unasked()?,
            FromModel::Dma(transfer) => {
                self.count_unasked()?;
                self.transfer(transfer)?;
            }
            FromModel::Goodbye => return Err(Lost::Goodbye),
            FromModel::Hello { .. } | FromModel::Done { .. } => {}
        }
        Ok(Some(message))
    }

    /// Reads or writes the guest's memory for the model.
    fn transfer(&self, transfer: Transfer) -> Result<(), Lost> {
        // Without it nothing passes the dialogue.
        let Some(dma) = &self.dma else { return Ok(()) };
        let number = transfer.number;
        let end = dma.transfer(transfer);
        let until = Instant::now() + self.limit;
        self.send(ToModel::DmaDone { number, end }, until, self.limit)
    }

    /// Whether bytes have come.
    fn receive(&mut self) -> Result<bool, Lost> {
        loop {
            let room = self.inbox.room();
            let received = if self.dialogue.is_open() {
                // Descriptors that nobody asked for go no further than the kernel.
                rustix::net::recv(&self.socket, room, RecvFlags::DONTWAIT).map(|(bytes, _)| bytes)
            } else {
                receive_hello(&self.socket, room, &mut self.descriptor)
            };
            match received {
                Ok(0) => return Err(Lost::Closed),
                Ok(bytes) => {
                    self.inbox.filled(bytes);
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The model's eventfd was written to.
    pub(super) fn event(&mut self) -> Result<(), Lost> {
        self.count_unasked()?;
        self.signal(Signal::Pulse);
        Ok(())
    }

    fn count_unasked(&mut self) -> Result<(), Lost> {
        self.unasked += 1;
        if self.unasked > UNASKED_MAX {
            if self.unasked_since.elapsed() < Duration::from_secs(1) {
                return Err(Lost::Flood);
            }
            self.unasked = 0;
            self.unasked_since = Instant::now();
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // A model without a line may say what it likes about it.
        let Some(line) = &self.line else { return };
        match signal {
            Signal::Assert => line.assert(),
            Signal::Deassert => line.deassert(),
            Signal::Pulse => line.pulse(),
        }
    }

    fn send(&self, message: ToModel, end: Instant, limit: Duration) -> Result<(), Lost> {
        let bytes = message.encode(self.version);
        let mut sent = 0;
        while sent < bytes.len() {
            match rustix::net::send(&self.socket, &bytes[sent..], SEND) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, end, || Lost::Late {
                    what: "anything: it does not read its messages".to_owned(),
                    limit,
                })?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for the socket until `end`.
    fn wait(&self, flags: PollFlags, end: Instant, late: impl Fn() -> Lost) -> Result<(), Lost> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            if poll(&self.socket, flags, Some(left))? {
                return Ok(());
            }
        }
    }
}

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

fn late(access: Access, limit: Duration) -> Lost {
    let what = match access.write {
        Some(value) => format!("a write of {value:#x} to offset {:#x}", access.offset),
        None => format!("a read of offset {:#x}", access.offset),
    };
    Lost::Late { what, limit }
}

/// Waits for a socket; whether there is something to do, an error or the end included.
pub(super) fn poll(
    socket: &OwnedFd,
    flags: PollFlags,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let timeout = timeout.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    match rustix::event::poll(&mut [PollFd::new(socket, flags)], timeout.as_ref()) {
        Ok(count) => Ok(count != 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn send_hello(
    socket: &OwnedFd,
    bytes: &Encoded,
    page: &SharedPage,
    dma: Option<&Dma>,
) -> Result<(), Lost> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let mut descriptors = vec![page.descriptor()];
    descriptors.extend(dma.map(Dma::descriptor));
    let has_room = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(has_room, "the space is for two descriptors");
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SEND)?;
    if sent < bytes.len() {
        // A new socket has room for more than this.
        return Err(Lost::Io(io::ErrorKind::WriteZero.into()));
    }
    Ok(())
}

/// As recv(2), with the one descriptor that may come with a hello.
fn receive_hello(
    socket: &OwnedFd,
    room: &mut [u8],
    descriptor: &mut Option<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut slices = [IoSliceMut::new(room)];
    let received = rustix::net::recvmsg(socket, &mut slices, &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            // The kernel has closed what there is no room for.
            *descriptor = rights.last().or_else(|| descriptor.take());
        }
    }
    Ok(received.bytes)
}

/// Whether a descriptor is an eventfd. To poll some other file could mean to wait for the model.
fn is_event(descriptor: &OwnedFd) -> bool {
    let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    std::fs::read_link(link).is_ok_and(|target| target.to_string_lossy().contains("[eventfd]"))
}
