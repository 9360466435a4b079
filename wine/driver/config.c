/* What the installer (`ringfence wine install`, `ringfence wine intercept`) has written into C:\windows\ringfence: lines
 * KEY=VALUE in UTF-8, values are paths of Linux. Keys that are not known are left out.
 *
 * | file | keys |
 * |---|---|
 * | prefix.conf | ringfence (the program), log, run (folder for sockets), intercept-policy |
 * | services\NAME.conf | driver, policy; and options of `ringfence run`, by their names without dashes: see below |
 *
 * The service "ringfence" is the host, see entry.c; it has no file.
 *
 * A service without a file of its own is one that a program has installed itself: its driver is what its registry key
 * says, its policy that of the prefix.
 */
#include "driver.h"

enum { FILE_BYTES = 8192 };

/* A path of Windows that is put together. */
struct path {
    WCHAR text[600];
    size_t length;
};

static void path_add(struct path *path, const WCHAR *text)
{
    while (*text != 0 && path->length < sizeof path->text / sizeof(WCHAR) - 1) {
        path->text[path->length++] = *text++;
    }
    path->text[path->length] = 0;
}

/* A file in the folder of Windows, as NT names it. */
static void path_begin(struct path *path, const WCHAR *in_windows)
{
    /* KUSER_SHARED_DATA.NtSystemRoot, where user mode has it. */
    const WCHAR *root = (const WCHAR *)(ULONG_PTR)0x7FFE0030;
    path->length = 0;
    path_add(path, L"\\??\\");
    path_add(path, root);
    path_add(path, in_windows);
}

/* Reads a whole file as text; false if it is not there or too long. */
static bool read_file(const WCHAR *path, char text[FILE_BYTES])
{
    UNICODE_STRING name;
    OBJECT_ATTRIBUTES attributes;
    IO_STATUS_BLOCK result;
    HANDLE file;
    RtlInitUnicodeString(&name, path);
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE, NULL, NULL);
    NTSTATUS status = ZwCreateFile(&file, GENERIC_READ | SYNCHRONIZE, &attributes, &result, NULL, 0,
                                   FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, FILE_OPEN,
                                   FILE_SYNCHRONOUS_IO_NONALERT | FILE_NON_DIRECTORY_FILE, NULL, 0);
    if (!NT_SUCCESS(status)) {
        return false;
    }
    status = ZwReadFile(file, NULL, NULL, NULL, &result, text, FILE_BYTES, NULL, NULL);
    ZwClose(file);
    ULONG_PTR bytes = NT_SUCCESS(status) ? result.Information : 0;
    if (bytes == 0 || bytes == FILE_BYTES) {
        return false;
    }
    text[bytes] = 0;
    return true;
}

/* Copies the value of a key; false if it is not there or too long. */
static bool value_of(const char *text, const char *key, char *value, size_t size)
{
    while (*text != 0) {
        const char *at = text;
        const char *wanted = key;
        while (*wanted != 0 && *at == *wanted) {
            at++;
            wanted++;
        }
        if (*wanted == 0 && *at == '=') {
            size_t length = 0;
            for (at++; *at != 0 && *at != '\n'; at++) {
                if (length + 1 >= size) {
                    return false;
                }
                value[length++] = *at;
            }
            value[length] = 0;
            return length != 0;
        }
        while (*text != 0 && *text++ != '\n') {
        }
    }
    return false;
}

/* The options of `ringfence run` that a service may have; vmm/src/cli/wine/options.rs writes them. */
static const char *const options[] = {"--device", "--registry", "--files", "--windows", "--memory", "--cpu", "--max-memory"};

/* The option whose value the line is, which `*value` becomes; null if it is none. */
static const char *option_of(char *line, char **value)
{
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        const char *wanted = options[i] + 2;
        char *at = line;
        while (*wanted != 0 && *at == *wanted) {
            at++;
            wanted++;
        }
        if (*wanted == 0 && *at == '=' && at[1] != 0) {
            *value = at + 1;
            return options[i];
        }
    }
    return NULL;
}

/* Takes the options of a service's file, whose lines become strings. False if there are too many. */
static bool take_options(struct config *config, char *text)
{
    while (*text != 0) {
        char *line = text;
        while (*text != 0 && *text != '\n') {
            text++;
        }
        if (*text == '\n') {
            *text++ = 0;
        }
        char *value = NULL;
        const char *option = option_of(line, &value);
        if (option == NULL) {
            continue;
        }
        if (config->option_words == 2 * OPTIONS_MAX) {
            return false;
        }
        config->options[config->option_words++] = option;
        config->options[config->option_words++] = value;
    }
    return true;
}

/* UTF-16 as UTF-8, at most what there is room for. */
static void to_utf8(const WCHAR *from, char *to, size_t size)
{
    size_t length = 0;
    while (*from != 0) {
        uint32_t point = *from++;
        if (point >= 0xD800 && point < 0xDC00 && *from >= 0xDC00 && *from < 0xE000) {
            point = 0x10000 + ((point - 0xD800) << 10) + (*from++ - 0xDC00u);
        }
        int more = point < 0x80 ? 0 : point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
        if (length + (size_t)more + 2 > size) {
            break;
        }
        static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
        to[length++] = (char)(lead[more] | point >> 6 * more);
        while (more-- > 0) {
            to[length++] = (char)(0x80 | (point >> 6 * more & 0x3F));
        }
    }
    to[length] = 0;
}

