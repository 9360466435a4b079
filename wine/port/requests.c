/* What ntdll's functions do: a request for a driver's device goes to its micro-VM, if it is one that is waited for here and
 * everything of it is as it should be. The rest is what it was before, errors too: Wine says them. */
#include "direct.h"

#include "../channel/linux.h"
#include "../include/ringfence_wine.h"
#include "port.h"

#define STATUS_REMOVED 0xC00002B6u       /* STATUS_DEVICE_REMOVED */
#define STATUS_NOT_CONNECTED 0xC000009Du /* of the channel: the VMM is gone without a farewell */

enum {
    ACCESS_READ = 1,  /* FILE_READ_DATA */
    ACCESS_WRITE = 2, /* FILE_WRITE_DATA */
    METHOD_MASK = 3,
    SYNCHRONOUS = 0x30, /* FILE_SYNCHRONOUS_IO_ALERT, FILE_SYNCHRONOUS_IO_NONALERT */
    CLOSE_SOURCE = 1,   /* DUPLICATE_CLOSE_SOURCE */
    THREAD_BASIC_BYTES = sizeof(void *) == 8 ? 48 : 28,
};

/* DEVICE_TYPEs whose control codes ntdll looks at itself: beep, network, disks, serial ports, tapes. */
static int is_for_ntdll(ULONG type)
{
    static const uint8_t types[] = {0x01, 0x02, 0x04, 0x07, 0x12, 0x1B, 0x1F, 0x2D, 0x33};
    for (unsigned i = 0; i < sizeof types; i++) {
        if (type == types[i]) {
            return 1;
        }
    }
    return 0;
}

/* Those that drivers of third parties have. */
static int is_drivers(ULONG type)
{
    return type == FILE_DEVICE_UNKNOWN || type >= 0x8000;
}

typedef NTSTATUS(WINAPI *close_handle)(HANDLE handle);
typedef NTSTATUS(WINAPI *duplicate_object)(HANDLE source_process, HANDLE source, HANDLE process, HANDLE *handle,
                                           ACCESS_MASK access, ULONG attributes, ULONG options);
typedef NTSTATUS(WINAPI *read_or_write)(HANDLE handle, HANDLE event, void *apc, void *apc_context, IO_STATUS_BLOCK *io,
                                        void *buffer, ULONG bytes, LARGE_INTEGER *offset, ULONG *key);
typedef NTSTATUS(WINAPI *flush_buffers)(HANDLE handle, IO_STATUS_BLOCK *io);
typedef NTSTATUS(WINAPI *create_file)(HANDLE *handle, ACCESS_MASK access, OBJECT_ATTRIBUTES *attributes, IO_STATUS_BLOCK *io,
                                      LARGE_INTEGER *size, ULONG file_attributes, ULONG sharing, ULONG disposition,
                                      ULONG options, void *extended, ULONG extended_bytes);
typedef NTSTATUS(WINAPI *open_file)(HANDLE *handle, ACCESS_MASK access, OBJECT_ATTRIBUTES *attributes, IO_STATUS_BLOCK *io,
                                    ULONG sharing, ULONG options);
typedef NTSTATUS(WINAPI *create_pipe)(HANDLE *handle, ULONG access, OBJECT_ATTRIBUTES *attributes, IO_STATUS_BLOCK *io,
                                      ULONG sharing, ULONG disposition, ULONG options, ULONG type, ULONG mode, ULONG completion,
                                      ULONG instances, ULONG inbound, ULONG outbound, LARGE_INTEGER *timeout);
typedef NTSTATUS(WINAPI *cancel_file)(HANDLE handle, IO_STATUS_BLOCK *of, IO_STATUS_BLOCK *io);
typedef NTSTATUS(WINAPI *terminate_thread)(HANDLE thread, LONG code);

NTSTATUS NTAPI NtSetEvent(HANDLE event, LONG *before);
NTSTATUS NTAPI NtResetEvent(HANDLE event, LONG *before);
NTSTATUS NTAPI NtOpenThread(HANDLE *thread, ACCESS_MASK access, const OBJECT_ATTRIBUTES *attributes, const CLIENT_ID *id);
NTSTATUS NTAPI NtCompareObjects(HANDLE first, HANDLE second);

