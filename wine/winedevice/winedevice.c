/* winedevice.exe for a prefix that is set to `intercept`: the process in which Wine's services.exe has drivers loaded. Wine's
 * own drivers, and those that `ringfence wine install` has installed, are loaded as ever; any other driver, that a program
 * has installed by itself, is replaced by ringfence.sys, which runs it in a micro-VM.
 *
 * services.exe talks to this process by service controls: the service "winedevice" is the process itself, and controls with
 * FORWARD are for the driver that they name.
 */
#include <windows.h>
#include <winsvc.h>
#include <winternl.h>

enum { FORWARD = (int)0x80000000, CONTROL_START = 0, CONTROL_REENUMERATE = 128, PATH_UNITS = 1024 };

typedef struct driver_object driver_object;
typedef NTSTATUS(NTAPI *driver_entry)(driver_object *driver, UNICODE_STRING *registry_path);
typedef void(NTAPI *driver_unload)(driver_object *driver);

#ifndef SERVICE_SET_STATUS
#define SERVICE_SET_STATUS 0x8000 /* Wine's own: a handle with it goes for a SERVICE_STATUS_HANDLE */
#endif

/* DRIVER_OBJECT.DriverUnload. */
enum { UNLOAD_AT = sizeof(void *) == 8 ? 0x68 : 0x34 };

/* Wine's ntoskrnl.exe. */
static struct {
    NTSTATUS(__cdecl *main_loop)(HANDLE stop);
    void(__cdecl *enumerate)(const WCHAR *driver);
    NTSTATUS(NTAPI *load)(const UNICODE_STRING *service);
    NTSTATUS(NTAPI *unload)(const UNICODE_STRING *service);
    NTSTATUS(NTAPI *create)(UNICODE_STRING *name, driver_entry entry);
    void(NTAPI *remove)(driver_object *driver);
} kernel;

static SERVICE_STATUS_HANDLE process_service;
static HANDLE stop_event;

/* The driver that runs in a micro-VM; a process has one. */
static struct {
    WCHAR name[260];
    SC_HANDLE service;
    HMODULE image;
    driver_entry entry;
    driver_object *object;
} intercepted;

static void set_status(SERVICE_STATUS_HANDLE service, DWORD state)
{
    SERVICE_STATUS status = {
        .dwServiceType = SERVICE_WIN32,
        .dwCurrentState = state,
        .dwControlsAccepted = state == SERVICE_RUNNING ? SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_SHUTDOWN : 0,
        .dwWaitHint = state == SERVICE_START_PENDING ? 30000 : 0,
    };
    SetServiceStatus(service, &status);
}

static BOOL has_prefix(const WCHAR *text, const WCHAR *prefix)
{
    int length = lstrlenW(prefix);
    return CompareStringOrdinal(text, min(length, lstrlenW(text)), prefix, length, TRUE) == CSTR_EQUAL;
}

/* Puts together what fits; what does not, is no path of a driver. */
static void join(WCHAR path[PATH_UNITS], const WCHAR *folder, const WCHAR *rest)
{
    path[0] = 0;
    if (lstrlenW(folder) + lstrlenW(rest) < PATH_UNITS) {
        lstrcpyW(path, folder);
        lstrcatW(path, rest);
    }
}

/* The driver's file, from the service's ImagePath; the default and the forms are Windows'. */
static void image_path(const WCHAR *service, WCHAR path[PATH_UNITS])
{
    static WCHAR key[PATH_UNITS];
    static WCHAR value[PATH_UNITS];
    static WCHAR name[PATH_UNITS];
    WCHAR windows[MAX_PATH];
    DWORD bytes = sizeof value - sizeof(WCHAR);
    GetSystemWindowsDirectoryW(windows, MAX_PATH);
    join(key, L"System\\CurrentControlSet\\Services\\", service);
    /* This takes REG_EXPAND_SZ too, expanded. */
    if (RegGetValueW(HKEY_LOCAL_MACHINE, key, L"ImagePath", RRF_RT_REG_SZ, NULL, value, &bytes) != 0 || value[0] == 0) {
        join(name, service, L".sys");
        join(value, L"system32\\drivers\\", name);
    }
    if (has_prefix(value, L"\\??\\")) {
        join(path, value + 4, L"");
    } else if (has_prefix(value, L"\\SystemRoot\\")) {
        join(path, windows, value + 11);
    } else if (value[0] != 0 && value[1] == ':') {
        join(path, value, L"");
    } else {
        lstrcatW(windows, value[0] == '\\' ? L"" : L"\\");
        join(path, windows, value);
    }
}

/* Whether this is the 32-bit program in a 64-bit prefix. Services that 32-bit programs have installed run in it. */
static BOOL is_wow64(void)
{
    BOOL result = FALSE;
    return sizeof(void *) == 4 && IsWow64Process(GetCurrentProcess(), &result) && result;
}

/* In a 64-bit prefix `system32` is two folders: programs see that of their width. A 32-bit one may have put the driver into
 * either. */