/* Whether a name can be part of a file's name here. */
static bool is_plain(const WCHAR *name)
{
    for (const WCHAR *at = name; *at != 0; at++) {
        bool is_letter = (*at | 32) >= 'a' && (*at | 32) <= 'z';
        bool is_digit = *at >= '0' && *at <= '9';
        if (!is_letter && !is_digit && *at != '-' && *at != '_' && (*at != '.' || at == name)) {
            return false;
        }
    }
    return *name != 0;
}

/* The driver of a service that has no file of its own. */
static char intercepted[PATH_BYTES];

void NTAPI RingfenceSetDriver(const char *path)
{
    for (size_t i = 0; i < PATH_BYTES - 1; i++) {
        intercepted[i] = path[i];
        if (path[i] == 0) {
            return;
        }
    }
    /* A path that is too long is not there. */
    intercepted[0] = 0;
}

static NTSTATUS make_socket_path(struct config *config)
{
    struct {
        char text[2 * PATH_BYTES];
        size_t length;
    } socket = {.length = 0};
    const char *parts[] = {config->run, "/", is_plain(config->name) ? config->name8 : "driver", ".socket"};
    for (size_t part = 0; part < sizeof parts / sizeof *parts; part++) {
        for (const char *at = parts[part]; *at != 0; at++) {
            socket.text[socket.length++] = *at;
        }
    }
    if (socket.length >= SOCKET_BYTES) {
        log_line("the socket's path has %u bytes, and may have 107: use a prefix with a shorter path", (uint32_t)socket.length);
        return STATUS_NAME_TOO_LONG;
    }
    rf_copy(config->socket, socket.text, socket.length);
    config->socket[socket.length] = 0;
    return STATUS_SUCCESS;
}

/* The service's name: the last component of its key. Returns its units. */
static size_t name_of(const UNICODE_STRING *key, const WCHAR **name)
{
    size_t units = key->Length / sizeof(WCHAR);
    size_t begin = units;
    while (begin > 0 && key->Buffer[begin - 1] != '\\') {
        begin--;
    }
    *name = key->Buffer + begin;
    return units - begin;
}

bool config_is_host(const UNICODE_STRING *key)
{
    static const WCHAR host[] = L"ringfence";
    const WCHAR *name;
    size_t units = name_of(key, &name);
    bool is_host = units == sizeof host / sizeof(WCHAR) - 1;
    for (size_t i = 0; is_host && i < units; i++) {
        is_host = (name[i] | 32) == host[i];
    }
    return is_host;
}

NTSTATUS config_read(struct config *config, const UNICODE_STRING *key)
{
    const WCHAR *name;
    size_t units = name_of(key, &name);
    if (units >= NAME_UNITS) {
        return STATUS_NAME_TOO_LONG;
    }
    rf_copy(config->name, name, units * sizeof(WCHAR));
    config->name[units] = 0;
    to_utf8(config->name, config->name8, sizeof config->name8);

    static char text[FILE_BYTES];
    struct path path;
    path_begin(&path, L"\\ringfence\\prefix.conf");
    if (!read_file(path.text, text) || !value_of(text, "ringfence", config->ringfence, PATH_BYTES) ||
        !value_of(text, "log", config->log, PATH_BYTES) || !value_of(text, "run", config->run, PATH_BYTES)) {
        DbgPrint("ringfence.sys: C:\\windows\\ringfence\\prefix.conf is missing or damaged: run `ringfence wine install` again\n");
        return STATUS_OBJECT_NAME_NOT_FOUND;
    }
    log_begin(config);
    if (!is_plain(config->name)) {
        log_line("a service's name is letters, digits, dots, dashes and underscores here");
        return STATUS_OBJECT_NAME_INVALID;
    }
    NTSTATUS status = make_socket_path(config);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    static char service[FILE_BYTES];
    path_begin(&path, L"\\ringfence\\services\\");
    path_add(&path, config->name);
    path_add(&path, L".conf");
    if (!read_file(path.text, service)) {
        value_of(text, "intercept-policy", config->policy, PATH_BYTES);
        rf_copy(config->driver, intercepted, PATH_BYTES);
        if (intercepted[0] == 0) {
            log_line("no driver: run `ringfence wine install` again");
            return STATUS_OBJECT_NAME_NOT_FOUND;
        }
        return STATUS_SUCCESS;
    }
    value_of(service, "policy", config->policy, PATH_BYTES);
    if (!value_of(service, "driver", config->driver, PATH_BYTES)) {
        log_line("services\\%w.conf names no driver: run `ringfence wine install` again", config->name);
        return STATUS_OBJECT_NAME_NOT_FOUND;
    }
    if (!take_options(config, service)) {
        log_line("services\\%w.conf has more than 32 options: run `ringfence wine install` again", config->name);
        return STATUS_INVALID_PARAMETER;
    }
    return STATUS_SUCCESS;
}
