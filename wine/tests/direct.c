/* Requests of handles that are waited for in the call, as `ringfence wine run` sends them: direct.exe SCENARIO. What a scenario
 * prints is the same when they go through winedevice. */
#include "common.h"
#include <winternl.h>

#include "../../tests/drivers/include/echo.h"
#include "../../tests/drivers/include/faulty.h"

NTSTATUS NTAPI NtReadFile(HANDLE, HANDLE, PIO_APC_ROUTINE, void *, IO_STATUS_BLOCK *, void *, ULONG, LARGE_INTEGER *, ULONG *);
NTSTATUS NTAPI NtWriteFile(HANDLE, HANDLE, PIO_APC_ROUTINE, void *, IO_STATUS_BLOCK *, void *, ULONG, LARGE_INTEGER *, ULONG *);
NTSTATUS NTAPI NtFlushBuffersFile(HANDLE, IO_STATUS_BLOCK *);

#define NAME "\\\\.\\echo"
/* CTL_CODE(0x22, 0x800, METHOD_BUFFERED, FILE_WRITE_ACCESS): the driver does not know it. */
#define NEEDS_WRITE 0x0022A000u

static void echo(HANDLE device)
{
    unsigned char input[64], output[64];
    DWORD bytes = 0;
    memset(input, 0x31, sizeof input);
    CHECK(DeviceIoControl(device, ECHO_BUFFERED, input, 64, output, 64, &bytes, NULL));
    CHECK(bytes == 64 && output[1] == (unsigned char)((0x31 ^ ECHO_KEY_BUFFERED) + 1));
}

/* The driver answers an open when it likes; requests before go through winedevice. */
static HANDLE open_settled(const char *name)
{
    HANDLE device = open_device(name);
    for (int i = 0; i < 3; i++) {
        echo(device);
    }
    return device;
}

static rf_u32 release(HANDLE device)
{
    rf_u32 count = 0;
    DWORD bytes;
    CHECK(DeviceIoControl(device, ECHO_RELEASE, NULL, 0, &count, sizeof count, &bytes, NULL));
    return count;
}

struct waiter {
    HANDLE device;
    HANDLE thread;
    DWORD id;
    DWORD error;
    rf_u32 output;
};

static DWORD WINAPI wait_main(void *context)
{
    struct waiter *waiter = context;
    rf_u32 tag = 7;
    DWORD bytes = 0;
    BOOL is_ok = DeviceIoControl(waiter->device, ECHO_WAIT, &tag, sizeof tag, &waiter->output, sizeof waiter->output, &bytes, NULL);
    waiter->error = is_ok ? 0 : GetLastError();
    return 0;
}

static void wait_begin(struct waiter *waiter, HANDLE device)
{
    waiter->device = device;
    waiter->error = 0xFFFFFFFF;
    waiter->output = 0;
    waiter->thread = CreateThread(NULL, 0, wait_main, waiter, 0, &waiter->id);
    CHECK(waiter->thread != NULL);
    Sleep(500);
    CHECK(waiter->error == 0xFFFFFFFF);
}

static DWORD wait_end(struct waiter *waiter)
{
    CHECK(WaitForSingleObject(waiter->thread, 20000) == WAIT_OBJECT_0);
    CloseHandle(waiter->thread);
    return waiter->error;
}

/* While whoever drives the test has stopped winedevice, between the two lines. */
static void requests(void)
{
    HANDLE device = open_settled(NAME);
    HANDLE other;
    DWORD bytes;
    unsigned char data[10];
    /* Handles of every origin are known by then. */
    CHECK(DuplicateHandle(GetCurrentProcess(), device, GetCurrentProcess(), &other, 0, FALSE, DUPLICATE_SAME_ACCESS));
    echo(other);
    say("ready");
    say("?");
    await_line();
    for (int i = 0; i < 200; i++) {
        echo(device);
        echo(other);
    }
    CHECK(WriteFile(device, "some bytes", 10, &bytes, NULL) && bytes == 10);
    CHECK(ReadFile(device, data, sizeof data, &bytes, NULL) && bytes == 10);
    CHECK(data[0] == (unsigned char)('s' ^ ECHO_READ_KEY_BUFFERED));
    CHECK_ERROR(FlushFileBuffers(device), ERROR_INVALID_FUNCTION);
    struct waiter waiter;
    wait_begin(&waiter, device);
    CHECK(release(device) == 1);
    CHECK(wait_end(&waiter) == 0 && waiter.output == (7 ^ 0xFFFFFFFFu));
    say("done");
    say("?");
    await_line();
    CHECK(CloseHandle(other));
    echo(device);
    CHECK(CloseHandle(device));
}

