/* The DLL into a process that has not run yet. */
#include "port.h"

void port_event_name(DWORD process, WCHAR name[32])
{
    static const WCHAR prefix[] = L"ringfence-port-";
    unsigned at = 0, digits = 1;
    while (prefix[at] != 0) {
        name[at] = prefix[at];
        at++;
    }
    for (DWORD rest = process; rest >= 10; rest /= 10) {
        digits++;
    }
    name[at + digits] = 0;
    for (unsigned digit = digits; digit != 0; digit--) {
        name[at + digit - 1] = (WCHAR)(L'0' + process % 10);
        process /= 10;
    }
}

int port_inject_same(HANDLE process, HANDLE thread, const WCHAR *dll)
{
    SIZE_T bytes = sizeof(WCHAR), written;
    for (const WCHAR *at = dll; *at != 0; at++) {
        bytes += sizeof(WCHAR);
    }
    /* kernel32 lies at the same address in each process of a kind. */
    FARPROC load = GetProcAddress(GetModuleHandleW(L"kernel32.dll"), "LoadLibraryW");
    void *name = VirtualAllocEx(process, NULL, bytes, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
    if (load == NULL || name == NULL || !WriteProcessMemory(process, name, dll, bytes, &written)) {
        return 0;
    }
    /* Delivered when the loader is done with the process's own DLLs, before its entry point. The name stays: nobody knows when
     * it has been read. */
    return QueueUserAPC((PAPCFUNC)(void *)load, thread, (ULONG_PTR)name) != 0;
}

/* `NAME64` <-> `NAME32` in the last path component before the extension. */
static void other_width(WCHAR *path)
{
    WCHAR *dot = NULL;
    for (WCHAR *at = path; *at != 0; at++) {
        if (*at == L'.') {
            dot = at;
        }
    }
    if (dot != NULL && dot - path >= 2) {
        dot[-2] = dot[-2] == L'6' ? L'3' : L'6';
        dot[-1] = dot[-1] == L'4' ? L'2' : L'4';
    }
}

static int is_wow64(HANDLE process)
{
    BOOL result = FALSE;
    return IsWow64Process(process, &result) && result;
}

static void append(WCHAR **at, const WCHAR *text)
{
    while (*text != 0) {
        *(*at)++ = *text++;
    }
    **at = 0;
}

static void append_number(WCHAR **at, DWORD number)
{
    WCHAR digits[11];
    unsigned count = 0;
    do {
        digits[count++] = (WCHAR)(L'0' + number % 10);
        number /= 10;
    } while (number != 0);
    while (count != 0) {
        *(*at)++ = digits[--count];
    }
    **at = 0;
}

/* Code of the other width can only be put there by a program of that width. */
static int inject_by_launcher(const PROCESS_INFORMATION *child, const WCHAR *dll, create_process create)
{
    DWORD code = 1;
    WCHAR line[MAX_PATH + 64], *at = line;
    STARTUPINFOW startup = {.cb = sizeof startup};
    PROCESS_INFORMATION helper;
    WCHAR launcher[MAX_PATH], *end = launcher;

    append(&end, dll);
    other_width(launcher);
    /* ringfence-portNN.dll, ringfence-portNN.exe */
    end[-3] = L'e';
    end[-2] = L'x';
    end[-1] = L'e';
    append(&at, L"\"");
    append(&at, launcher);
    append(&at, L"\" --inject ");
    append_number(&at, child->dwProcessId);
    append(&at, L" ");
    append_number(&at, child->dwThreadId);
    if (create(NULL, launcher, line, NULL, NULL, FALSE, CREATE_NO_WINDOW, NULL, NULL, &startup, &helper, NULL)) {
        WaitForSingleObject(helper.hProcess, 10000);
        GetExitCodeProcess(helper.hProcess, &code);
        CloseHandle(helper.hThread);
        CloseHandle(helper.hProcess);
    }
    return code == 0;
}

int port_inject(const PROCESS_INFORMATION *process, const WCHAR *dll, create_process create)
{
    if (is_wow64(process->hProcess) == is_wow64(GetCurrentProcess())) {
        return port_inject_same(process->hProcess, process->hThread, dll);
    }
    return inject_by_launcher(process, dll, create);
}
