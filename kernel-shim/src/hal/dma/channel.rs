//! Adapter channels and map registers: who has them, and who waits for them.
//!
//! A request is served when the channel is free and there are registers enough, in the order of arrival. The routine runs
//! at DISPATCH_LEVEL.

use super::list::{self, Wanted};
use super::{Grant, complain, exists, number, with};
use crate::ke::irql;
use crate::nt::{DEVICE_OBJECT, DISPATCH_LEVEL, DMA_ADAPTER, NtStatus};
use crate::raw::{Ptr, low32};
use crate::shared;
use abi::trace::Entry;

/// IO_ALLOCATION_ACTION: DeallocateObject.
const DEALLOCATE_OBJECT: u32 = 2;
/// DeallocateObjectKeepRegisters.
const DEALLOCATE_OBJECT_KEEP_REGISTERS: u32 = 3;
/// Values of MapRegisterBase are multiples of this; drivers only hold them.
const TOKEN_STEP: u64 = 16;

/// Somebody who wants the channel and map registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) device: Ptr<DEVICE_OBJECT>,
    pub(super) irp: u64,
    pub(super) registers: u32,
    /// Whether pages have to be behind the registers.
    pub(super) is_copied: bool,
    pub(super) routine: u64,
    pub(super) context: u64,
    /// A scatter/gather list is to be made.
    pub(super) list: Option<Wanted>,
}

/// Serves a request, or queues it. INSUFFICIENT_RESOURCES: more registers than the adapter has.
pub(super) fn request(adapter: Ptr<DMA_ADAPTER>, request: Request) -> NtStatus {
    let is_possible = with(adapter, |adapter| {
        let is_possible = request.registers <= adapter.registers_max;
        if is_possible {
            adapter.waiting.push_back(request);
        }
        is_possible
    });
    if !is_possible {
        return NtStatus::INSUFFICIENT_RESOURCES;
    }
    serve(adapter);
    NtStatus::SUCCESS
}

/// Gives the channel to the next request, if it can be served; the request, and the key of its grant.
fn next(adapter: Ptr<DMA_ADAPTER>) -> Option<(Request, u64)> {
    with(adapter, |adapter| {
        if adapter.channel.is_some() {
            return None;
        }
        let request = *adapter.waiting.front()?;
        let first = match adapter.pages.as_mut() {
            Some(pages) if request.is_copied && request.registers > 0 => {
                Some(pages.take(request.registers)?)
            }
            _ => None,
        };
        adapter.waiting.pop_front();
        adapter.tokens += TOKEN_STEP;
        let token = adapter.tokens;
        adapter.channel = Some(token);
        let grant = Grant {
            count: request.registers,
            first,
            ..Grant::default()
        };
        adapter.grants.insert(token, grant);
        Some((request, token))
    })
}

/// Serves whoever can be served.
pub(super) fn serve(adapter: Ptr<DMA_ADAPTER>) {
    while exists(adapter) {
        let Some((request, token)) = next(adapter) else {
            return;
        };
        let old = (shared::irql() < DISPATCH_LEVEL).then(|| irql::raise(DISPATCH_LEVEL));
        run(adapter, &request, token);
        if let Some(old) = old {
            irql::lower(old);
        }
    }
}

fn run(adapter: Ptr<DMA_ADAPTER>, request: &Request, token: u64) {
    let third = match &request.list {
        Some(wanted) => list::make(adapter, token, wanted),
        None if request.registers == 0 => 0,
        None => token,
    };
    let arguments = [request.device.addr(), request.irp, third, request.context];
    let action = shared::call_driver(Entry::Other, request.routine, &arguments);
    let action = match request.list {
        Some(_) => DEALLOCATE_OBJECT_KEEP_REGISTERS,
        None => low32(action),
    };
    if !exists(adapter) {
        return;
    }
    with(adapter, |adapter| {
        let is_same = adapter.channel == Some(token);
        match action {
            DEALLOCATE_OBJECT => adapter.let_go(token),
            DEALLOCATE_OBJECT_KEEP_REGISTERS if is_same => adapter.channel = None,
            _ => {}
        }
    });
}

impl super::Adapter {
    /// Frees what a request was granted.
    pub(super) fn let_go(&mut self, token: u64) {
        if self.channel == Some(token) {
            self.channel = None;
        }
        if let Some(grant) = self.grants.remove(&token)
            && let (Some(first), Some(pages)) = (grant.first, self.pages.as_mut())
        {
            pages.give(first, grant.count);
        }
    }
}

/// Frees the channel, and the map registers that came with it.
pub(super) fn free(adapter: Ptr<DMA_ADAPTER>) {
    let (holder, is_mapped) = with(adapter, |adapter| {
        let grant = adapter.channel.and_then(|token| adapter.grants.get(&token));
        let is_mapped = grant.is_some_and(|grant| !grant.mappings.is_empty());
        (adapter.channel, is_mapped)
    });
    if is_mapped {
        complain(
            number::NOT_FLUSHED,
            adapter,
            format_args!("an adapter channel was freed while its buffers were not flushed"),
        );
    }
    let Some(token) = holder else {
        return complain(
            number::CHANNEL_FREED_TWICE,
            adapter,
            format_args!("an adapter channel was freed that nobody had"),
        );
    };
    with(adapter, |adapter| adapter.let_go(token));
    serve(adapter);
}

/// Frees map registers that were kept.
pub(super) fn free_registers(adapter: Ptr<DMA_ADAPTER>, base: u64, count: u32) {
    let found = with(adapter, |adapter| {
        let grant = adapter
            .grants
            .get(&base)
            .filter(|grant| grant.list.is_none());
        grant.map(|grant| (grant.count, grant.mappings.is_empty()))
    });
    match found {
        Some((granted, is_flushed)) => {
            if !is_flushed {
                complain(
                    number::STILL_MAPPED,
                    adapter,
                    format_args!("map registers were freed while some were still mapped"),
                );
            }
            if granted != count {
                complain(
                    number::REGISTERS_FREED_TWICE,
                    adapter,
                    format_args!("{count} map registers were freed of {granted}"),
                );
            }
            with(adapter, |adapter| adapter.let_go(base));
            serve(adapter);
        }
        None if base == 0 && count == 0 => {}
        None => complain(
            number::REGISTERS_FREED_TWICE,
            adapter,
            format_args!("map registers were freed that nobody had"),
        ),
    }
}