device_control original_device_control;
static close_handle original_close;
static duplicate_object original_duplicate;
static read_or_write original_read, original_write;
static flush_buffers original_flush;
static create_file original_create;
static open_file original_open;
static create_pipe original_create_pipe;
static cancel_file original_cancel, original_cancel_synchronous;
static terminate_thread original_terminate;

/* IO_STATUS_BLOCK.Information, as ringfence.sys says it: what the driver reports is cut where its buffer is the system's. */
static uintptr_t information_of(const struct transfer *transfer, const struct rf_result_header *answer)
{
    int is_buffered = transfer->opcode == RF_OP_READ || (transfer->opcode == RF_OP_IOCTL && (transfer->code & METHOD_MASK) == 0);
    return is_buffered && answer->information > answer->output_bytes ? answer->output_bytes : (uintptr_t)answer->information;
}

/* Whether the request was carried out, with `*status`; else it is to go the other way. */
static int carry_out(HANDLE handle, HANDLE event, IO_STATUS_BLOCK *io, struct file *file, struct transfer *transfer,
                NTSTATUS *status)
{
    struct rf_result_header answer;
    if (io == NULL || !port_probe_pages(io, sizeof *io)) {
        return 0;
    }
    if (event != NULL && NtResetEvent(event, NULL) != 0) {
        return 0;
    }
    transfer->status_block = io;
    enum transfer_outcome outcome = machine_transfer(file->machine, &file->lanes, transfer, &answer);
    if (outcome == TRANSFER_NO_FILE) {
        file_forget(handle, file);
    }
    if (outcome != TRANSFER_DONE) {
        return 0;
    }
    uint32_t said = answer.status == STATUS_NOT_CONNECTED ? STATUS_REMOVED : answer.status;
    IO_STATUS_BLOCK done = {{(NTSTATUS)said}, information_of(transfer, &answer)};
    *status = (NTSTATUS)said;
    /* Wine leaves it alone when a request that is waited for fails. */
    if (said >> 30 != 3 && !port_move(io, &done, sizeof done)) {
        *status = STATUS_ACCESS_VIOLATION;
    }
    if (event != NULL) {
        NtSetEvent(event, NULL);
    }
    return 1;
}

static NTSTATUS WINAPI on_device_control(HANDLE handle, HANDLE event, void *apc, void *apc_context, IO_STATUS_BLOCK *io,
                                         ULONG code, void *input, ULONG input_bytes, void *output, ULONG output_bytes)
{
    ULONG type = code >> 16, access = code >> 14 & (ACCESS_READ | ACCESS_WRITE);
    NTSTATUS status;
    struct file *file = NULL;
    if (apc == NULL && !is_for_ntdll(type) && code != RF_IOCTL_PORTS && code != RF_IOCTL_DIRECT) {
        file = file_enter(handle, is_drivers(type) ? HANDLE_CONTROL : HANDLE_TRANSFER);
    }
    if (file != NULL) {
        struct transfer transfer = {
            .opcode = RF_OP_IOCTL,
            .code = code,
            .input = input,
            .input_bytes = input_bytes,
            .output = output,
            .output_bytes = output_bytes,
            .is_output_sent = (code & METHOD_MASK) != 0,
        };
        int is_done = (file->access & access) == access && carry_out(handle, event, io, file, &transfer, &status);
        file_leave(file);
        if (is_done) {
            return status;
        }
    }
    return original_device_control(handle, event, apc, apc_context, io, code, input, input_bytes, output, output_bytes);
}

/* Reads and writes: `*status`, if it was carried out. */
static int read_write(HANDLE handle, HANDLE event, void *apc, IO_STATUS_BLOCK *io, LARGE_INTEGER *offset, ACCESS_MASK access,
                      struct transfer *transfer, NTSTATUS *status)
{
    struct file *file = apc == NULL ? file_enter(handle, HANDLE_TRANSFER) : NULL;
    if (file == NULL) {
        return 0;
    }
    int is_done = (file->access & access) != 0 &&
                  (offset == NULL || port_move(&transfer->argument, offset, sizeof transfer->argument)) &&
                  carry_out(handle, event, io, file, transfer, status);
    file_leave(file);
    return is_done;
}

