//! The trace ring: a record for each call, print, finding; the flight recorder of crash reports when nobody drains it.

use super::*;

/// A record in the ring that is being written: only what it uses of its fields is. The VMM reads the ring when the
/// guest has exited, so that it never sees half a record.
#[derive(Clone, Copy)]
struct Slot {
    /// Records written before it.
    number: u64,
    /// Where it is.
    address: u64,
}

impl Slot {
    /// The next one.
    #[inline(always)]
    fn next() -> Self {
        Self::at(volatile_read(ring_field(offset_of!(TraceRing, produced))))
    }

    #[inline(always)]
    fn at(number: u64) -> Self {
        let slot = number % TRACE_ENTRIES as u64 * size_of::<TraceRecord>() as u64;
        Self {
            number,
            address: ring_field(offset_of!(TraceRing, entries)).wrapping_add(slot),
        }
    }

    #[inline(always)]
    fn put<T: Copy>(self, field: usize, value: T) {
        volatile_write(self.address.wrapping_add(field as u64), value);
    }

    #[inline(always)]
    fn put_argument(self, index: usize, value: u64) {
        let field = offset_of!(TraceRecord, arguments);
        self.put(field.wrapping_add(index.wrapping_mul(8)), value);
    }

    /// Everything before the arguments.
    #[inline(always)]
    fn put_head(self, tsc: u64, kind: TraceKind, index: u32, caller: u64, arguments: usize) {
        self.put(offset_of!(TraceRecord, tsc), tsc);
        self.put(offset_of!(TraceRecord, kind), kind as u16);
        self.put(offset_of!(TraceRecord, irql), irql());
        self.put(
            offset_of!(TraceRecord, argument_count),
            low8(arguments as u64),
        );
        self.put(offset_of!(TraceRecord, index), index);
        self.put(offset_of!(TraceRecord, caller), caller);
        self.put(offset_of!(TraceRecord, text_bytes), 0u32);
        self.put(offset_of!(TraceRecord, process), current_process());
    }

    /// Makes it the last one of the ring.
    #[inline(always)]
    fn publish(self) {
        set_produced(self.number.wrapping_add(1));
    }
}

#[inline(always)]
fn set_produced(count: u64) {
    fence(Ordering::Release);
    volatile_write(ring_field(offset_of!(TraceRing, produced)), count);
}

#[inline(always)]
fn ring_field(field: usize) -> u64 {
    shared_pages().wrapping_add(Shared::TRACE + field as u64)
}

/// Appends a record to the trace ring; returns how many there were before it.
pub fn trace(kind: TraceKind, index: u32, caller: u64, arguments: &[u64], text: &str) -> u64 {
    let slot = Slot::next();
    if trace_lossless() != 0 {
        let consumed: u64 = volatile_read(ring_field(offset_of!(TraceRing, consumed)));
        if slot.number.wrapping_sub(consumed) >= TRACE_ENTRIES as u64 {
            platform().doorbell(Call::DrainTrace, [0; 6]);
        }
    }
    let count = arguments.len().min(TRACE_ARGUMENTS);
    slot.put_head(platform().time_stamp(), kind, index, caller, count);
    for (position, argument) in arguments.iter().enumerate().take(count) {
        slot.put_argument(position, *argument);
    }
    let captured = prefix(text, TRACE_TEXT);
    if !captured.is_empty() {
        let mut bytes = [0; TRACE_TEXT];
        bytes[..captured.len()].copy_from_slice(captured.as_bytes());
        slot.put(offset_of!(TraceRecord, text), bytes);
        slot.put(
            offset_of!(TraceRecord, text_bytes),
            low32(captured.len() as u64),
        );
    }
    slot.publish();
    slot.number
}

/// The depth while a fast path runs: [`caller`] then looks at the trace ring instead of every call storing it twice.
pub(super) const FAST_DEPTH: u32 = 0x100;
/// The depth while a fast path runs that leaves no record.
pub(super) const BARE_DEPTH: u32 = 0x200;

/// A call on the fast path: its place in the trace ring.
#[cfg(not(nt_i386))]
#[derive(Clone, Copy)]
pub(crate) struct FastCall {
    /// The shared pages. The compiler must not read their address again and again.
    pages: u64,
    number: u64,
    record: u64,
}

