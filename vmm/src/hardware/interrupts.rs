//! The machine's interrupts, handed on to the guest's lines by a thread for each.
//!
//! UIO, and VFIO's INTx: the kernel's handler turns a PCI interrupt off at the function and counts it. The thread reads the count and
//! pulses the guest's line, which is one delivery of a level-sensitive interrupt and one edge of a latched one; when the
//! guest has taken it, or [`PATIENCE`] later, the thread turns the interrupt on again. If the function still asserts it
//! (its service routine has not run yet, or did not acknowledge it), the next interrupt comes at once and is the next
//! delivery: that is what a level does. No interrupt is lost, since it is turned on after each. Interrupts without a
//! pause between them are turned on later and later, up to [`BACKOFF_MAX`], so that a device that nobody serves costs
//! the machine ten interrupts a second.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::uio::Uio;
use super::vfio::{VfioFunction, VfioFunctions};
use crate::machine::{InterruptLine, InterruptLines};
use crate::policy::{InterruptRule, InterruptSource, PciAddress, Policy, Signal};

/// How long the guest gets to take an interrupt before the next one may come.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often the thread looks whether it has.
const LOOK: Duration = Duration::from_micros(100);
/// An interrupt that comes this soon after it was turned on again had no pause.
const PAUSE: Duration = Duration::from_micros(200);
/// Interrupts in a row that may come without a pause before they are held back.
const BURST: u32 = 64;
/// The longest that an interrupt stays turned off.
const BACKOFF_MAX: Duration = Duration::from_millis(100);

/// An `[[interrupt]]` rule that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: backend \"{backend}\" cannot start")]
pub struct InterruptStartError {
    /// The policy.
    pub file: String,
    /// The rule's line.
    pub line: usize,
    /// Its back end.
    pub backend: &'static str,
    /// Why.
    pub source: io::Error,
}

#[derive(Debug)]
enum Source {
    Uio(Uio),
    Event(File),
    Vfio {
        function: Arc<VfioFunction>,
        event: EventFd,
        signal: Signal,
    },
}

impl Source {
    fn descriptor(&self) -> RawFd {
        match self {
            Self::Uio(uio) => uio.descriptor(),
            Self::Event(file) => file.as_raw_fd(),
            Self::Vfio { event, .. } => event.as_raw_fd(),
        }
    }

    fn by_vfio(
        functions: &VfioFunctions,
        address: PciAddress,
        signal: Signal,
        vectors: &mut Vectors,
    ) -> io::Result<Self> {
        let function = functions.get(address).ok_or_else(|| {
            io::Error::other(format!(
                "no rule with `dma = \"vfio\"` has opened {address}"
            ))
        })?;
        Ok(Self::Vfio {
            event: match signal {
                Signal::Pin => function.interrupt(false)?,
                Signal::Msi => function.interrupt(true)?,
                Signal::MsiX(vector) => vectors.event(function, address, vector)?,
            },
            function: Arc::clone(function),
            signal,
        })
    }

    /// Whether the driver has masked it, so that it comes later: a vector's mask bit.
    fn is_deferred(&self) -> bool {
        match self {
            Self::Vfio {
                function,
                signal: Signal::MsiX(vector),
                ..
            } => function
                .msix()
                .is_some_and(|table| table.defer((*vector).into())),
            _ => false,
        }
    }

