/* What KMDF drivers need of its binary interface, declared here: mingw-w64 has no WDF headers. Functions are called by
 * their number in the table. */
#ifndef RINGFENCE_KMDF_H
#define RINGFENCE_KMDF_H

typedef PVOID WDFHANDLE;
typedef VOID(NTAPI *WDFFUNC)(VOID);

struct wdf_bind_info {
    ULONG size;
    PWSTR component;
    ULONG major, minor, build;
    ULONG function_count;
    PVOID function_table;
    PVOID module;
};
struct wdf_attributes {
    ULONG size;
    VOID(NTAPI *cleanup)(WDFHANDLE);
    VOID(NTAPI *destroy)(WDFHANDLE);
    ULONG execution_level, synchronization_scope;
    WDFHANDLE parent;
    SIZE_T context_size;
    const VOID *type;
};
struct wdf_context_type {
    ULONG size;
    const char *name;
    SIZE_T bytes;
    const VOID *unique;
    const VOID *(*get_unique)(VOID);
};
struct wdf_driver_config {
    ULONG size;
    PVOID device_add;
    VOID(NTAPI *unload)(WDFHANDLE);
    ULONG flags, tag;
};
struct wdf_queue_config {
    ULONG size, dispatch, power_managed;
    BOOLEAN allow_zero, is_default;
    PVOID io_default, read, write, control, internal, stop, resume, canceled;
    ULONG presented;
    WDFHANDLE driver;
};
struct wdf_file_config {
    ULONG size;
    PVOID create, close, cleanup;
    ULONG forward, file_class;
};
struct wdf_deferred_config {
    ULONG size;
    PVOID callback;
    ULONG period;
    BOOLEAN serialize;
    ULONG delay;
    ULONG high_resolution[2];
};
struct wdf_parameters {
    USHORT size;
    UCHAR minor;
    ULONG type;
    ULONG_PTR words[4];
};

NTSTATUS NTAPI WdfVersionBind(PDRIVER_OBJECT driver, PUNICODE_STRING path, struct wdf_bind_info *info, PVOID *globals);
NTSTATUS NTAPI WdfVersionUnbind(PUNICODE_STRING path, struct wdf_bind_info *info, PVOID globals);

static WDFFUNC *wdf_table;
static PVOID wdf_globals;
static WDFHANDLE wdf_driver;
static struct wdf_bind_info wdf_info = {
    sizeof(struct wdf_bind_info), L"KmdfLibrary", 1, 15, 0, 444, &wdf_table, NULL,
};

/* Calls function NUMBER, which returns TYPE. Every argument but LONGLONG is a word. */
#define WORD(x) ((ULONG_PTR)(x))
#define W0(type, number) ((type(NTAPI *)(PVOID))wdf_table[number])(wdf_globals)
#define W1(type, number, a) ((type(NTAPI *)(PVOID, ULONG_PTR))wdf_table[number])(wdf_globals, WORD(a))
#define W2(type, number, a, b) \
    ((type(NTAPI *)(PVOID, ULONG_PTR, ULONG_PTR))wdf_table[number])(wdf_globals, WORD(a), WORD(b))
#define W3(type, number, a, b, c) \
    ((type(NTAPI *)(PVOID, ULONG_PTR, ULONG_PTR, ULONG_PTR))wdf_table[number])(wdf_globals, WORD(a), WORD(b), WORD(c))
#define W4(type, number, a, b, c, d) \
    ((type(NTAPI *)(PVOID, ULONG_PTR, ULONG_PTR, ULONG_PTR, ULONG_PTR))wdf_table[number])( \
        wdf_globals, WORD(a), WORD(b), WORD(c), WORD(d))
#define W5(type, number, a, b, c, d, e) \
    ((type(NTAPI *)(PVOID, ULONG_PTR, ULONG_PTR, ULONG_PTR, ULONG_PTR, ULONG_PTR))wdf_table[number])( \
        wdf_globals, WORD(a), WORD(b), WORD(c), WORD(d), WORD(e))
#define W6(type, number, a, b, c, d, e, f) \
    ((type(NTAPI *)(PVOID, ULONG_PTR, ULONG_PTR, ULONG_PTR, ULONG_PTR, ULONG_PTR, ULONG_PTR))wdf_table[number])( \
        wdf_globals, WORD(a), WORD(b), WORD(c), WORD(d), WORD(e), WORD(f))