static void threads(void)
{
    enum { THREADS = 6 };
    HANDLE device = open_settled(NAME);
    struct waiter waiters[THREADS];
    for (int i = 0; i < THREADS; i++) {
        wait_begin(&waiters[i], device);
        echo(device);
    }
    rf_u32 count = 0;
    for (int tries = 0; tries < 200 && count != THREADS; tries++) {
        count += release(device);
        Sleep(20);
    }
    CHECK(count == THREADS);
    for (int i = 0; i < THREADS; i++) {
        CHECK(wait_end(&waiters[i]) == 0);
    }
    CHECK(CloseHandle(device));
}

/* A handle that does not tell which thread it is. */
static HANDLE only_to_end(HANDLE thread)
{
    HANDLE limited;
    CHECK(DuplicateHandle(GetCurrentProcess(), thread, GetCurrentProcess(), &limited, THREAD_TERMINATE, FALSE, 0));
    return limited;
}

static void cancel(void)
{
    HANDLE device = open_settled(NAME);
    struct waiter waiter;
    wait_begin(&waiter, device);
    for (int tries = 0; tries < 200 && !CancelSynchronousIo(waiter.thread); tries++) {
        CHECK(GetLastError() == ERROR_NOT_FOUND);
        Sleep(20);
    }
    printf("CancelSynchronousIo: error %lu\n", wait_end(&waiter));
    wait_begin(&waiter, device);
    CHECK(CancelIoEx(device, NULL));
    printf("CancelIoEx: error %lu\n", wait_end(&waiter));
    wait_begin(&waiter, device);
    HANDLE limited = only_to_end(waiter.thread);
    for (int tries = 0; tries < 200 && !CancelSynchronousIo(limited); tries++) {
        CHECK(GetLastError() == ERROR_NOT_FOUND);
        Sleep(20);
    }
    CloseHandle(limited);
    printf("CancelSynchronousIo, by a handle for no more: error %lu\n", wait_end(&waiter));
    CHECK_ERROR(CancelSynchronousIo(GetCurrentThread()), ERROR_NOT_FOUND);
    printf("released %u\n", release(device));
    echo(device);
    CHECK(CloseHandle(device));
}

static void close(void)
{
    HANDLE device = open_settled(NAME), other = open_settled(NAME);
    struct waiter waiter;
    wait_begin(&waiter, device);
    CHECK(CloseHandle(device));
    printf("closed: error %lu\n", wait_end(&waiter));
    echo(other);
    CHECK(CloseHandle(other));
}

/* More often than there are connections. */
static void terminate(void)
{
    HANDLE device = open_settled(NAME);
    struct waiter waiter;
    for (int i = 0; i < 6; i++) {
        wait_begin(&waiter, device);
        HANDLE handle = i % 2 == 0 ? waiter.thread : only_to_end(waiter.thread);
        CHECK(TerminateThread(handle, 1));
        if (handle != waiter.thread) {
            CloseHandle(handle);
        }
        CHECK(WaitForSingleObject(waiter.thread, 20000) == WAIT_OBJECT_0);
        CloseHandle(waiter.thread);
        rf_u32 left = 1;
        for (int tries = 0; tries < 100 && left != 0; tries++) {
            Sleep(20);
            left = release(device);
        }
        CHECK(left == 0);
        echo(device);
    }
    CHECK(CloseHandle(device));
}

static void suspend(void)
{
    HANDLE device = open_settled(NAME);
    struct waiter waiter;
    wait_begin(&waiter, device);
    CHECK(SuspendThread(waiter.thread) == 0);
    for (int i = 0; i < 20; i++) {
        echo(device);
    }
    rf_u32 count = release(device);
    CHECK(ResumeThread(waiter.thread) == 1);
    /* It may have been suspended before its request was sent. */
    for (int tries = 0; tries < 200 && count == 0; tries++) {
        Sleep(20);
        count = release(device);
    }
    CHECK(wait_end(&waiter) == 0 && waiter.output == (7 ^ 0xFFFFFFFFu));
    CHECK(CloseHandle(device));
}

static void print(const char *what, NTSTATUS status, const IO_STATUS_BLOCK *io)
{
    printf("%s: %08lx, %08lx %lu\n", what, (unsigned long)status, (unsigned long)io->Status, (unsigned long)io->Information);
}

static IO_STATUS_BLOCK io;