    /// Whether there was an interrupt.
    fn take(&self) -> io::Result<bool> {
        match self {
            Self::Uio(uio) => uio.take(),
            Self::Event(file) => {
                let mut count = [0; 8];
                match (&mut &*file).read(&mut count) {
                    Ok(8) => Ok(true),
                    Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                    Err(error) => Err(error),
                }
            }
            Self::Vfio { event, .. } => match event.read() {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    fn enable(&self) -> io::Result<()> {
        match self {
            Self::Uio(uio) => uio.enable(),
            Self::Vfio {
                function,
                signal: Signal::Pin,
                ..
            } => function.unmask(),
            Self::Event(_) | Self::Vfio { .. } => Ok(()),
        }
    }
}

/// MSI-X is turned on once for all vectors of a function that rules name.
#[derive(Debug, Default)]
struct Vectors {
    /// The highest vector of each function.
    last: BTreeMap<PciAddress, u16>,
    events: BTreeMap<PciAddress, Vec<EventFd>>,
}

impl Vectors {
    fn new(rules: &[InterruptRule]) -> Self {
        let mut last = BTreeMap::new();
        for rule in rules {
            if let InterruptSource::Vfio {
                address,
                signal: Signal::MsiX(vector),
            } = rule.source
            {
                let highest = last.entry(address).or_insert(vector);
                *highest = vector.max(*highest);
            }
        }
        Self {
            last,
            events: BTreeMap::new(),
        }
    }

    fn event(
        &mut self,
        function: &VfioFunction,
        address: PciAddress,
        vector: u16,
    ) -> io::Result<EventFd> {
        let events = match self.events.entry(address) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(vacant) => {
                let last = self.last.get(&address).copied().unwrap_or(vector);
                vacant.insert(function.msix_interrupts(last)?)
            }
        };
        events
            .get(usize::from(vector))
            .ok_or(io::ErrorKind::NotFound)?
            .try_clone()
    }
}

/// What the policy's `[[interrupt]]` rules name, opened.
#[derive(Debug, Default)]
pub struct OpenInterrupts {
    sources: Vec<(u32, Source)>,
}

impl OpenInterrupts {
    /// Opens everything; `functions` are those that are open by VFIO.
    ///
    /// # Errors
    /// [`InterruptStartError`] for the first rule that cannot be set up.
    pub fn new(policy: &Policy, functions: &VfioFunctions) -> Result<Self, InterruptStartError> {
        let mut sources = Vec::new();
        let mut vectors = Vectors::new(policy.interrupt_rules());
        for rule in policy.interrupt_rules() {
            let source = match &rule.source {
                InterruptSource::Uio(device) => Uio::open(device).map(Source::Uio),
                InterruptSource::EventFd(number) => inherited(*number).map(Source::Event),
                InterruptSource::Vfio { address, signal } => {
                    Source::by_vfio(functions, *address, *signal, &mut vectors)
                }
            };
            let source = source.map_err(|source| InterruptStartError {
                file: policy.file().to_owned(),
                line: rule.place.line,
                backend: rule.source.name(),
                source,
            })?;
            sources.push((rule.line, source));
        }
        Ok(Self { sources })
    }

    /// Starts handing interrupts on.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(self, lines: &InterruptLines) -> io::Result<HostInterrupts> {
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let mut running = HostInterrupts {
            stop: Arc::clone(&stop),
            threads: Vec::new(),
        };
        for (number, source) in self.sources {
            // The policy has checked the number.
            let Some(line) = lines.line(number) else {
                continue;
            };
            let epoll = Epoll::new()?;
            for (descriptor, data) in [(source.descriptor(), 0), (stop.as_raw_fd(), 1)] {
                epoll.ctl(
                    ControlOperation::Add,
                    descriptor,
                    EpollEvent::new(EventSet::IN, data),
                )?;
            }
            let stop = Arc::clone(&stop);
            let thread = std::thread::Builder::new()
                .name(format!("irq{number}"))
                .spawn(move || {
                    // `stop` is in the epoll set and has to live as long.
                    let _stop = stop;
                    if let Err(error) = hand_on(&source, &epoll, &line) {
                        tracing::error!("interrupt line {number} has no source any more: {error}");
                    }
                })?;
            running.threads.push(thread);
        }
        Ok(running)
    }
}

/// The threads that hand interrupts on; they end when this is dropped.
#[derive(Debug)]
pub struct HostInterrupts {
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for HostInterrupts {
    fn drop(&mut self) {
        // It fails when the counter is full, which says the same.
        let _ = self.stop.write(1).is_ok();
        for thread in self.threads.drain(..) {
            // A panic was printed.
            let _ = thread.join().is_ok();
        }
    }
}

/// Waits; `false` when it is time to end.
fn wait(epoll: &Epoll, timeout: Duration) -> io::Result<Option<bool>> {
    let mut events = [EpollEvent::default(); 2];
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(-1);
    let count = match epoll.wait(milliseconds, &mut events) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
        Err(error) => return Err(error),
    };
    let events = &events[..count];
    if events.iter().any(|event| event.data() == 1) {
        return Ok(None);
    }
    Ok(Some(count != 0))
}

fn hand_on(source: &Source, epoll: &Epoll, line: &InterruptLine) -> io::Result<()> {
    let mut storm = Storm::default();
    let mut enabled = Instant::now();
    loop {
        match wait(epoll, Duration::MAX)? {
            None => return Ok(()),
            Some(false) => continue,
            Some(true) => {}
        }
        if !source.take()? || source.is_deferred() {
            continue;
        }
        let hold = storm.next(enabled.elapsed());
        line.pulse();
        let start = Instant::now();
        while !line.is_taken() && start.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
        }
        if !hold.is_zero() {
            tracing::debug!(
                "interrupt line {}: held back for {hold:?}: it comes without a pause",
                line.number()
            );
            std::thread::sleep(hold);
        }
        source.enable()?;
        enabled = Instant::now();
    }
}

