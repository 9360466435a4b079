/* What the test programs share: they run under Wine, say what they see on standard output, and end with 0 if it is as it
 * should be. */
#ifndef RINGFENCE_WINE_TESTS_COMMON_H
#define RINGFENCE_WINE_TESTS_COMMON_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>
#include <winioctl.h>
#include <winsvc.h>

#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)

/* The error is what GetLastError says: checks come right after what they check. */
static inline void check(BOOL is_true, const char *what, const char *file, int line)
{
    if (!is_true) {
        DWORD error = GetLastError();
        printf("%s:%d: not so: %s (last error %lu)\n", file, line, what, error);
        fflush(stdout);
        ExitProcess(1);
    }
}

#define CHECK_ERROR(call, expected)                                                             \
    do {                                                                                        \
        SetLastError(0);                                                                        \
        BOOL is_ok = (call);                                                                    \
        DWORD error = GetLastError();                                                           \
        if (is_ok || error != (expected)) {                                                     \
            printf("%s:%d: %s: %s, last error %lu, expected %lu\n", __FILE__, __LINE__, #call, \
                   is_ok ? "succeeded" : "failed", error, (DWORD)(expected));                   \
            fflush(stdout);                                                                     \
            ExitProcess(1);                                                                     \
        }                                                                                       \
    } while (0)

static inline HANDLE open_device_with(const char *name, DWORD flags)
{
    return CreateFileA(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING, flags, NULL);
}

static inline HANDLE open_device(const char *name)
{
    HANDLE device = open_device_with(name, 0);
    CHECK(device != INVALID_HANDLE_VALUE);
    return device;
}

/* Lets whoever drives the test see how far this is. */
static inline void say(const char *text)
{
    puts(text);
    fflush(stdout);
}

/* Waits for a line from whoever drives the test. */
static inline void await_line(void)
{
    char line[64];
    CHECK(fgets(line, sizeof line, stdin) != NULL);
}

#endif
