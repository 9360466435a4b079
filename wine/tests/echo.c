/* The echo driver by every way that a program has: echo.exe SCENARIO. */
#include "common.h"

#include "../../tests/drivers/include/echo.h"

static void coded(unsigned char *to, const unsigned char *from, DWORD length, DWORD key)
{
    for (DWORD i = 0; i < length; i++) {
        to[i] = (unsigned char)((from[i] ^ key) + i);
    }
}

/* One control with `bytes` of input and output, coded with `key`. */
static void code(HANDLE device, DWORD control, DWORD key, DWORD bytes)
{
    unsigned char *input = malloc(bytes + 1);
    unsigned char *output = calloc(1, bytes + 1);
    unsigned char *expected = malloc(bytes + 1);
    for (DWORD i = 0; i < bytes; i++) {
        input[i] = (unsigned char)(i * 31 + control);
    }
    coded(expected, input, bytes, key);
    DWORD written = 0;
    CHECK(DeviceIoControl(device, control, input, bytes, output, bytes, &written, NULL));
    CHECK(written == bytes);
    CHECK(memcmp(output, expected, bytes) == 0);
    free(input);
    free(output);
    free(expected);
}

static void methods(void)
{
    HANDLE device = open_device("\\\\.\\echo");
    static const DWORD sizes[] = {0, 1, 64, 4096, 20000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        code(device, ECHO_BUFFERED, ECHO_KEY_BUFFERED, sizes[i]);
        if (sizes[i] != 0) {
            code(device, ECHO_OUT_DIRECT, ECHO_KEY_OUT_DIRECT, sizes[i]);
            code(device, ECHO_NEITHER, ECHO_KEY_NEITHER, sizes[i]);
        }
    }
    /* METHOD_IN_DIRECT: the second buffer goes in too. FNV-1a over both. */
    unsigned char input[5] = "hello";
    unsigned char second[3] = "abc";
    DWORD written = 0;
    CHECK(DeviceIoControl(device, ECHO_IN_DIRECT, input, sizeof input, second, sizeof second, &written, NULL));
    struct echo_hash hash;
    CHECK(DeviceIoControl(device, ECHO_QUERY_HASH, NULL, 0, &hash, sizeof hash, &written, NULL));
    DWORD expected = 2166136261u;
    for (size_t i = 0; i < 8; i++) {
        expected = (expected ^ (i < 5 ? input[i] : second[i - 5])) * 16777619u;
    }
    CHECK(hash.hash == expected && hash.input_length == 5 && hash.output_length == 3);
    /* Information beyond the output buffer, and errors. */
    struct echo_complete complete = {.status = 0, .information = 4000, .fill = 0x5A};
    unsigned char output[8];
    CHECK(DeviceIoControl(device, ECHO_COMPLETE, &complete, sizeof complete, output, sizeof output, &written, NULL));
    CHECK(written == sizeof output && output[7] == 0x5A);
    complete.status = 0xC0000022; /* STATUS_ACCESS_DENIED */
    CHECK_ERROR(DeviceIoControl(device, ECHO_COMPLETE, &complete, sizeof complete, output, 8, &written, NULL),
                ERROR_ACCESS_DENIED);
    CHECK_ERROR(DeviceIoControl(device, 0x22FFFC, NULL, 0, NULL, 0, &written, NULL), ERROR_INVALID_FUNCTION);
    CHECK(CloseHandle(device));
}

static void transfers(void)
{
    static const struct {
        const char *name;
        DWORD key;
    } devices[] = {
        {"\\\\.\\echo", ECHO_READ_KEY_BUFFERED},
        {"\\\\.\\echo_direct", ECHO_READ_KEY_DIRECT},
        {"\\\\.\\echo_neither", ECHO_READ_KEY_NEITHER},
    };
    for (size_t i = 0; i < 3; i++) {
        HANDLE device = open_device(devices[i].name);
        unsigned char output[100];
        unsigned char expected[100];
        DWORD count = 0;
        CHECK(WriteFile(device, "some bytes", 10, &count, NULL) && count == 10);
        CHECK(ReadFile(device, output, sizeof output, &count, NULL) && count == 10);
        coded(expected, (const unsigned char *)"some bytes", 10, devices[i].key);
        CHECK(memcmp(output, expected, 10) == 0);
        CHECK(ReadFile(device, output, 4, &count, NULL) && count == 4);
        /* echo.sys has no IRP_MJ_FLUSH_BUFFERS. */
        CHECK_ERROR(FlushFileBuffers(device), ERROR_INVALID_FUNCTION);
        CHECK(CloseHandle(device));
    }
}

enum { MANY = 40 };

/* Many requests at once on one handle; they complete in another order than they were made. */
static void overlapped(void)
{
    HANDLE device = open_device_with("\\\\.\\echo", FILE_FLAG_OVERLAPPED);
    CHECK(device != INVALID_HANDLE_VALUE);
    static OVERLAPPED states[MANY];
    static struct echo_pend inputs[MANY];
    static rf_u32 outputs[MANY];
    for (DWORD i = 0; i < MANY; i++) {
        states[i].hEvent = CreateEventA(NULL, TRUE, FALSE, NULL);
        inputs[i].delay_ms = (MANY - i) * 2;
        inputs[i].tag = i;
        CHECK_ERROR(DeviceIoControl(device, ECHO_PEND, &inputs[i], sizeof inputs[i], &outputs[i], sizeof outputs[i], NULL,
                                    &states[i]),
                    ERROR_IO_PENDING);
    }
    for (DWORD i = 0; i < MANY; i++) {
        DWORD written = 0;
        CHECK(GetOverlappedResult(device, &states[i], &written, TRUE));
        CHECK(written == 4 && outputs[i] == (i ^ 0xFFFFFFFFu));
    }
    CHECK(CloseHandle(device));
}

