/* ringfence-portNN.exe: starts a program of NN bits with ringfence-portNN.dll, and ends as it ends.
 *   ringfence-portNN.exe PROGRAM [ARGUMENTS...]     the rest of the command line is the program's, as it is
 *   ringfence-portNN.exe --inject PROCESS THREAD    puts the DLL into a process that was created suspended
 * Exit status: the program's; 1 with a message if it cannot be started.
 */
#include "port.h"

/* Wine's code page of Unix paths. */
#define CP_UNIXCP 65010

static WCHAR dll[MAX_PATH];

static void say(const char *what, DWORD error)
{
    char text[160];
    unsigned length = 0;
    DWORD written;
    static const char prefix[] = "ringfence wine run: ";
    for (const char *at = prefix; *at != 0; at++) {
        text[length++] = *at;
    }
    for (; *what != 0 && length < sizeof text - 32; what++) {
        text[length++] = *what;
    }
    if (error != 0) {
        char digits[11];
        unsigned count = 0;
        static const char word[] = ": Windows error ";
        for (const char *at = word; *at != 0; at++) {
            text[length++] = *at;
        }
        do {
            digits[count++] = (char)('0' + error % 10);
            error /= 10;
        } while (error != 0);
        while (count != 0) {
            text[length++] = digits[--count];
        }
    }
    text[length++] = '\n';
    WriteFile(GetStdHandle(STD_ERROR_HANDLE), text, length, &written, NULL);
}

/* Behind the first argument of a command line: quotes toggle, as CommandLineToArgvW has it for the program's name. */
static WCHAR *behind_argument(WCHAR *at)
{
    int is_quoted = 0;
    while (*at != 0 && (is_quoted || (*at != L' ' && *at != L'\t'))) {
        if (*at == L'"') {
            is_quoted = !is_quoted;
        }
        at++;
    }
    while (*at == L' ' || *at == L'\t') {
        at++;
    }
    return at;
}

static DWORD number(WCHAR **at)
{
    DWORD value = 0;
    while (**at >= L'0' && **at <= L'9') {
        value = value * 10 + (DWORD)(*(*at)++ - L'0');
    }
    while (**at == L' ') {
        (*at)++;
    }
    return value;
}

static int starts_with(const WCHAR *text, const WCHAR *start)
{
    while (*start != 0) {
        if (*text++ != *start++) {
            return 0;
        }
    }
    return 1;
}

static UINT inject(WCHAR *at)
{
    DWORD process_id = number(&at), thread_id = number(&at);
    HANDLE process = OpenProcess(PROCESS_VM_OPERATION | PROCESS_VM_READ | PROCESS_VM_WRITE, FALSE, process_id);
    HANDLE thread = OpenThread(THREAD_GET_CONTEXT | THREAD_SET_CONTEXT, FALSE, thread_id);
    return process != NULL && thread != NULL && port_inject_same(process, thread, dll) ? 0 : 1;
}

/* A command line whose program is a path of Linux: with the path that Windows programs know it by. It is given back as it
 * is if there is none. */
static WCHAR *with_dos_path(WCHAR *line)
{
    typedef WCHAR *(CDECL * dos_name)(const char *unix_path);
    dos_name convert = (dos_name)(void *)GetProcAddress(GetModuleHandleW(L"kernel32.dll"), "wine_get_dos_file_name");
    static char unix_path[4096];
    WCHAR *from = *line == L'"' ? line + 1 : line;
    WCHAR *rest = behind_argument(line), *end = from, *path, *result;
    SIZE_T length = 0, path_length = 0, rest_length = 0;

    if (*from != L'/' || convert == NULL) {
        return line;
    }
    while (*end != 0 && *end != L'"' && (*line == L'"' || *end != L' ')) {
        end++;
    }
    length = (SIZE_T)WideCharToMultiByte(CP_UNIXCP, 0, from, (int)(end - from), unix_path, sizeof unix_path - 1, NULL, NULL);
    unix_path[length] = 0;
    path = length == 0 ? NULL : convert(unix_path);
    if (path == NULL) {
        return line;
    }
    while (path[path_length] != 0) {
        path_length++;
    }
    while (rest[rest_length] != 0) {
        rest_length++;
    }
    result = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, (path_length + rest_length + 4) * sizeof(WCHAR));
    if (result == NULL) {
        return line;
    }
    WCHAR *at = result;
    *at++ = L'"';
    for (SIZE_T i = 0; i < path_length; i++) {
        *at++ = path[i];
    }
    *at++ = L'"';
    *at++ = L' ';
    for (SIZE_T i = 0; i < rest_length; i++) {
        *at++ = rest[i];
    }
    return result;
}

/* A job in which the program is alone, and which ends it when this process does not live to see its end. */
static HANDLE tie(HANDLE program)
{
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {0};
    HANDLE job = CreateJobObjectW(NULL, NULL);
    limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK;
    if (job == NULL || !SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits) ||
        !AssignProcessToJobObject(job, program)) {
        say("the program will not end with this one", GetLastError());
    }
    return job;
}

static UINT run(WCHAR *command_line)
{
    STARTUPINFOW startup = {.cb = sizeof startup};
    PROCESS_INFORMATION program;
    WCHAR name[32];
    DWORD code;
    HANDLE waited[2];

    /* Standard handles, window state: what this program got. */
    GetStartupInfoW(&startup);
    if (!CreateProcessW(NULL, command_line, NULL, NULL, TRUE, CREATE_SUSPENDED, NULL, NULL, &startup, &program)) {
        say("the program cannot be started", GetLastError());
        return 1;
    }
    tie(program.hProcess);
    port_event_name(program.dwProcessId, name);
    waited[0] = CreateEventW(NULL, TRUE, FALSE, name);
    waited[1] = program.hProcess;
    create_process create =
        (create_process)(void *)GetProcAddress(GetModuleHandleW(L"kernelbase.dll"), "CreateProcessInternalW");
    if (waited[0] == NULL || create == NULL || !port_inject(&program, dll, create)) {
        say("ringfence-port.dll cannot be put into the program", GetLastError());
        TerminateProcess(program.hProcess, 1);
        return 1;
    }
    ResumeThread(program.hThread);
    if (WaitForMultipleObjects(2, waited, FALSE, 30000) != WAIT_OBJECT_0) {
        say("ringfence-port.dll was not loaded, so the program has no ports", 0);
    }
    WaitForSingleObject(program.hProcess, INFINITE);
    return GetExitCodeProcess(program.hProcess, &code) ? code : 1;
}

void WINAPI start(void)
{
    WCHAR *rest = behind_argument(GetCommandLineW());
    DWORD length = GetModuleFileNameW(NULL, dll, MAX_PATH);

    if (length < 4 || length >= MAX_PATH) {
        say("the launcher's path is too long", 0);
        ExitProcess(1);
    }
    dll[length - 3] = L'd';
    dll[length - 2] = L'l';
    dll[length - 1] = L'l';
    if (*rest == 0) {
        say("a program is missing", 0);
        ExitProcess(1);
    }
    ExitProcess(starts_with(rest, L"--inject ") ? inject(behind_argument(rest)) : run(with_dos_path(rest)));
}
