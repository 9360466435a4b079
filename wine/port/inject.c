/* The DLL into a process that has not run yet.
 *
 * Its first thread is suspended before it has run anything. What it will do when Wine's loader is done with the program's
 * DLLs is in its context: the instruction pointer is that of RtlUserThreadStart, which calls the program's entry point. It
 * gets to point to code of ours.
 *
 * The code may use addresses of ntdll.dll alone. That is mapped by then, at the address that it has in this process; whatever
 * is loaded later need not come to lie where it lies here, since Wine's server gives a DLL's place away when the last process
 * that has it ends. That goes for kernel32.dll, and for wow64.dll, whose address in *this* process Wine would queue for a
 * 32-bit thread's APC where 32-bit programs run in 64-bit processes.
 */
#include "port.h"

#include <winternl.h>

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

/* What is put into the process: a page of code, and one of what the code uses. */
enum { PAGE = 4096, HEADER_BYTES = 256 };
struct data {
    UNICODE_STRING name;
    HMODULE module;
    WCHAR path[MAX_PATH];
};

#ifdef _WIN64
#define INSTRUCTION_POINTER(context) ((context).Rip)
#else
#define INSTRUCTION_POINTER(context) ((context).Eip)
#endif

static uint8_t *put(uint8_t *at, const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        *at++ = bytes[i];
    }
    return at;
}

#define PUT(at, ...) put(at, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static uint8_t *put_address(uint8_t *at, uintptr_t address)
{
    return put(at, (const uint8_t *)&address, sizeof address);
}

/* LdrLoadDll(NULL, 0, &data->name, &data->module), and on to where the thread would have begun, with the registers and the
 * stack that it would have had. `data` is an address of the process that the code is for. */
static unsigned make_code(uint8_t *code, const struct data *data, const void *load, uintptr_t begin)
{
    uint8_t *at = code;
#ifdef _WIN64
    at = PUT(at, 0x55, 0x48, 0x89, 0xE5);                   /* push %rbp; mov %rsp, %rbp */
    at = PUT(at, 0x51, 0x52, 0x41, 0x50, 0x41, 0x51);       /* push %rcx, %rdx, %r8, %r9 */
    at = PUT(at, 0x48, 0x83, 0xE4, 0xF0);                   /* and $-16, %rsp */
    at = PUT(at, 0x48, 0x83, 0xEC, 0x20);                   /* sub $32, %rsp */
    at = put_address(PUT(at, 0x49, 0xB9), (uintptr_t)&data->module); /* mov, %r9 */
    at = put_address(PUT(at, 0x49, 0xB8), (uintptr_t)&data->name);   /* mov, %r8 */
    at = PUT(at, 0x31, 0xD2, 0x31, 0xC9);                   /* xor %edx, %edx; xor %ecx, %ecx */
    at = put_address(PUT(at, 0x48, 0xB8), (uintptr_t)load); /* mov, %rax */
    at = PUT(at, 0xFF, 0xD0);                               /* call *%rax */
    at = PUT(at, 0x48, 0x8D, 0x65, 0xE0);                   /* lea -32(%rbp), %rsp */
    at = PUT(at, 0x41, 0x59, 0x41, 0x58, 0x5A, 0x59, 0x5D); /* pop %r9, %r8, %rdx, %rcx, %rbp */
    at = put_address(PUT(at, 0x48, 0xB8), begin);           /* mov, %rax */
    at = PUT(at, 0xFF, 0xE0);                               /* jmp *%rax */
#else
    at = PUT(at, 0x60);                                      /* pusha */
    at = put_address(PUT(at, 0x68), (uintptr_t)&data->module); /* push */
    at = put_address(PUT(at, 0x68), (uintptr_t)&data->name); /* push */
    at = PUT(at, 0x6A, 0x00, 0x6A, 0x00);                    /* push $0, $0 */
    at = put_address(PUT(at, 0xB8), (uintptr_t)load);        /* mov, %eax */
    at = PUT(at, 0xFF, 0xD0, 0x61);                          /* call *%eax; popa */
    at = put_address(PUT(at, 0x68), begin);                  /* push */
    at = PUT(at, 0xC3);                                      /* ret */
#endif
    return (unsigned)(at - code);
}

/* Whether ntdll.dll lies where it does here, which Wine's server sees to while one of the two processes has it. */
static int has_same_ntdll(HANDLE process, const uint8_t *ntdll)
{
    uint8_t there[HEADER_BYTES];
    SIZE_T bytes;
    if (!ReadProcessMemory(process, ntdll, there, sizeof there, &bytes) || bytes != sizeof there) {
        return 0;
    }
    for (unsigned i = 0; i < sizeof there; i++) {
        if (there[i] != ntdll[i]) {
            return 0;
        }
    }
    return 1;
}

static int write(HANDLE process, void *to, const void *from, SIZE_T bytes)
{
    SIZE_T written;
    return WriteProcessMemory(process, to, from, bytes, &written) && written == bytes;
}

int port_inject_same(HANDLE process, HANDLE thread, const WCHAR *dll)
{
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    const void *load = (const void *)GetProcAddress(ntdll, "LdrLoadDll");
    uint8_t code[128];
    struct data data;
    CONTEXT context;
    DWORD ignored;
    unsigned units = 0;

    for (; dll[units] != 0; units++) {
        if (units == MAX_PATH - 1) {
            return 0;
        }
        data.path[units] = dll[units];
    }
    data.path[units] = 0;
    if (load == NULL || !has_same_ntdll(process, (const uint8_t *)ntdll)) {
        return 0;
    }
    uint8_t *at = VirtualAllocEx(process, NULL, 2 * PAGE, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
    if (at == NULL) {
        return 0;
    }
    struct data *placed = (struct data *)(at + PAGE);
    data.module = NULL;
    data.name.Length = (USHORT)(units * sizeof(WCHAR));
    data.name.MaximumLength = (USHORT)(data.name.Length + sizeof(WCHAR));
    data.name.Buffer = placed->path;
    context.ContextFlags = CONTEXT_CONTROL;
    if (!GetThreadContext(thread, &context)) {
        return 0;
    }
    unsigned bytes = make_code(code, placed, load, INSTRUCTION_POINTER(context));
    if (!write(process, at, code, bytes) || !write(process, placed, &data, sizeof data) ||
        !VirtualProtectEx(process, at, PAGE, PAGE_EXECUTE_READ, &ignored)) {
        return 0;
    }
    INSTRUCTION_POINTER(context) = (uintptr_t)at;
    return SetThreadContext(thread, &context) != 0;
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