static BOOL find_file(WCHAR path[PATH_UNITS])
{
    WCHAR system[MAX_PATH];
    WCHAR other[MAX_PATH];
    static WCHAR redirected[PATH_UNITS];
    if (GetFileAttributesW(path) != INVALID_FILE_ATTRIBUTES) {
        return TRUE;
    }
    GetSystemDirectoryW(system, MAX_PATH);
    if (is_wow64()) {
        GetSystemWindowsDirectoryW(other, MAX_PATH - 10);
        lstrcatW(other, L"\\sysnative");
    } else if (GetSystemWow64DirectoryW(other, MAX_PATH) == 0) {
        return FALSE;
    }
    if (!has_prefix(path, system)) {
        return FALSE;
    }
    join(redirected, other, path + lstrlenW(system));
    join(path, redirected, L"");
    return GetFileAttributesW(path) != INVALID_FILE_ATTRIBUTES;
}

/* Whether Wine has built the driver: such a file says so behind its DOS header. */
static BOOL is_builtin(const WCHAR *path)
{
    static const char signature[] = "Wine builtin DLL";
    static const char placeholder[] = "Wine placeholder DLL";
    char head[0x40 + sizeof placeholder] = {0};
    DWORD bytes = 0;
    HANDLE file = CreateFileW(path, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE) {
        return TRUE;
    }
    ReadFile(file, head, sizeof head - 1, &bytes, NULL);
    CloseHandle(file);
    return lstrcmpA(head + 0x40, placeholder) == 0 ||
           CompareStringA(LOCALE_INVARIANT, 0, head + 0x40, sizeof signature - 1, signature, sizeof signature - 1) == CSTR_EQUAL;
}

/* Whether a service's driver is to run in a micro-VM; its path. */
static BOOL is_foreign(const WCHAR *service, WCHAR path[PATH_UNITS])
{
    static WCHAR own[PATH_UNITS];
    WCHAR windows[MAX_PATH];
    GetSystemWindowsDirectoryW(windows, MAX_PATH);
    join(own, windows, L"\\ringfence\\");
    image_path(service, path);
    return path[0] != 0 && !has_prefix(path, own) && find_file(path) && !is_builtin(path);
}

static NTSTATUS NTAPI enter(driver_object *driver, UNICODE_STRING *registry_path)
{
    intercepted.object = driver;
    return intercepted.entry(driver, registry_path);
}

/* Loads ringfence.sys, and tells it which driver it stands for. */
static NTSTATUS load_image(const WCHAR *path)
{
    typedef char *(__cdecl * unix_name)(const WCHAR *);
    static WCHAR own[PATH_UNITS];
    WCHAR windows[MAX_PATH];
    GetSystemWindowsDirectoryW(windows, MAX_PATH);
    join(own, windows, is_wow64() ? L"\\ringfence\\ringfence32.sys" : L"\\ringfence\\ringfence.sys");
    unix_name get_name = (unix_name)(ULONG_PTR)GetProcAddress(GetModuleHandleW(L"kernel32.dll"), "wine_get_unix_file_name");
    char *name = get_name == NULL ? NULL : get_name(path);
    intercepted.image = LoadLibraryW(own);
    if (name == NULL || intercepted.image == NULL) {
        return 0xC0000135; /* STATUS_DLL_NOT_FOUND */
    }
    char *base = (char *)intercepted.image;
    const IMAGE_NT_HEADERS *headers = (const IMAGE_NT_HEADERS *)(base + ((const IMAGE_DOS_HEADER *)base)->e_lfanew);
    intercepted.entry = (driver_entry)(base + headers->OptionalHeader.AddressOfEntryPoint);
    void(NTAPI * set_driver)(const char *) =
        (void(NTAPI *)(const char *))(ULONG_PTR)GetProcAddress(intercepted.image, "RingfenceSetDriver");
    if (set_driver == NULL) {
        return 0xC0000139; /* STATUS_ENTRYPOINT_NOT_FOUND */
    }
    set_driver(name);
    HeapFree(GetProcessHeap(), 0, name);
    return 0;
}

static void forget(void)
{
    set_status((SERVICE_STATUS_HANDLE)intercepted.service, SERVICE_STOPPED);
    CloseServiceHandle(intercepted.service);
    if (intercepted.image != NULL) {
        FreeLibrary(intercepted.image);
    }
    intercepted.service = NULL;
    intercepted.image = NULL;
    intercepted.object = NULL;
}