static NTSTATUS WINAPI on_read(HANDLE handle, HANDLE event, void *apc, void *apc_context, IO_STATUS_BLOCK *io, void *buffer,
                               ULONG bytes, LARGE_INTEGER *offset, ULONG *key)
{
    struct transfer transfer = {.opcode = RF_OP_READ, .output = buffer, .output_bytes = bytes};
    NTSTATUS status;
    if (read_write(handle, event, apc, io, offset, ACCESS_READ, &transfer, &status)) {
        return status;
    }
    return original_read(handle, event, apc, apc_context, io, buffer, bytes, offset, key);
}

static NTSTATUS WINAPI on_write(HANDLE handle, HANDLE event, void *apc, void *apc_context, IO_STATUS_BLOCK *io, void *buffer,
                                ULONG bytes, LARGE_INTEGER *offset, ULONG *key)
{
    struct transfer transfer = {.opcode = RF_OP_WRITE, .input = buffer, .input_bytes = bytes};
    NTSTATUS status;
    if (read_write(handle, event, apc, io, offset, ACCESS_WRITE, &transfer, &status)) {
        return status;
    }
    return original_write(handle, event, apc, apc_context, io, buffer, bytes, offset, key);
}

static NTSTATUS WINAPI on_flush(HANDLE handle, IO_STATUS_BLOCK *io)
{
    struct transfer transfer = {.opcode = RF_OP_FLUSH};
    NTSTATUS status;
    if (read_write(handle, NULL, NULL, io, NULL, ACCESS_WRITE, &transfer, &status)) {
        return status;
    }
    return original_flush(handle, io);
}

static NTSTATUS WINAPI on_close(HANDLE handle)
{
    uint32_t closing = handle_closing(handle);
    NTSTATUS status = original_close(handle);
    handle_closed(handle, closing, status >= 0);
    return status;
}

/* Whether it is the process that this runs in, or may be: not every handle tells. What is known of a handle's number may always
 * be forgotten. */
static int may_be_own_process(HANDLE process)
{
    if (process == GetCurrentProcess()) {
        return 1;
    }
    DWORD error = GetLastError(), id = GetProcessId(process);
    SetLastError(error);
    return id == 0 || id == GetCurrentProcessId();
}

static NTSTATUS WINAPI on_duplicate(HANDLE source_process, HANDLE source, HANDLE process, HANDLE *handle, ACCESS_MASK access,
                                    ULONG attributes, ULONG options)
{
    int is_own = source_process == GetCurrentProcess();
    int is_candidate = is_own && handle_is_candidate(source);
    uint32_t closing = 0;
    if (options & CLOSE_SOURCE) {
        is_own = may_be_own_process(source_process);
        closing = is_own ? handle_closing(source) : 0;
    }
    NTSTATUS status = original_duplicate(source_process, source, process, handle, access, attributes, options);
    if (is_own && (options & CLOSE_SOURCE)) {
        /* It is closed whatever comes of the rest, if it was one. What is not known is asked again. */
        handle_closed(source, closing, 1);
    }
    HANDLE made;
    if (status >= 0 && handle != NULL && may_be_own_process(process) && port_move(&made, handle, sizeof made)) {
        handle_made(made, is_candidate);
    }
    return status;
}

static WCHAR lower(WCHAR character)
{
    return character >= L'A' && character <= L'Z' ? (WCHAR)(character | 0x20) : character;
}

static int starts_with(const WCHAR *text, unsigned units, const WCHAR *start)
{
    unsigned at = 0;
    for (; start[at] != 0; at++) {
        if (at >= units || lower(text[at]) != start[at]) {
            return 0;
        }
    }
    return 1;
}