/// How long interrupts are held back.
#[derive(Debug, Default)]
struct Storm {
    in_a_row: u32,
    hold: Duration,
}

impl Storm {
    /// How long to wait before the interrupt is turned on, which came so long after it was.
    fn next(&mut self, since_enabled: Duration) -> Duration {
        if since_enabled > PAUSE {
            *self = Self::default();
            return Duration::ZERO;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row > BURST {
            self.hold = (self.hold * 2).clamp(Duration::from_millis(1), BACKOFF_MAX);
        }
        self.hold
    }
}

/// A descriptor that this process was started with.
#[expect(
    unsafe_code,
    reason = "a number in the policy stands for a file descriptor"
)]
fn inherited(number: RawFd) -> io::Result<File> {
    let link = std::fs::read_link(format!("/proc/self/fd/{number}"))
        .map_err(|error| io::Error::new(error.kind(), format!("descriptor {number}: {error}")))?;
    if !link.to_string_lossy().contains("[eventfd]") {
        return Err(io::Error::other(format!(
            "descriptor {number} is no eventfd but {}",
            link.display()
        )));
    }
    // SAFETY: it was open a moment ago and is an eventfd, which no object of this program has by this number: those
    // that it makes itself are not named in policies. It is only duplicated here.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let owned: OwnedFd = borrowed.try_clone_to_owned()?;
    rustix::fs::fcntl_setfl(
        &owned,
        rustix::fs::fcntl_getfl(&owned)? | rustix::fs::OFlags::NONBLOCK,
    )?;
    Ok(owned.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(descriptor: RawFd) -> Policy {
        let text = format!("[[interrupt]]\nline = 5\nbackend = \"eventfd\"\nfd = {descriptor}\n");
        Policy::from_str("i.toml", &text).unwrap()
    }

    #[test]
    fn an_eventfd_pulses_its_line() {
        let event = EventFd::new(0).unwrap();
        let lines = InterruptLines::default();
        let open =
            OpenInterrupts::new(&policy(event.as_raw_fd()), &VfioFunctions::default()).unwrap();
        let running = open.start(&lines).unwrap();
        assert!(!lines.is_wanted());
        event.write(1).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while !lines.is_wanted() {
            assert!(Instant::now() < end);
            std::thread::sleep(LOOK);
        }
        drop(running);
    }

    #[test]
    fn what_is_no_eventfd_is_refused() {
        let file = tempfile::tempfile().unwrap();
        for descriptor in [file.as_raw_fd(), 999_999] {
            let error =
                OpenInterrupts::new(&policy(descriptor), &VfioFunctions::default()).unwrap_err();
            assert!(error.to_string().starts_with("i.toml:1: "), "{error}");
        }
    }

    #[test]
    fn interrupts_without_a_pause_are_held_back_more_and_more() {
        let mut storm = Storm::default();
        for _ in 0..BURST {
            assert_eq!(storm.next(Duration::ZERO), Duration::ZERO);
        }
        assert_eq!(storm.next(Duration::ZERO), Duration::from_millis(1));
        assert_eq!(storm.next(Duration::ZERO), Duration::from_millis(2));
        for _ in 0..10 {
            storm.next(Duration::ZERO);
        }
        assert_eq!(storm.next(PAUSE), BACKOFF_MAX);
        assert_eq!(storm.next(2 * PAUSE), Duration::ZERO);
        assert_eq!(storm.next(Duration::ZERO), Duration::ZERO);
    }
}