static NTSTATUS control(HANDLE device, HANDLE event, ULONG code, void *input, ULONG input_bytes, void *output, ULONG output_bytes)
{
    memset(&io, 0x55, sizeof io);
    io.Information = 77;
    return NtDeviceIoControlFile(device, event, NULL, NULL, &io, code, input, input_bytes, output, output_bytes);
}

static void results(void)
{
    HANDLE device = open_settled(NAME);
    unsigned char *data = VirtualAlloc(NULL, 0x3000, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    DWORD before;
    LARGE_INTEGER offset = {.QuadPart = 0};
    struct echo_complete complete = {.information = 4000, .fill = 0x5A};
    static const ULONG statuses[] = {0, 0x40000001, 0x80000005, 0xC0000022, 0xC0000008, 0xC00002B6, 0xC00000B5};
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        complete.status = statuses[i];
        memset(data, 0, 16);
        print("complete", control(device, NULL, ECHO_COMPLETE, &complete, sizeof complete, data, 8), &io);
        printf("%02x %02x\n", data[7], data[8]);
    }
    complete.status = 0;
    complete.information = 2;
    memset(data, 0, 16);
    print("short", control(device, NULL, ECHO_COMPLETE, &complete, sizeof complete, data, 8), &io);
    printf("%02x %02x\n", data[1], data[2]);
    print("no buffers", control(device, NULL, ECHO_BUFFERED, NULL, 0, NULL, 0), &io);
    print("unknown code", control(device, NULL, 0x22FFFC, NULL, 0, NULL, 0), &io);
    print("large", control(device, NULL, ECHO_OUT_DIRECT, malloc(20000), 20000, malloc(20000), 20000), &io);
    /* Buffers that are not there. The last page can only be read. */
    CHECK(VirtualProtect(data + 0x1000, 0x1000, PAGE_NOACCESS, &before));
    CHECK(VirtualProtect(data + 0x2000, 0x1000, PAGE_READONLY, &before));
    printf("bad input: %08lx\n", (unsigned long)control(device, NULL, ECHO_BUFFERED, data + 0xFF0, 64, data, 64));
    printf("bad output: %08lx\n", (unsigned long)control(device, NULL, ECHO_BUFFERED, data, 64, data + 0xFF0, 64));
    printf("read-only output: %08lx\n", (unsigned long)control(device, NULL, ECHO_BUFFERED, data, 64, data + 0x2000, 64));
    printf("null output: %08lx\n", (unsigned long)control(device, NULL, ECHO_BUFFERED, data, 64, NULL, 64));
    print("read-only input", control(device, NULL, ECHO_BUFFERED, data + 0x2000, 64, data, 64), &io);
    printf("bad read: %08lx\n", (unsigned long)NtReadFile(device, NULL, NULL, NULL, &io, data + 0x2000, 4, &offset, NULL));
    printf("bad write: %08lx\n", (unsigned long)NtWriteFile(device, NULL, NULL, NULL, &io, data + 0x1000, 4, &offset, NULL));
    print("write", NtWriteFile(device, NULL, NULL, NULL, &io, data, 4, &offset, NULL), &io);
    print("read", NtReadFile(device, NULL, NULL, NULL, &io, data, 100, NULL, NULL), &io);
    print("flush", NtFlushBuffersFile(device, &io), &io);
    print("too much", NtWriteFile(device, NULL, NULL, NULL, &io, malloc(5000), 5000, NULL, NULL), &io);
    /* The caller's event. */
    HANDLE event = CreateEventA(NULL, TRUE, TRUE, NULL);
    print("event", control(device, event, ECHO_BUFFERED, data, 64, data, 64), &io);
    printf("is set: %d\n", WaitForSingleObject(event, 0) == WAIT_OBJECT_0);
    CHECK(ResetEvent(event));
    print("event, error", control(device, event, 0x22FFFC, NULL, 0, NULL, 0), &io);
    printf("is set: %d\n", WaitForSingleObject(event, 0) == WAIT_OBJECT_0);
    printf("no event: %08lx\n", (unsigned long)control(device, (HANDLE)0x7F0, ECHO_BUFFERED, data, 64, data, 64));
    CHECK(CloseHandle(device));
    printf("closed: %08lx\n", (unsigned long)control(device, NULL, ECHO_BUFFERED, data, 64, data, 64));
    /* What the handle allows. */
    device = CreateFileA(NAME, GENERIC_READ, 0, NULL, OPEN_EXISTING, 0, NULL);
    CHECK(device != INVALID_HANDLE_VALUE);
    echo(device);
    echo(device);
    printf("write: %08lx\n", (unsigned long)NtWriteFile(device, NULL, NULL, NULL, &io, data, 4, &offset, NULL));
    printf("control: %08lx\n", (unsigned long)control(device, NULL, NEEDS_WRITE, NULL, 0, NULL, 0));
    printf("flush: %08lx\n", (unsigned long)NtFlushBuffersFile(device, &io));
    CHECK(CloseHandle(device));
}