static NTSTATUS start_foreign(const WCHAR *service, const WCHAR *path)
{
    static WCHAR name[PATH_UNITS];
    UNICODE_STRING driver_name;
    if (intercepted.service != NULL || lstrlenW(service) >= 260) {
        return 0xC000010E; /* STATUS_IMAGE_ALREADY_LOADED */
    }
    SC_HANDLE manager = OpenSCManagerW(NULL, NULL, SC_MANAGER_CONNECT);
    intercepted.service = manager == NULL ? NULL : OpenServiceW(manager, service, SERVICE_SET_STATUS);
    CloseServiceHandle(manager);
    if (intercepted.service == NULL) {
        return 0xC0000001; /* STATUS_UNSUCCESSFUL */
    }
    lstrcpyW(intercepted.name, service);
    set_status((SERVICE_STATUS_HANDLE)intercepted.service, SERVICE_START_PENDING);
    NTSTATUS status = load_image(path);
    if (status == 0) {
        join(name, L"\\Driver\\", service);
        RtlInitUnicodeString(&driver_name, name);
        status = kernel.create(&driver_name, enter);
    }
    if (status != 0) {
        forget();
        return status;
    }
    set_status((SERVICE_STATUS_HANDLE)intercepted.service, SERVICE_RUNNING);
    return 0;
}

static void stop_foreign(BOOL is_driver_known)
{
    set_status((SERVICE_STATUS_HANDLE)intercepted.service, SERVICE_STOP_PENDING);
    driver_unload unload = *(driver_unload *)((char *)intercepted.object + UNLOAD_AT);
    unload(intercepted.object);
    if (is_driver_known) {
        kernel.remove(intercepted.object);
    }
    forget();
}

static DWORD control_driver(DWORD control, const WCHAR *name)
{
    static WCHAR path[PATH_UNITS];
    static WCHAR key[PATH_UNITS];
    UNICODE_STRING service;
    join(key, L"\\Registry\\Machine\\System\\CurrentControlSet\\Services\\", name);
    RtlInitUnicodeString(&service, key);
    BOOL is_ours = intercepted.service != NULL && lstrcmpiW(name, intercepted.name) == 0;
    switch (control) {
    case CONTROL_START:
        return RtlNtStatusToDosError(is_foreign(name, path) ? start_foreign(name, path) : kernel.load(&service));
    case SERVICE_CONTROL_STOP:
        if (is_ours) {
            stop_foreign(TRUE);
            return NO_ERROR;
        }
        return RtlNtStatusToDosError(kernel.unload(&service));
    case CONTROL_REENUMERATE:
        if (!is_ours && kernel.enumerate != NULL) {
            kernel.enumerate(name);
        }
        return NO_ERROR;
    default:
        return is_ours ? NO_ERROR : ERROR_INVALID_SERVICE_CONTROL;
    }
}

static DWORD WINAPI control(DWORD code, DWORD event_type, void *event_data, void *context)
{
    (void)event_type;
    (void)context;
    if (code & (DWORD)FORWARD) {
        return event_data == NULL ? ERROR_INVALID_PARAMETER : control_driver(code & ~(DWORD)FORWARD, event_data);
    }
    if (code == SERVICE_CONTROL_STOP || code == SERVICE_CONTROL_SHUTDOWN) {
        set_status(process_service, SERVICE_STOP_PENDING);
        SetEvent(stop_event);
    } else {
        set_status(process_service, SERVICE_RUNNING);
    }
    return NO_ERROR;
}

static void WINAPI service_main(DWORD count, WCHAR **arguments)
{
    WCHAR drivers[MAX_PATH];
    (void)count;
    (void)arguments;
    stop_event = CreateEventW(NULL, TRUE, FALSE, NULL);
    process_service = RegisterServiceCtrlHandlerExW(L"winedevice", control, NULL);
    if (stop_event == NULL || process_service == NULL) {
        return;
    }
    /* Drivers import from each other. */
    GetSystemDirectoryW(drivers, MAX_PATH - 10);
    lstrcatW(drivers, L"\\drivers");
    AddDllDirectory(drivers);
    set_status(process_service, SERVICE_RUNNING);
    kernel.main_loop(stop_event);
    if (intercepted.object != NULL) {
        /* The main loop has forgotten its drivers on its way out. */
        stop_foreign(FALSE);
    }
    set_status(process_service, SERVICE_STOPPED);
}

static BOOL find_kernel(void)
{
    HMODULE module = LoadLibraryW(L"ntoskrnl.exe");
    struct {
        const char *name;
        void **to;
    } functions[] = {
        {"wine_enumerate_root_devices", (void **)&kernel.enumerate},
        {"wine_ntoskrnl_main_loop", (void **)&kernel.main_loop},
        {"ZwLoadDriver", (void **)&kernel.load},
        {"ZwUnloadDriver", (void **)&kernel.unload},
        {"IoCreateDriver", (void **)&kernel.create},
        {"IoDeleteDriver", (void **)&kernel.remove},
    };
    BOOL is_whole = module != NULL;
    for (size_t i = 0; module != NULL && i < sizeof functions / sizeof *functions; i++) {
        *functions[i].to = (void *)GetProcAddress(module, functions[i].name);
        /* The first is missing in some versions. */
        is_whole &= i == 0 || *functions[i].to != NULL;
    }
    return is_whole;
}

void __cdecl start(void)
{
    static WCHAR name[] = L"winedevice";
    const SERVICE_TABLE_ENTRYW services[] = {{name, service_main}, {NULL, NULL}};
    ExitProcess(find_kernel() && StartServiceCtrlDispatcherW(services) ? 0 : 1);
}