/// The offset of a field.
#[cfg(not(nt_i386))]
#[inline(always)]
fn at(base: u64, field: usize) -> u64 {
    base.wrapping_add(field as u64)
}

/// IRQL, if the call that begins is one for a fast path.
#[cfg(not(nt_i386))]
#[inline(always)]
fn ordinary_irql(state: u64, irql_max: u8) -> Option<u32> {
    let depth: u32 = volatile_read(at(state, offset_of!(State, shim_depth)));
    // tick_due and interrupt_due.
    let due: u64 = volatile_read(at(state, offset_of!(State, tick_due)));
    let irql: u32 = volatile_read(at(state, offset_of!(State, irql)));
    let is_ordinary =
        u64::from(depth) | due == 0 && (irql_max >= ANY_LEVEL || irql <= u32::from(irql_max));
    is_ordinary.then_some(irql)
}

/// A call on the fast path that leaves no record.
#[cfg(not(nt_i386))]
#[derive(Clone, Copy)]
pub(crate) struct BareCall {
    /// The address of the depth.
    depth: u64,
}

#[cfg(not(nt_i386))]
impl BareCall {
    /// Enters shim code under the conditions of [`FastCall::enter`].
    #[inline(always)]
    pub(crate) fn enter(irql_max: u8) -> Option<Self> {
        let state = shared_pages().wrapping_add(Shared::STATE);
        ordinary_irql(state, irql_max)?;
        let depth = at(state, offset_of!(State, shim_depth));
        volatile_write(depth, BARE_DEPTH);
        Some(Self { depth })
    }

    /// Returns to the driver, or makes the call one that has not begun.
    #[inline(always)]
    pub(crate) fn leave(self) {
        volatile_write(self.depth, 0u32);
    }
}

#[cfg(not(nt_i386))]
impl FastCall {
    /// Enters shim code if this call may take the fast path: it is the outermost one, nothing is deferred (a tick that
    /// comes meanwhile is delivered by the next call) and IRQL is not above `irql_max`. Records it, without time
    /// stamp: reading one takes longer than all the rest.
    #[inline(always)]
    pub(crate) fn enter<const COUNT: usize>(
        index: u32,
        irql_max: u8,
        caller: u64,
        arguments: [u64; COUNT],
    ) -> Option<Self> {
        let pages = shared_pages();
        let state = pages.wrapping_add(Shared::STATE);
        let irql = ordinary_irql(state, irql_max)?;
        let ring = pages.wrapping_add(Shared::TRACE);
        let number: u64 = volatile_read(at(ring, offset_of!(TraceRing, produced)));
        let slot = number % TRACE_ENTRIES as u64 * size_of::<TraceRecord>() as u64;
        let record = at(ring, offset_of!(TraceRing, entries)).wrapping_add(slot);
        volatile_write(at(state, offset_of!(State, shim_depth)), FAST_DEPTH);
        volatile_write(at(record, offset_of!(TraceRecord, tsc)), 0u64);
        // kind, irql, argument_count, index: one store.
        let head = u64::from(TraceKind::Returned as u16)
            | u64::from(low8(u64::from(irql))) << 16
            | u64::from(low8(COUNT as u64)) << 24
            | u64::from(index) << 32;
        volatile_write(at(record, offset_of!(TraceRecord, kind)), head);
        volatile_write(at(record, offset_of!(TraceRecord, caller)), caller);
        // No text; the flight recorder does not ask for the process.
        volatile_write(at(record, offset_of!(TraceRecord, text_bytes)), 0u64);
        for (position, argument) in arguments.into_iter().enumerate() {
            let field = offset_of!(TraceRecord, arguments).wrapping_add(position.wrapping_mul(8));
            volatile_write(at(record, field), argument);
        }
        volatile_write(
            at(ring, offset_of!(TraceRing, produced)),
            number.wrapping_add(1),
        );
        Some(Self {
            pages,
            number,
            record,
        })
    }