/* A number that was a device's is a file's. */
static void reuse(void)
{
    char folder[MAX_PATH], path[MAX_PATH], data[4];
    DWORD bytes;
    CHECK(GetTempPathA(sizeof folder, folder) && GetTempFileNameA(folder, "rf", 0, path));
    for (int i = 0; i < 30; i++) {
        HANDLE device = open_settled(NAME), moved = NULL;
        HANDLE process = i % 3 == 1 ? GetCurrentProcess() : OpenProcess(PROCESS_DUP_HANDLE, FALSE, GetCurrentProcessId());
        CHECK(process != NULL);
        if (i % 3 == 0) {
            CHECK(CloseHandle(device));
        } else {
            CHECK(DuplicateHandle(process, device, process, &moved, 0, FALSE, DUPLICATE_SAME_ACCESS | DUPLICATE_CLOSE_SOURCE));
        }
        CloseHandle(process);
        HANDLE file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
        CHECK(file == device || moved != NULL);
        CHECK(WriteFile(file, "file", 4, &bytes, NULL) && bytes == 4);
        CHECK(SetFilePointer(file, 0, NULL, FILE_BEGIN) == 0);
        CHECK(ReadFile(file, data, 4, &bytes, NULL) && bytes == 4 && memcmp(data, "file", 4) == 0);
        CHECK(CloseHandle(file));
        if (moved != NULL) {
            echo(moved);
            echo(moved);
            CHECK(CloseHandle(moved));
        }
    }
    DeleteFileA(path);
}

/* This program again, with other arguments. */
static HANDLE start_child(const char *scenario, HANDLE handle)
{
    char line[MAX_PATH + 64], path[MAX_PATH];
    STARTUPINFOA startup = {.cb = sizeof startup};
    PROCESS_INFORMATION process;
    GetModuleFileNameA(NULL, path, sizeof path);
    snprintf(line, sizeof line, "\"%s\" %s %lu %lu", path, scenario, (unsigned long)(uintptr_t)handle, GetCurrentProcessId());
    CHECK(CreateProcessA(path, line, NULL, NULL, TRUE, 0, NULL, NULL, &startup, &process));
    CloseHandle(process.hThread);
    return process.hProcess;
}

static void end_child(HANDLE process)
{
    DWORD code = 1;
    CHECK(WaitForSingleObject(process, 60000) == WAIT_OBJECT_0);
    CHECK(GetExitCodeProcess(process, &code) && code == 0);
    CloseHandle(process);
}

static void child(void)
{
    HANDLE device = open_settled(NAME);
    CHECK(SetHandleInformation(device, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT));
    end_child(start_child("inherited", device));
    echo(device);
    CHECK(CloseHandle(device));
}

static HANDLE make_event(const char *name)
{
    HANDLE event = CreateEventA(NULL, FALSE, FALSE, name);
    CHECK(event != NULL);
    return event;
}

/* What a child does with a handle of its parent's. */
static void take_away(HANDLE device, DWORD parent)
{
    HANDLE process = OpenProcess(PROCESS_DUP_HANDLE, FALSE, parent), taken;
    CHECK(process != NULL);
    CHECK(DuplicateHandle(process, device, GetCurrentProcess(), &taken, 0, FALSE, DUPLICATE_SAME_ACCESS | DUPLICATE_CLOSE_SOURCE));
    CHECK(SetEvent(make_event("direct-taken")));
    CHECK(WaitForSingleObject(make_event("direct-done"), 60000) == WAIT_OBJECT_0);
    echo(taken);
}

