/* What docs/wine.md says of the limits: limits.exe SCENARIO. Between two lines that say how far it is, it waits for one. */
#include "common.h"

#include "../../tests/drivers/include/echo.h"

#define NAME "\\\\.\\echo"

static HANDLE open_overlapped(void)
{
    HANDLE device = open_device_with(NAME, FILE_FLAG_OVERLAPPED);
    CHECK(device != INVALID_HANDLE_VALUE);
    return device;
}

/* Whoever drives the test knows how far this is, and lets it go on. */
static void step(const char *text)
{
    say(text);
    say("?");
    await_line();
}

/* More than the channel, and than a program may have under way. */
enum { MANY = 1100 };

static OVERLAPPED states[MANY];
static rf_u32 tags[MANY];
static rf_u32 outputs[MANY];

static void begin_many(HANDLE device)
{
    for (int i = 0; i < MANY; i++) {
        HANDLE event = states[i].hEvent;
        memset(&states[i], 0, sizeof states[i]);
        states[i].hEvent = event != NULL ? event : CreateEventA(NULL, TRUE, FALSE, NULL);
        tags[i] = (rf_u32)i;
        outputs[i] = 0;
        CHECK_ERROR(DeviceIoControl(device, ECHO_WAIT, &tags[i], sizeof tags[i], &outputs[i], sizeof outputs[i], NULL, &states[i]),
                    ERROR_IO_PENDING);
    }
}

static void all_pending(void)
{
    for (int i = 0; i < MANY; i++) {
        CHECK(WaitForSingleObject(states[i].hEvent, 0) == WAIT_TIMEOUT);
    }
}

/* None is lost: each has ended, as cancelled. */
static void all_cancelled(HANDLE device)
{
    for (int i = 0; i < MANY; i++) {
        DWORD bytes = 77;
        CHECK(WaitForSingleObject(states[i].hEvent, 60000) == WAIT_OBJECT_0);
        /* STATUS_CANCELLED: what a closed handle leaves to be looked at. */
        if (states[i].Internal != 0xC0000120 || states[i].InternalHigh != 0) {
            printf("request %d: status %lx, information %lu\n", i, (unsigned long)states[i].Internal,
                   (unsigned long)states[i].InternalHigh);
            fflush(stdout);
            ExitProcess(1);
        }
        if (device != NULL) {
            CHECK_ERROR(GetOverlappedResult(device, &states[i], &bytes, FALSE), ERROR_OPERATION_ABORTED);
        }
    }
}

static void many(void)
{
    HANDLE device = open_overlapped();
    begin_many(device);
    step("pending");
    all_pending();
    CHECK(CancelIoEx(device, NULL));
    all_cancelled(device);
    step("cancelled");
    begin_many(device);
    step("pending");
    all_pending();
    /* Each by itself, the last one, which waits for room, first. */
    for (int i = MANY; i-- > 0;) {
        CHECK(CancelIoEx(device, &states[i]));
    }
    all_cancelled(device);
    step("cancelled");
    begin_many(device);
    step("pending");
    all_pending();
    CHECK(CloseHandle(device));
    all_cancelled(NULL);
    say("closed");
}

/* What waits for room is sent as soon as there is some. */
static void many_answered(void)
{
    HANDLE device = open_overlapped();
    begin_many(device);
    say("pending");
    for (int i = 0; i < MANY; i++) {
        DWORD bytes = 77;
        CHECK(GetOverlappedResult(device, &states[i], &bytes, TRUE) && bytes == 4 && outputs[i] == ~(rf_u32)i);
    }
    CHECK(CloseHandle(device));
}

/* Of another program: one of the same would wait for room too. */
static void release_many(void)
{
    HANDLE device = open_device(NAME);
    rf_u32 released = 0, first = 0;
    for (int tries = 0; released < MANY && tries < 1000; tries++) {
        rf_u32 count = 0;
        DWORD bytes;
        CHECK(DeviceIoControl(device, ECHO_RELEASE, NULL, 0, &count, sizeof count, &bytes, NULL));
        first = tries == 0 ? count : first;
        released += count;
        Sleep(count == 0 ? 10 : 0);
    }
    CHECK(released == MANY);
    printf("at first %u\n", first);
    CHECK(CloseHandle(device));
}

/* ERROR_NOT_ENOUGH_QUOTA, ERROR_NO_SYSTEM_RESOURCES, ERROR_INVALID_USER_BUFFER. */
static BOOL is_too_much(DWORD error)
{
    return error == ERROR_NOT_ENOUGH_QUOTA || error == ERROR_NO_SYSTEM_RESOURCES || error == ERROR_INVALID_USER_BUFFER;
}

static void sizes(void)
{
    enum { MIB = 1 << 20 };
    static const struct {
        DWORD code, bytes;
        BOOL is_refused;
    } requests[] = {
        {ECHO_COMPLETE, MIB, FALSE},  {ECHO_COMPLETE, 2 * MIB, TRUE},  {ECHO_FILL, 8 * MIB, FALSE},
        {ECHO_FILL, 17 * MIB, TRUE},  {ECHO_COMPLETE, 17 * MIB, TRUE}, {ECHO_COMPLETE, MIB, FALSE},
    };
    /* ECHO_FILL takes the first number of it. */
    struct echo_complete input = {.status = 0, .fill = 0x5A};
    unsigned char *output = calloc(1, 17 * MIB);
    HANDLE device = open_device(NAME);
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        DWORD bytes = 0, length = requests[i].bytes;
        rf_u32 fill = requests[i].code == ECHO_FILL ? 0 : 0x5A;
        input.information = length;
        output[length - 1] = 1;
        BOOL is_ok = DeviceIoControl(device, requests[i].code, &input, sizeof input, output, length, &bytes, NULL);
        if (requests[i].is_refused) {
            CHECK(!is_ok && is_too_much(GetLastError()) && output[length - 1] == 1);
        } else {
            CHECK(is_ok && bytes == length && output[length - 1] == fill);
        }
    }
    CHECK(CloseHandle(device));
}

/* Opening succeeds; the first request says that the driver has no memory for one more. */
static void handles(void)
{
    enum { TRIES = 4000 };
    static HANDLE devices[TRIES];
    int count = 0;
    for (BOOL is_ok = TRUE; is_ok && count < TRIES; count++) {
        DWORD bytes;
        struct echo_hash hash;
        devices[count] = open_device(NAME);
        is_ok = DeviceIoControl(devices[count], ECHO_QUERY_HASH, NULL, 0, &hash, sizeof hash, &bytes, NULL);
        CHECK(is_ok || GetLastError() == ERROR_NO_SYSTEM_RESOURCES);
    }
    printf("handles: %d\n", count);
    while (count-- > 0) {
        CHECK(CloseHandle(devices[count]));
    }
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {
        {"many", many},
        {"many-answered", many_answered},
        {"release-many", release_many},
        {"sizes", sizes},
        {"handles", handles},
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