enum {
    WdfCollectionCreate = 13,
    WdfCollectionGetCount = 14,
    WdfCollectionAdd = 15,
    WdfCollectionRemove = 16,
    WdfCollectionRemoveItem = 17,
    WdfCollectionGetItem = 18,
    WdfCollectionGetFirstItem = 19,
    WdfCollectionGetLastItem = 20,
    WdfControlDeviceInitAllocate = 25,
    WdfControlDeviceInitSetShutdownNotification = 26,
    WdfControlFinishInitializing = 27,
    WdfWdmDeviceGetWdfDeviceHandle = 30,
    WdfDeviceWdmGetDeviceObject = 31,
    WdfDeviceWdmGetAttachedDevice = 32,
    WdfDeviceWdmGetPhysicalDevice = 33,
    WdfDeviceWdmDispatchPreprocessedIrp = 34,
    WdfDeviceGetDriver = 39,
    WdfDeviceRetrieveDeviceName = 40,
    WdfDeviceSetCharacteristics = 50,
    WdfDeviceGetCharacteristics = 51,
    WdfDeviceGetAlignmentRequirement = 52,
    WdfDeviceSetAlignmentRequirement = 53,
    WdfDeviceInitFree = 54,
    WdfDeviceInitSetIoType = 61,
    WdfDeviceInitSetExclusive = 62,
    WdfDeviceInitSetDeviceType = 66,
    WdfDeviceInitAssignName = 67,
    WdfDeviceInitAssignSDDLString = 68,
    WdfDeviceInitSetCharacteristics = 70,
    WdfDeviceInitSetFileObjectConfig = 71,
    WdfDeviceInitSetRequestAttributes = 72,
    WdfDeviceInitAssignWdmIrpPreprocessCallback = 73,
    WdfDeviceInitSetIoInCallerContextCallback = 74,
    WdfDeviceCreate = 75,
    WdfDeviceCreateSymbolicLink = 80,
    WdfDeviceGetFileObject = 90,
    WdfDeviceEnqueueRequest = 91,
    WdfDeviceGetDefaultQueue = 92,
    WdfDeviceConfigureRequestDispatching = 93,
    WdfDpcCreate = 111,
    WdfDpcEnqueue = 112,
    WdfDpcCancel = 113,
    WdfDpcGetParentObject = 114,
    WdfDpcWdmGetDpc = 115,
    WdfDriverCreate = 116,
    WdfDriverGetRegistryPath = 117,
    WdfDriverWdmGetDriverObject = 118,
    WdfDriverOpenParametersRegistryKey = 119,
    WdfWdmDriverGetWdfDriverHandle = 120,
    WdfDriverIsVersionAvailable = 123,
    WdfFileObjectGetFileName = 137,
    WdfFileObjectGetFlags = 138,
    WdfFileObjectGetDevice = 139,
    WdfFileObjectWdmGetFileObject = 140,
    WdfIoQueueCreate = 152,
    WdfIoQueueGetState = 153,
    WdfIoQueueStart = 154,
    WdfIoQueueStop = 155,
    WdfIoQueueStopSynchronously = 156,
    WdfIoQueueGetDevice = 157,
    WdfIoQueueRetrieveNextRequest = 158,
    WdfIoQueueRetrieveRequestByFileObject = 159,
    WdfIoQueueFindRequest = 160,
    WdfIoQueueRetrieveFoundRequest = 161,
    WdfIoQueueDrainSynchronously = 162,
    WdfIoQueueDrain = 163,
    WdfIoQueuePurgeSynchronously = 164,
    WdfIoQueuePurge = 165,
    WdfIoQueueReadyNotify = 166,
    WdfMemoryCreate = 192,
    WdfMemoryCreatePreallocated = 193,
    WdfMemoryGetBuffer = 194,
    WdfMemoryAssignBuffer = 195,
    WdfMemoryCopyToBuffer = 196,
    WdfMemoryCopyFromBuffer = 197,
    WdfLookasideListCreate = 198,
    WdfMemoryCreateFromLookaside = 199,
    WdfObjectGetTypedContextWorker = 202,
    WdfObjectAllocateContext = 203,
    WdfObjectContextGetObject = 204,
    WdfObjectReferenceActual = 205,
    WdfObjectDereferenceActual = 206,
    WdfObjectCreate = 207,
    WdfObjectDelete = 208,
    WdfRegistryOpenKey = 229,
    WdfRegistryCreateKey = 230,
    WdfRegistryClose = 231,
    WdfRegistryWdmGetHandle = 232,
    WdfRegistryRemoveKey = 233,
    WdfRegistryRemoveValue = 234,
    WdfRegistryQueryValue = 235,
    WdfRegistryQueryMemory = 236,
    WdfRegistryQueryUnicodeString = 238,
    WdfRegistryQueryString = 239,
    WdfRegistryQueryULong = 240,
    WdfRegistryAssignValue = 241,
    WdfRegistryAssignMemory = 242,
    WdfRegistryAssignUnicodeString = 244,
    WdfRegistryAssignString = 245,
    WdfRegistryAssignULong = 246,
    WdfRequestGetStatus = 254,
    WdfRequestMarkCancelable = 255,
    WdfRequestUnmarkCancelable = 256,
    WdfRequestIsCanceled = 257,
    WdfRequestIsFrom32BitProcess = 259,
    WdfRequestComplete = 263,
    WdfRequestCompleteWithPriorityBoost = 264,
    WdfRequestCompleteWithInformation = 265,
    WdfRequestGetParameters = 266,
    WdfRequestRetrieveInputMemory = 267,
    WdfRequestRetrieveOutputMemory = 268,
    WdfRequestRetrieveInputBuffer = 269,
    WdfRequestRetrieveOutputBuffer = 270,
    WdfRequestRetrieveInputWdmMdl = 271,
    WdfRequestRetrieveOutputWdmMdl = 272,
    WdfRequestRetrieveUnsafeUserInputBuffer = 273,
    WdfRequestRetrieveUnsafeUserOutputBuffer = 274,
    WdfRequestSetInformation = 275,
    WdfRequestGetInformation = 276,
    WdfRequestGetFileObject = 277,
    WdfRequestProbeAndLockUserBufferForRead = 278,
    WdfRequestProbeAndLockUserBufferForWrite = 279,
    WdfRequestGetRequestorMode = 280,
    WdfRequestForwardToIoQueue = 281,
    WdfRequestGetIoQueue = 282,
    WdfRequestRequeue = 283,
    WdfRequestStopAcknowledge = 284,
    WdfRequestWdmGetIrp = 285,
    WdfStringCreate = 308,
    WdfStringGetUnicodeString = 309,
    WdfObjectAcquireLock = 310,
    WdfObjectReleaseLock = 311,
    WdfWaitLockCreate = 312,
    WdfWaitLockAcquire = 313,
    WdfWaitLockRelease = 314,
    WdfSpinLockCreate = 315,
    WdfSpinLockAcquire = 316,
    WdfSpinLockRelease = 317,
    WdfTimerCreate = 318,
    WdfTimerStart = 319,
    WdfTimerStop = 320,
    WdfTimerGetParentObject = 321,
    WdfUsbTargetDeviceCreate = 322,
    WdfVerifierDbgBreakPoint = 367,
    WdfVerifierKeBugCheck = 368,
    WdfWorkItemCreate = 379,
    WdfWorkItemEnqueue = 380,
    WdfWorkItemGetParentObject = 381,
    WdfWorkItemFlush = 382,
    WdfRequestMarkCancelableEx = 393,
    WdfRequestIsReserved = 394,
    WdfIoQueueStopAndPurge = 418,
    WdfDeviceInitSetIoTypeEx = 432,
    WdfRequestGetRequestorProcessId = 447,
};
/* These two are fastcall on i386. */
static PVOID wdf_context(WDFHANDLE handle, const VOID *type)
{
    return ((PVOID(FASTCALL *)(PVOID, WDFHANDLE, const VOID *))wdf_table[WdfObjectGetTypedContextWorker])(
        wdf_globals, handle, type);
}
static WDFHANDLE wdf_of_context(PVOID context)
{
    return ((WDFHANDLE(FASTCALL *)(PVOID, PVOID))wdf_table[WdfObjectContextGetObject])(wdf_globals, context);
}

static struct wdf_attributes wdf_attributes(WDFHANDLE parent, const struct wdf_context_type *type)
{
    struct wdf_attributes attributes = {sizeof(attributes), NULL, NULL, 1, 1, parent, 0, type};
    return attributes;
}

#endif
