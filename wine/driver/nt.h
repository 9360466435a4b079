/* What a kernel driver is built with, and the few functions of ntoskrnl.exe that the DDK's headers lack. Everything comes from
 * ntoskrnl.exe: Wine takes an image that imports from kernel32.dll or ntdll.dll for a DLL. */
#ifndef RINGFENCE_NT_H
#define RINGFENCE_NT_H

#include <ntddk.h>
#include <windef.h>

#include "../channel/linux.h"

NTSYSAPI NTSTATUS NTAPI ZwCreateEvent(HANDLE *event, ACCESS_MASK access, const OBJECT_ATTRIBUTES *attributes, EVENT_TYPE type,
                                     BOOLEAN is_set);
NTSYSAPI NTSTATUS NTAPI ZwSetEvent(HANDLE event, LONG *previous);
NTSYSAPI NTSTATUS NTAPI ZwWaitForSingleObject(HANDLE handle, BOOLEAN is_alertable, const LARGE_INTEGER *timeout);
NTSYSAPI NTSTATUS NTAPI ZwWaitForMultipleObjects(ULONG count, const HANDLE *handles, ULONG type, BOOLEAN is_alertable,
                                                 const LARGE_INTEGER *timeout);

#define POOL_TAG 0x636E6652u /* "Rfnc" */

static inline void *heap_allocate(SIZE_T bytes)
{
    void *at = ExAllocatePoolWithTag(NonPagedPool, bytes, POOL_TAG);
    if (at != NULL) {
        rf_zero(at, bytes);
    }
    return at;
}

static inline void heap_free(void *at)
{
    if (at != NULL) {
        ExFreePoolWithTag(at, POOL_TAG);
    }
}

/* Events are handles: they are waited for together with processes. Null: there is none. */
static inline HANDLE event_create(EVENT_TYPE type)
{
    HANDLE event = NULL;
    NTSTATUS status = ZwCreateEvent(&event, EVENT_ALL_ACCESS, NULL, type, FALSE);
    return NT_SUCCESS(status) ? event : NULL;
}

static inline void event_set(HANDLE event)
{
    ZwSetEvent(event, NULL);
}

static inline HANDLE thread_create(PKSTART_ROUTINE routine, void *context)
{
    HANDLE thread = NULL;
    NTSTATUS status = PsCreateSystemThread(&thread, THREAD_ALL_ACCESS, NULL, NULL, NULL, routine, context);
    return NT_SUCCESS(status) ? thread : NULL;
}

static inline void wait_for(HANDLE handle)
{
    ZwWaitForSingleObject(handle, FALSE, NULL);
}

#endif
