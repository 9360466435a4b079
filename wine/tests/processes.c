/* Processes and a driver that knows them: by their ids, and by handles that one has from another. processes.exe SCENARIO; the
 * scenarios that use ports need `ringfence wine run`. Port 0x300 keeps what is written (the `ram` model). */
#include "common.h"

#include "../../tests/drivers/include/echo.h"
#include "../../tests/drivers/include/ioperm.h"

#ifdef _WIN64
#define IP(context) ((context)->Rip)
#else
#define IP(context) ((context)->Eip)
#endif

static volatile BOOL is_denied;

static LONG CALLBACK on_exception(EXCEPTION_POINTERS *pointers)
{
    if (pointers->ExceptionRecord->ExceptionCode != (DWORD)STATUS_PRIVILEGED_INSTRUCTION) {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    is_denied = TRUE;
    IP(pointers->ContextRecord) += 1;
    return EXCEPTION_CONTINUE_EXECUTION;
}

/* Whether an `in` is granted, or is STATUS_PRIVILEGED_INSTRUCTION. */
static BOOL has_port(void)
{
    unsigned char value;
    is_denied = FALSE;
    __asm__ volatile("inb %%dx, %%al" : "=a"(value) : "d"(0x300) : "memory");
    return !is_denied;
}

static BOOL control(HANDLE device, ULONG code, void *input, DWORD input_bytes)
{
    DWORD bytes;
    return DeviceIoControl(device, code, input, input_bytes, NULL, 0, &bytes, NULL);
}

static BOOL set_process(HANDLE device, DWORD id, DWORD map)
{
    struct ioperm_process request = {.process_id = id, .number = map};
    return control(device, IOPERM_SET_PROCESS, &request, sizeof request);
}

/* Opening it grants every port, so that is taken back. */
static HANDLE open_ioperm(void)
{
    HANDLE device = open_device("\\\\.\\ioperm");
    CHECK(control(device, IOPERM_REVOKE, NULL, 0));
    CHECK(!has_port());
    return device;
}

static BOOL echo(HANDLE device)
{
    unsigned char input[64], output[64];
    DWORD bytes = 0;
    memset(input, 0x31, sizeof input);
    if (!DeviceIoControl(device, ECHO_BUFFERED, input, 64, output, 64, &bytes, NULL)) {
        return FALSE;
    }
    CHECK(bytes == 64 && output[1] == (unsigned char)((0x31 ^ ECHO_KEY_BUFFERED) + 1));
    return TRUE;
}

static HANDLE named_event(const char *name)
{
    HANDLE event = CreateEventA(NULL, FALSE, FALSE, name);
    CHECK(event != NULL);
    return event;
}

static void await(HANDLE handle)
{
    CHECK(WaitForSingleObject(handle, 60000) == WAIT_OBJECT_0);
}

/* This program again, as `SCENARIO HANDLE ID-OF-THIS-PROCESS`. */
static PROCESS_INFORMATION start_child(const char *scenario, HANDLE handle)
{
    char line[MAX_PATH + 64], path[MAX_PATH];
    STARTUPINFOA startup = {.cb = sizeof startup};
    PROCESS_INFORMATION child;
    GetModuleFileNameA(NULL, path, sizeof path);
    snprintf(line, sizeof line, "\"%s\" %s %lu %lu", path, scenario, (unsigned long)(uintptr_t)handle, GetCurrentProcessId());
    CHECK(CreateProcessA(path, line, NULL, NULL, TRUE, 0, NULL, NULL, &startup, &child));
    return child;
}

static void end_child(PROCESS_INFORMATION child)
{
    DWORD code = 1;
    await(child.hProcess);
    CHECK(GetExitCodeProcess(child.hProcess, &code) && code == 0);
}

/* Who asks is who GetCurrentProcessId says. */
static void own_id(void)
{
    DWORD own = GetCurrentProcessId();
    CHECK(!has_port());
    HANDLE device = open_ioperm();
    /* Nobody's. */
    static const DWORD others[] = {0x10000, 0x7FFFFFFC, 0xFFFFFFFC};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        CHECK_ERROR(set_process(device, others[i] == 0x10000 ? own + 0x10000 : others[i], 1), ERROR_INVALID_PARAMETER);
        CHECK(!has_port());
    }
    for (int i = 0; i < 2; i++) {
        CHECK(set_process(device, own, 1));
        CHECK(has_port());
        CHECK(set_process(device, own, 0));
        CHECK(!has_port());
    }
    CHECK(CloseHandle(device));
}