/* Whether a name may be a driver's device: none of Wine's own kinds of files. */
static int may_be_device(const OBJECT_ATTRIBUTES *attributes)
{
    enum { UNITS = 24 };
    WCHAR text[UNITS];
    OBJECT_ATTRIBUTES copy;
    UNICODE_STRING name;
    if (attributes == NULL || !port_move(&copy, attributes, sizeof copy) || copy.RootDirectory != NULL ||
        copy.ObjectName == NULL || !port_move(&name, copy.ObjectName, sizeof name)) {
        return 0;
    }
    unsigned units = name.Length / sizeof(WCHAR) < UNITS ? name.Length / sizeof(WCHAR) : UNITS;
    if (units < 5 || !port_move(text, name.Buffer, units * sizeof(WCHAR))) {
        return 0;
    }
    static const WCHAR *const others[] = {
        L"\\??\\unc\\",        L"\\??\\pipe\\",          L"\\??\\unix\\",        L"\\??\\con",          L"\\??\\nul",
        L"\\??\\mailslot\\",   L"\\??\\ringfenceports",  L"\\??\\mountpoint",    L"\\device\\afd",      L"\\device\\condrv",
        L"\\device\\namedpip", L"\\device\\harddisk",    L"\\device\\mailslot",  L"\\device\\null",
    };
    for (unsigned i = 0; i < sizeof others / sizeof *others; i++) {
        if (starts_with(text, units, others[i])) {
            return 0;
        }
    }
    /* \??\C: is a disk, \??\COM1 is one of Wine's. */
    return (starts_with(text, units, L"\\??\\") && text[5] != L':') || starts_with(text, units, L"\\device\\");
}

static NTSTATUS opened(NTSTATUS status, const HANDLE *handle, const OBJECT_ATTRIBUTES *attributes, ULONG options)
{
    HANDLE made;
    if (status >= 0 && port_move(&made, handle, sizeof made)) {
        handle_made(made, (options & SYNCHRONOUS) != 0 && may_be_device(attributes));
    }
    return status;
}

static NTSTATUS WINAPI on_create_file(HANDLE *handle, ACCESS_MASK access, OBJECT_ATTRIBUTES *attributes, IO_STATUS_BLOCK *io,
                                      LARGE_INTEGER *size, ULONG file_attributes, ULONG sharing, ULONG disposition,
                                      ULONG options, void *extended, ULONG extended_bytes)
{
    NTSTATUS status = original_create(handle, access, attributes, io, size, file_attributes, sharing, disposition, options,
                                      extended, extended_bytes);
    return opened(status, handle, attributes, options);
}

static NTSTATUS WINAPI on_open_file(HANDLE *handle, ACCESS_MASK access, OBJECT_ATTRIBUTES *attributes, IO_STATUS_BLOCK *io,
                                    ULONG sharing, ULONG options)
{
    return opened(original_open(handle, access, attributes, io, sharing, options), handle, attributes, options);
}

static NTSTATUS WINAPI on_create_pipe(HANDLE *handle, ULONG access, OBJECT_ATTRIBUTES *attributes, IO_STATUS_BLOCK *io,
                                      ULONG sharing, ULONG disposition, ULONG options, ULONG type, ULONG mode, ULONG completion,
                                      ULONG instances, ULONG inbound, ULONG outbound, LARGE_INTEGER *timeout)
{
    NTSTATUS status = original_create_pipe(handle, access, attributes, io, sharing, disposition, options, type, mode, completion,
                                           instances, inbound, outbound, timeout);
    return opened(status, handle, NULL, 0);
}

/* What a cancelling says when there was one of ours, and perhaps others. */
static NTSTATUS cancelled(int is_found, NTSTATUS status, IO_STATUS_BLOCK *io)
{
    if (!is_found || status != STATUS_NOT_FOUND) {
        return status;
    }
    const IO_STATUS_BLOCK done = {{STATUS_SUCCESS}, 0};
    return port_move(io, &done, sizeof done) ? STATUS_SUCCESS : STATUS_ACCESS_VIOLATION;
}

static NTSTATUS WINAPI on_cancel(HANDLE handle, IO_STATUS_BLOCK *of, IO_STATUS_BLOCK *io)
{
    struct file *file = file_enter(handle, HANDLE_LOOKED_AT);
    int is_found = 0;
    if (file != NULL) {
        is_found = machine_cancel_file(file->machine, file->lanes.owners, of);
        file_leave(file);
    }
    return cancelled(is_found, original_cancel(handle, of, io), io);
}

static int is_handle_of(DWORD id, HANDLE thread)
{
    OBJECT_ATTRIBUTES attributes = {.Length = sizeof attributes};
    const CLIENT_ID client = {.UniqueThread = (HANDLE)(uintptr_t)id};
    HANDLE own;
    if (NtOpenThread(&own, THREAD_QUERY_LIMITED_INFORMATION, &attributes, &client) != 0) {
        return 0;
    }
    int is_same = NtCompareObjects(own, thread) == 0;
    original_close(own);
    return is_same;
}

