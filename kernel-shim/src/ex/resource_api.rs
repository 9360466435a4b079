//! The functions of executive resources.

use super::region;
use super::resource::{self, Shared};
use crate::api::nt_api;
use crate::nt::{ERESOURCE, NtStatus};
use crate::raw::{Ptr, to_word};
use crate::shared;
use crate::value::{Boolean, Size, ULong};

nt_api! { module = ex_resource;
    /// Makes a resource; the driver keeps it in nonpaged memory.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExInitializeResourceLite(resource: Ptr<ERESOURCE>) -> NtStatus {
        resource::initialize(resource, shared::caller());
        NtStatus::SUCCESS
    }

    /// Makes a resource free that was in use; it is initialized, and nobody owns it.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExReinitializeResourceLite(resource: Ptr<ERESOURCE>) -> NtStatus {
        resource::delete(resource);
        resource::initialize(resource, shared::caller());
        NtStatus::SUCCESS
    }

    /// Takes a resource out of use: its memory may be freed.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExDeleteResourceLite(resource: Ptr<ERESOURCE>) -> NtStatus {
        if resource.read().ActiveEntries != 0 {
            crate::finding(&[resource.addr()], "a resource is deleted that somebody owns");
        }
        resource::delete(resource);
        NtStatus::SUCCESS
    }

    /// Acquires exclusively; FALSE: not without waiting.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExAcquireResourceExclusiveLite(resource: Ptr<ERESOURCE>, wait: Boolean) -> Boolean {
        resource::acquire_exclusive(resource, wait)
    }

    /// Acquires exclusively if that is possible without waiting.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExTryToAcquireResourceExclusiveLite(resource: Ptr<ERESOURCE>) -> Boolean {
        resource::acquire_exclusive(resource, false)
    }

    /// Acquires shared; who waits for exclusive access goes first, unless the thread has access already.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExAcquireResourceSharedLite(resource: Ptr<ERESOURCE>, wait: Boolean) -> Boolean {
        resource::acquire_shared(resource, wait, Shared::Normal)
    }

    /// Acquires shared, before those who wait for exclusive access.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExAcquireSharedStarveExclusive(resource: Ptr<ERESOURCE>, wait: Boolean) -> Boolean {
        resource::acquire_shared(resource, wait, Shared::StarveExclusive)
    }

    /// Acquires shared, behind those who wait for exclusive access, even recursively.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExAcquireSharedWaitForExclusive(resource: Ptr<ERESOURCE>, wait: Boolean) -> Boolean {
        resource::acquire_shared(resource, wait, Shared::WaitForExclusive)
    }

    /// Releases what the current thread acquired.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ExReleaseResourceLite(resource: Ptr<ERESOURCE>) {
        resource::release(resource, resource::current());
    }

    /// Releases what a thread acquired, or who was made the owner.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExReleaseResourceForThreadLite(resource: Ptr<ERESOURCE>, thread: Size) {
        resource::release(resource, to_word(thread.0));
    }

    /// Makes the exclusive owner a shared one.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExConvertExclusiveToSharedLite(resource: Ptr<ERESOURCE>) {
        resource::convert_to_shared(resource);
    }

    /// Whether the current thread has exclusive access.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExIsResourceAcquiredExclusiveLite(resource: Ptr<ERESOURCE>) -> Boolean {
        resource::is_mine_exclusively(resource)
    }

    /// How often the current thread has acquired it, shared or exclusively.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExIsResourceAcquiredSharedLite(resource: Ptr<ERESOURCE>) -> ULong {
        resource::count_of(resource, resource::current())
    }

    /// Number of threads that wait for exclusive access.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExGetExclusiveWaiterCount(resource: Ptr<ERESOURCE>) -> ULong {
        resource.read().NumberOfExclusiveWaiters
    }

    /// Number of threads that wait for shared access.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExGetSharedWaiterCount(resource: Ptr<ERESOURCE>) -> ULong {
        resource.read().NumberOfSharedWaiters
    }

    /// Owners get no priority boost: here they never do.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExDisableResourceBoostLite(resource: Ptr<ERESOURCE>) {
        resource.with(|resource| resource.Flag |= resource::DISABLE_BOOST);
    }

    /// Names an owner other than the current thread: an address with its two low bits set.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExSetResourceOwnerPointer(resource: Ptr<ERESOURCE>, owner: Size) {
        resource::set_owner(resource, to_word(owner.0), false);
    }

    /// As ExSetResourceOwnerPointer; with flag 1 the owner is a thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExSetResourceOwnerPointerEx(resource: Ptr<ERESOURCE>, owner: Size, flags: ULong) {
        resource::set_owner(resource, to_word(owner.0), flags & 1 != 0);
    }

    /// Enters a critical region and acquires exclusively.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExEnterCriticalRegionAndAcquireResourceExclusive(resource: Ptr<ERESOURCE>) -> Ptr<u8> {
        region::enter_critical();
        resource::acquire_exclusive(resource, true);
        Ptr::null()
    }

    /// Enters a critical region and acquires shared.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExEnterCriticalRegionAndAcquireResourceShared(resource: Ptr<ERESOURCE>) -> Ptr<u8> {
        region::enter_critical();
        resource::acquire_shared(resource, true, Shared::Normal);
        Ptr::null()
    }

    /// Enters a critical region and acquires shared, behind those who wait for exclusive access.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExEnterCriticalRegionAndAcquireSharedWaitForExclusive(resource: Ptr<ERESOURCE>) -> Ptr<u8> {
        region::enter_critical();
        resource::acquire_shared(resource, true, Shared::WaitForExclusive);
        Ptr::null()
    }

    /// Releases what the current thread acquired, and leaves the critical region.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ExReleaseResourceAndLeaveCriticalRegion(resource: Ptr<ERESOURCE>) {
        resource::release(resource, resource::current());
        region::leave_critical();
    }
}