static void wait_begin(HANDLE device, OVERLAPPED *state, rf_u32 *tag, rf_u32 *output)
{
    state->hEvent = CreateEventA(NULL, TRUE, FALSE, NULL);
    CHECK_ERROR(DeviceIoControl(device, ECHO_WAIT, tag, sizeof *tag, output, sizeof *output, NULL, state), ERROR_IO_PENDING);
}

static void cancel(void)
{
    HANDLE device = open_device_with("\\\\.\\echo", FILE_FLAG_OVERLAPPED);
    CHECK(device != INVALID_HANDLE_VALUE);
    static OVERLAPPED states[4];
    static rf_u32 tags[4] = {10, 11, 12, 13};
    static rf_u32 outputs[4];
    DWORD written = 0;
    for (int i = 0; i < 4; i++) {
        wait_begin(device, &states[i], &tags[i], &outputs[i]);
    }
    /* One of them, then the rest of this thread. */
    CHECK(CancelIoEx(device, &states[2]));
    CHECK_ERROR(GetOverlappedResult(device, &states[2], &written, TRUE), ERROR_OPERATION_ABORTED);
    CHECK(WaitForSingleObject(states[0].hEvent, 0) == WAIT_TIMEOUT);
    rf_u32 released = 0;
    OVERLAPPED release = {.hEvent = CreateEventA(NULL, TRUE, FALSE, NULL)};
    if (!DeviceIoControl(device, ECHO_RELEASE, NULL, 0, &released, sizeof released, NULL, &release)) {
        CHECK(GetLastError() == ERROR_IO_PENDING);
    }
    CHECK(GetOverlappedResult(device, &release, &written, TRUE) && released == 3);
    for (int i = 0; i < 4; i++) {
        if (i != 2) {
            CHECK(GetOverlappedResult(device, &states[i], &written, TRUE) && outputs[i] == (tags[i] ^ 0xFFFFFFFFu));
        }
        wait_begin(device, &states[i], &tags[i], &outputs[i]);
    }
    CHECK(CancelIo(device));
    for (int i = 0; i < 4; i++) {
        CHECK_ERROR(GetOverlappedResult(device, &states[i], &written, TRUE), ERROR_OPERATION_ABORTED);
    }
    CHECK(CloseHandle(device));
}

/* Closing the handle ends what is under way on it: the driver's cleanup does. */
static void close_pending(void)
{
    HANDLE device = open_device_with("\\\\.\\echo", FILE_FLAG_OVERLAPPED);
    CHECK(device != INVALID_HANDLE_VALUE);
    static OVERLAPPED state;
    static rf_u32 tag = 1;
    static rf_u32 output;
    wait_begin(device, &state, &tag, &output);
    CHECK(CloseHandle(device));
    CHECK(WaitForSingleObject(state.hEvent, 20000) == WAIT_OBJECT_0);
    CHECK(state.Internal == 0xC0000120 /* STATUS_CANCELLED */);
}

/* Says that it waits, and is killed by whoever drives the test; or waits until the driver is gone. */
static void hold(void)
{
    HANDLE device = open_device_with("\\\\.\\echo", FILE_FLAG_OVERLAPPED);
    CHECK(device != INVALID_HANDLE_VALUE);
    static OVERLAPPED state;
    static rf_u32 tag = 1;
    static rf_u32 output;
    wait_begin(device, &state, &tag, &output);
    say("holding");
    DWORD written = 0;
    BOOL is_ok = GetOverlappedResult(device, &state, &written, TRUE);
    printf("ended: %s %lu\n", is_ok ? "ok" : "error", is_ok ? 0 : GetLastError());
    ResetEvent(state.hEvent);
    is_ok = DeviceIoControl(device, ECHO_RELEASE, NULL, 0, &output, sizeof output, NULL, &state);
    if (!is_ok && GetLastError() == ERROR_IO_PENDING) {
        is_ok = GetOverlappedResult(device, &state, &written, TRUE);
    }
    CHECK(!is_ok);
}

/* Tries to open; says how. */
static void try_open(void)
{
    HANDLE device = open_device_with("\\\\.\\echo", 0);
    if (device == INVALID_HANDLE_VALUE) {
        printf("open: error %lu\n", GetLastError());
    } else {
        code(device, ECHO_BUFFERED, ECHO_KEY_BUFFERED, 64);
        say("open: ok");
    }
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {
        {"methods", methods}, {"transfers", transfers},         {"overlapped", overlapped}, {"cancel", cancel},
        {"hold", hold},       {"close-pending", close_pending}, {"try-open", try_open},
    };
    for (int argument = 1; argument < count; argument++) {
        for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
            if (strcmp(arguments[argument], scenarios[i].name) == 0) {
                scenarios[i].run();
                printf("%s: as it should be\n", arguments[argument]);
            }
        }
    }
    return 0;
}