/* A handle that another process moves away is as good as closed here, but its file stays open. */
static void stolen(void)
{
    enum { TRIES = 64 };
    HANDLE taken = make_event("direct-taken"), done = make_event("direct-done");
    char folder[MAX_PATH], path[MAX_PATH], data[4];
    DWORD bytes;
    CHECK(GetTempPathA(sizeof folder, folder) && GetTempFileNameA(folder, "rf", 0, path));
    enum { OPENED, DUPLICATED, PIPE, KINDS };
    for (int kind = OPENED; kind < KINDS; kind++) {
        HANDLE first = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, CREATE_ALWAYS, 0,
                                   NULL);
        HANDLE device = open_settled(NAME), file = first, before[TRIES], process = start_child("thief", device);
        CHECK(WaitForSingleObject(taken, 60000) == WAIT_OBJECT_0);
        int made = 0;
        for (; made < TRIES && file != device; made++) {
            if (kind == PIPE) {
                file = CreateNamedPipeA("\\\\.\\pipe\\direct", PIPE_ACCESS_DUPLEX, PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES, 64, 64, 0,
                                        NULL);
            } else if (kind == DUPLICATED) {
                CHECK(DuplicateHandle(GetCurrentProcess(), first, GetCurrentProcess(), &file, 0, FALSE, DUPLICATE_SAME_ACCESS));
            } else {
                file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_EXISTING, 0,
                                   NULL);
            }
            before[made] = file;
        }
        CHECK(file == device);
        if (kind == PIPE) {
            CHECK_ERROR(WriteFile(file, "file", 4, &bytes, NULL), ERROR_PIPE_LISTENING);
        } else {
            CHECK(WriteFile(file, "file", 4, &bytes, NULL) && bytes == 4);
            CHECK(SetFilePointer(file, 0, NULL, FILE_BEGIN) == 0);
            CHECK(ReadFile(file, data, 4, &bytes, NULL) && bytes == 4 && memcmp(data, "file", 4) == 0);
        }
        CHECK(SetEvent(done));
        end_child(process);
        while (made-- > 0) {
            CHECK(CloseHandle(before[made]));
        }
        CHECK(CloseHandle(first));
    }
    DeleteFileA(path);
}

/* The service is started again each time. */
static void rounds(void)
{
    for (int i = 0; i < 4; i++) {
        HANDLE device = open_settled(NAME);
        for (int times = 0; times < 20; times++) {
            echo(device);
        }
        CHECK(CloseHandle(device));
        say("round");
        say("?");
        await_line();
    }
}

/* Says that a thread waits; then the driver goes. */
static void hold(void)
{
    HANDLE device = open_settled(NAME);
    struct waiter waiter;
    DWORD bytes;
    wait_begin(&waiter, device);
    say("holding");
    printf("ended: error %lu\n", wait_end(&waiter));
    CHECK(!DeviceIoControl(device, ECHO_RELEASE, NULL, 0, &waiter.output, sizeof waiter.output, &bytes, NULL));
    CHECK(!DeviceIoControl(device, ECHO_RELEASE, NULL, 0, &waiter.output, sizeof waiter.output, &bytes, NULL));
    CHECK(CloseHandle(device));
}

/* A request that ends the driver. */
static void end_driver(ULONG code)
{
    HANDLE device = open_device("\\\\.\\faulty");
    DWORD bytes;
    for (int i = 0; i < 3; i++) {
        CHECK(DeviceIoControl(device, FAULTY_NOTHING, NULL, 0, NULL, 0, &bytes, NULL));
    }
    say("settled");
    say("?");
    await_line();
    BOOL is_ok = DeviceIoControl(device, code, NULL, 0, NULL, 0, &bytes, NULL);
    printf("ended: error %lu\n", is_ok ? 0 : GetLastError());
    CHECK(!DeviceIoControl(device, FAULTY_NOTHING, NULL, 0, NULL, 0, &bytes, NULL));
    CHECK(CloseHandle(device));
}

static void crash(void)
{
    end_driver(FAULTY_NULL_WRITE);
}

static void hang(void)
{
    end_driver(FAULTY_INFINITE_LOOP);
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {
        {"requests", requests}, {"threads", threads}, {"cancel", cancel}, {"close", close}, {"terminate", terminate},
        {"suspend", suspend},   {"results", results}, {"reuse", reuse},   {"child", child}, {"hold", hold},
        {"crash", crash},       {"hang", hang},     {"stolen", stolen},   {"rounds", rounds},
    };
    HANDLE device = count == 4 ? (HANDLE)(uintptr_t)strtoul(arguments[2], NULL, 10) : NULL;
    if (count == 4 && strcmp(arguments[1], "thief") == 0) {
        take_away(device, strtoul(arguments[3], NULL, 10));
        return 0;
    }
    if (count == 4 && strcmp(arguments[1], "inherited") == 0) {
        for (int i = 0; i < 50; i++) {
            echo(device);
        }
        return 0;
    }
    for (int argument = 1; argument < count; argument++) {
        for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
            if (strcmp(arguments[argument], scenarios[i].name) == 0) {
                scenarios[i].run();
                printf("%s: as it should be\n", arguments[argument]);
                fflush(stdout);
            }
        }
    }
    return 0;
}