    /// Returns to the driver, or, with `None`, makes the call one that has not begun.
    #[inline(always)]
    pub(crate) fn leave(self, result: Option<u64>) {
        if let Some(value) = result {
            let field = offset_of!(TraceRecord, arguments) + 8 * (TRACE_ARGUMENTS - 1);
            volatile_write(self.record.wrapping_add(field as u64), value);
        } else {
            let produced = Shared::TRACE + offset_of!(TraceRing, produced) as u64;
            volatile_write(self.pages.wrapping_add(produced), self.number);
        }
        let depth = Shared::STATE + offset_of!(State, shim_depth) as u64;
        volatile_write(self.pages.wrapping_add(depth), 0u32);
    }
}

const _: () = assert!(
    offset_of!(State, interrupt_due) == offset_of!(State, tick_due) + 4
        && offset_of!(State, tick_due).is_multiple_of(8),
    "FastCall::enter reads both at once"
);

const _: () = assert!(
    offset_of!(TraceRecord, irql) == offset_of!(TraceRecord, kind) + 2
        && offset_of!(TraceRecord, argument_count) == offset_of!(TraceRecord, kind) + 3
        && offset_of!(TraceRecord, index) == offset_of!(TraceRecord, kind) + 4
        && offset_of!(TraceRecord, process) == offset_of!(TraceRecord, text_bytes) + 4,
    "FastCall::enter stores several fields at once"
);

/// Turns the record of a call into one of a call that has returned.
#[inline(always)]
fn finish_call(number: u64, result: u64) {
    let slot = Slot::at(number);
    slot.put_argument(TRACE_ARGUMENTS - 1, result);
    slot.put(offset_of!(TraceRecord, kind), TraceKind::Returned as u16);
}

/// The most characters of one string argument that are captured.
const CAPTURE: usize = TRACE_TEXT;

fn capture(kind: ValueKind, word: u64) -> String {
    match kind {
        ValueKind::UnicodeString => unicode_text(Ptr::new(word)),
        ValueKind::AnsiString if word != 0 => {
            let string = Ptr::<STRING>::new(word).read();
            narrow_string(string.Buffer, usize::from(string.Length).min(CAPTURE))
        }
        ValueKind::NarrowString => narrow_string(Ptr::new(word), CAPTURE),
        ValueKind::WideString => String::from_utf16_lossy(&wide_string(Ptr::new(word), CAPTURE)),
        ValueKind::ObjectAttributes if word != 0 => {
            unicode_text(Ptr::<OBJECT_ATTRIBUTES>::new(word).read().ObjectName)
        }
        _ => String::new(),
    }
}

/// Records an API call; returns its number, for [`trace_return`].
pub(crate) fn trace_call(index: u32, caller: u64, parameters: &[Parameter], words: &[u64]) -> u64 {
    let mut text = String::new();
    for (parameter, word) in parameters.iter().zip(words) {
        if parameter.kind.captures_text() {
            text.push_str(&capture(parameter.kind, *word));
            text.push('\0');
        }
    }
    let count = parameters.len().min(words.len());
    trace(TraceKind::Call, index, caller, &words[..count], &text)
}

/// Records what API call number `call` returned: in its own record, while the ring still has it and nobody wants a
/// complete trace, or else in another.
pub(crate) fn trace_return(call: u64, index: u32, arguments: usize, has_result: bool, value: u64) {
    let since = Slot::next().number.wrapping_sub(call);
    if trace_lossless() == 0 && arguments < TRACE_ARGUMENTS && since <= TRACE_ENTRIES as u64 {
        finish_call(call, value);
        return;
    }
    trace(
        TraceKind::Return,
        index,
        0,
        if has_result {
            core::slice::from_ref(&value)
        } else {
            &[]
        },
        "",
    );
}

/// The caller in the newest record: of a call on the fast path, which keeps it nowhere else.
#[inline(always)]
pub(super) fn last_caller() -> u64 {
    let last: u64 = volatile_read(ring_field(offset_of!(TraceRing, produced)));
    let record = Slot::at(last.wrapping_sub(1));
    volatile_read(
        record
            .address
            .wrapping_add(offset_of!(TraceRecord, caller) as u64),
    )
}