/* A child is known from its first open on. */
static void child_id(void)
{
    HANDLE open = named_event("processes-open"), opened = named_event("processes-opened"), granted = named_event("processes-granted");
    HANDLE device = open_ioperm();
    PROCESS_INFORMATION child = start_child("child", NULL);
    CHECK_ERROR(set_process(device, child.dwProcessId, 1), ERROR_INVALID_PARAMETER);
    CHECK(SetEvent(open));
    await(opened);
    CHECK(set_process(device, child.dwProcessId, 1));
    /* It is the child's alone. */
    CHECK(!has_port());
    CHECK(SetEvent(granted));
    end_child(child);
    /* Nor is it found when it has ended; the driver is told that a little later. */
    BOOL is_found = TRUE;
    for (int tries = 0; is_found && tries < 1000; tries++) {
        is_found = set_process(device, child.dwProcessId, 1);
        Sleep(is_found ? 20 : 0);
    }
    CHECK(!is_found && GetLastError() == ERROR_INVALID_PARAMETER);
    CHECK(CloseHandle(device));
}

static void child(void)
{
    await(named_event("processes-open"));
    HANDLE device = open_ioperm();
    CHECK(SetEvent(named_event("processes-opened")));
    await(named_event("processes-granted"));
    CHECK(has_port());
    CHECK(CloseHandle(device));
}

/* What a child asks for on its parent's handle is granted to the parent. */
static void grant_by_heir(void)
{
    HANDLE device = open_ioperm();
    CHECK(SetHandleInformation(device, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT));
    end_child(start_child("granting-heir", device));
    CHECK(has_port());
    CHECK(CloseHandle(device));
}

static void granting_heir(HANDLE device)
{
    CHECK(!has_port());
    CHECK(control(device, IOPERM_GRANT_ALL, NULL, 0));
    CHECK(!has_port());
}

/* Opens, has a child have the handle, and ends when it has. */
static void leave(const char *how, BOOL is_inherited)
{
    HANDLE has = named_event("processes-heir"), device = open_device("\\\\.\\echo");
    CHECK(echo(device));
    CHECK(!is_inherited || SetHandleInformation(device, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT));
    start_child(how, device);
    await(has);
    CHECK(echo(device));
}

static void leave_inherited(void)
{
    leave("heir", TRUE);
}

static void leave_duplicated(void)
{
    leave("taker", FALSE);
}

struct waiter {
    HANDLE device;
    BOOL is_ok;
    DWORD error;
};

static DWORD WINAPI wait_main(void *context)
{
    struct waiter *waiter = context;
    rf_u32 tag = 7, output;
    DWORD bytes = 0;
    waiter->is_ok = DeviceIoControl(waiter->device, ECHO_WAIT, &tag, sizeof tag, &output, sizeof output, &bytes, NULL);
    waiter->error = GetLastError();
    return 0;
}

static void inherit(HANDLE device, DWORD parent, BOOL is_taken)
{
    HANDLE opener = OpenProcess(SYNCHRONIZE | PROCESS_DUP_HANDLE, FALSE, parent), own = device;
    CHECK(opener != NULL);
    if (is_taken) {
        CHECK(DuplicateHandle(opener, device, GetCurrentProcess(), &own, 0, FALSE, DUPLICATE_SAME_ACCESS));
    }
    for (int i = 0; i < 20; i++) {
        CHECK(echo(own));
    }
    say("works");
    struct waiter waiter = {.device = own};
    HANDLE thread = CreateThread(NULL, 0, wait_main, &waiter, 0, NULL);
    Sleep(500);
    CHECK(WaitForSingleObject(thread, 0) == WAIT_TIMEOUT);
    CHECK(SetEvent(named_event("processes-heir")));
    await(opener);
    await(thread);
    printf("waited: error %lu\n", waiter.is_ok ? 0 : waiter.error);
    BOOL is_ok = TRUE;
    for (int tries = 0; is_ok && tries < 1000; tries++) {
        is_ok = echo(own);
        Sleep(is_ok ? 20 : 0);
    }
    printf("after: error %lu\n", is_ok ? 0 : GetLastError());
    CHECK(CloseHandle(own));
    /* One of its own works as ever. */
    own = open_device("\\\\.\\echo");
    CHECK(echo(own));
    CHECK(CloseHandle(own));
    say("opens");
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {
        {"own-id", own_id}, {"child-id", child_id}, {"grant-by-heir", grant_by_heir}, {"leave-inherited", leave_inherited},
        {"leave-duplicated", leave_duplicated},
    };
    const char *what = count > 1 ? arguments[1] : "";
    AddVectoredExceptionHandler(0, on_exception);
    for (size_t i = 0; count == 2 && i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strcmp(what, scenarios[i].name) == 0) {
            scenarios[i].run();
            printf("%s: as it should be\n", what);
            return 0;
        }
    }
    CHECK(count == 4);
    HANDLE handle = (HANDLE)(uintptr_t)strtoul(arguments[2], NULL, 10);
    DWORD parent = strtoul(arguments[3], NULL, 10);
    if (strcmp(what, "child") == 0) {
        child();
    } else if (strcmp(what, "granting-heir") == 0) {
        granting_heir(handle);
    } else {
        inherit(handle, parent, strcmp(what, "taker") == 0);
    }
    return 0;
}