/* Windows' id of a thread; 0: the handle is none of this process's threads, or of none that waits for a request and does not
 * allow its id to be known. */
static DWORD thread_of(HANDLE thread)
{
    /* THREAD_BASIC_INFORMATION: exit status, TEB, process, thread, ... */
    uintptr_t basic[THREAD_BASIC_BYTES / sizeof(uintptr_t)] = {0};
    NTSTATUS status = NtQueryInformationThread(thread, (THREADINFOCLASS)0, basic, sizeof basic, NULL);
    if (status == STATUS_ACCESS_DENIED) {
        /* Cancelling and ending take THREAD_TERMINATE alone. */
        return machine_waiting_thread(is_handle_of, thread);
    }
    return status == 0 && basic[2] == GetCurrentProcessId() ? (DWORD)basic[3] : 0;
}

static NTSTATUS WINAPI on_cancel_synchronous(HANDLE thread, IO_STATUS_BLOCK *of, IO_STATUS_BLOCK *io)
{
    DWORD id = thread_of(thread);
    NTSTATUS status = original_cancel_synchronous(thread, of, io);
    /* Wine has looked whether it may be cancelled by that handle. */
    int is_found = id != 0 && (status == STATUS_NOT_FOUND || status >= 0) && machine_cancel_thread(id);
    return cancelled(is_found, status, io);
}

static NTSTATUS WINAPI on_terminate(HANDLE thread, LONG code)
{
    DWORD id = thread == NULL || thread == GetCurrentThread() ? 0 : thread_of(thread);
    NTSTATUS status = original_terminate(thread, code);
    if (status >= 0 && id != 0 && id != GetCurrentThreadId()) {
        /* The driver is not to go on with what it asked for. */
        machine_cancel_thread(id);
    }
    return status;
}

/* The log of the prefix is in the DLL's folder. */
static void log_line(HMODULE self, const char *line)
{
    static const WCHAR name[] = L"ringfence.log";
    WCHAR path[MAX_PATH + sizeof name / sizeof *name];
    DWORD length = GetModuleFileNameW(self, path, MAX_PATH), bytes = 0, written;
    if (length == 0 || length >= MAX_PATH) {
        return;
    }
    while (length != 0 && path[length - 1] != L'\\') {
        length--;
    }
    rf_copy(path + length, name, sizeof name);
    while (line[bytes] != 0) {
        bytes++;
    }
    HANDLE log = CreateFileW(path, FILE_APPEND_DATA, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_ALWAYS, 0, NULL);
    if (log != INVALID_HANDLE_VALUE) {
        WriteFile(log, line, bytes, &written, NULL);
        CloseHandle(log);
    }
}

void port_start_requests(HMODULE self)
{
    /* First those that forget. */
    static const struct hook hooks[] = {
        {"NtClose", (void *)on_close, (void **)&original_close},
        {"NtDuplicateObject", (void *)on_duplicate, (void **)&original_duplicate},
        {"NtCancelIoFileEx", (void *)on_cancel, (void **)&original_cancel},
        {"NtCancelSynchronousIoFile", (void *)on_cancel_synchronous, (void **)&original_cancel_synchronous},
        {"NtTerminateThread", (void *)on_terminate, (void **)&original_terminate},
        {"NtFlushBuffersFile", (void *)on_flush, (void **)&original_flush},
        {"NtWriteFile", (void *)on_write, (void **)&original_write},
        {"NtReadFile", (void *)on_read, (void **)&original_read},
        {"NtDeviceIoControlFile", (void *)on_device_control, (void **)&original_device_control},
        {"NtCreateFile", (void *)on_create_file, (void **)&original_create},
        {"NtOpenFile", (void *)on_open_file, (void **)&original_open},
        {"NtCreateNamedPipeFile", (void *)on_create_pipe, (void **)&original_create_pipe},
    };
    char value[4];
    DWORD length = GetEnvironmentVariableA("RINGFENCE_DIRECT", value, sizeof value);
    if (length == 1 && value[0] == '0') {
        return;
    }
    if (!hook_all(hooks, sizeof hooks / sizeof *hooks)) {
        log_line(self, "ringfence-port.dll: this Wine's ntdll.dll is not known: requests go through winedevice\n");
    }
}
