/* The ways to learn that a request is done: overlapped.exe SCENARIO. */
#include "common.h"

#include "../../tests/drivers/include/echo.h"

#define NAME "\\\\.\\echo"

static HANDLE open_overlapped(void)
{
    HANDLE device = open_device_with(NAME, FILE_FLAG_OVERLAPPED);
    CHECK(device != INVALID_HANDLE_VALUE);
    return device;
}

static void fill(unsigned char *input, DWORD bytes)
{
    for (DWORD i = 0; i < bytes; i++) {
        input[i] = (unsigned char)(i * 7 + 1);
    }
}

static void check_coded(const unsigned char *output, const unsigned char *input, DWORD bytes, DWORD key)
{
    for (DWORD i = 0; i < bytes; i++) {
        CHECK(output[i] == (unsigned char)((input[i] ^ key) + i));
    }
}

/* With an event, or with the file itself, which is signalled when a request is done. */
static void results_with(HANDLE device, HANDLE event)
{
    static const struct {
        DWORD code, key, bytes;
    } requests[] = {
        {ECHO_BUFFERED, ECHO_KEY_BUFFERED, 64},     {ECHO_BUFFERED, ECHO_KEY_BUFFERED, 20000}, {ECHO_BUFFERED, ECHO_KEY_BUFFERED, 0},
        {ECHO_OUT_DIRECT, ECHO_KEY_OUT_DIRECT, 64}, {ECHO_NEITHER, ECHO_KEY_NEITHER, 64},
    };
    static unsigned char input[20000], output[20000];
    DWORD bytes;
    fill(input, sizeof input);
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        OVERLAPPED state = {.hEvent = event};
        memset(output, 0, sizeof output);
        /* Also what the driver completes at once is pending first. */
        CHECK_ERROR(DeviceIoControl(device, requests[i].code, input, requests[i].bytes, output, requests[i].bytes, NULL, &state),
                    ERROR_IO_PENDING);
        bytes = 77;
        CHECK(GetOverlappedResult(device, &state, &bytes, TRUE) && bytes == requests[i].bytes);
        CHECK(HasOverlappedIoCompleted(&state) && state.InternalHigh == bytes);
        CHECK(event == NULL || WaitForSingleObject(event, 0) == WAIT_OBJECT_0);
        check_coded(output, input, bytes, requests[i].key);
    }
    /* STATUS_ACCESS_DENIED; STATUS_BUFFER_OVERFLOW, a warning, which comes with data. */
    struct echo_complete complete = {.status = 0xC0000022, .information = 8, .fill = 0x5A};
    OVERLAPPED state = {.hEvent = event};
    CHECK_ERROR(DeviceIoControl(device, ECHO_COMPLETE, &complete, sizeof complete, output, 8, NULL, &state), ERROR_IO_PENDING);
    CHECK_ERROR(GetOverlappedResult(device, &state, &bytes, TRUE), ERROR_ACCESS_DENIED);
    complete.status = 0x80000005;
    memset(&state, 0, sizeof state);
    state.hEvent = event;
    memset(output, 0, sizeof output);
    CHECK_ERROR(DeviceIoControl(device, ECHO_COMPLETE, &complete, sizeof complete, output, 8, NULL, &state), ERROR_IO_PENDING);
    CHECK_ERROR(GetOverlappedResult(device, &state, &bytes, TRUE), ERROR_MORE_DATA);
    CHECK(bytes == 8 && output[0] == 0x5A && output[7] == 0x5A && output[8] == 0);
    memset(&state, 0, sizeof state);
    state.hEvent = event;
    CHECK_ERROR(WriteFile(device, input, 10, NULL, &state), ERROR_IO_PENDING);
    CHECK(GetOverlappedResult(device, &state, &bytes, TRUE) && bytes == 10);
    memset(&state, 0, sizeof state);
    state.hEvent = event;
    CHECK_ERROR(ReadFile(device, output, 100, NULL, &state), ERROR_IO_PENDING);
    CHECK(GetOverlappedResult(device, &state, &bytes, TRUE) && bytes == 10);
    check_coded(output, input, 10, ECHO_READ_KEY_BUFFERED);
}

static void results(void)
{
    HANDLE device = open_overlapped();
    results_with(device, CreateEventA(NULL, TRUE, FALSE, NULL));
    results_with(device, NULL);
    CHECK(CloseHandle(device));
}

enum { MANY = 50, KEY = 0x1234 };

static void completion_port(void)
{
    HANDLE device = open_overlapped();
    HANDLE port = CreateIoCompletionPort(device, NULL, KEY, 0);
    static OVERLAPPED states[MANY], *state;
    static struct echo_pend inputs[MANY];
    static rf_u32 outputs[MANY];
    int seen[MANY] = {0};
    DWORD bytes;
    ULONG_PTR key;
    CHECK(port != NULL);
    for (DWORD i = 0; i < MANY; i++) {
        inputs[i].delay_ms = (MANY - i) % 7;
        inputs[i].tag = i;
        CHECK_ERROR(DeviceIoControl(device, ECHO_PEND, &inputs[i], sizeof inputs[i], &outputs[i], sizeof outputs[i], NULL, &states[i]),
                    ERROR_IO_PENDING);
    }
    for (DWORD i = 0; i < MANY; i++) {
        CHECK(GetQueuedCompletionStatus(port, &bytes, &key, &state, 20000));
        size_t which = (size_t)(state - states);
        CHECK(key == KEY && bytes == 4 && which < MANY && seen[which]++ == 0);
        CHECK(outputs[which] == ~(rf_u32)which);
    }
    struct echo_complete complete = {.status = 0xC0000022};
    memset(&states[0], 0, sizeof states[0]);
    CHECK_ERROR(DeviceIoControl(device, ECHO_COMPLETE, &complete, sizeof complete, outputs, 4, NULL, &states[0]), ERROR_IO_PENDING);
    CHECK_ERROR(GetQueuedCompletionStatus(port, &bytes, &key, &state, 20000), ERROR_ACCESS_DENIED);
    CHECK(state == &states[0] && key == KEY);
    rf_u32 tag = 1;
    memset(&states[0], 0, sizeof states[0]);
    CHECK_ERROR(DeviceIoControl(device, ECHO_WAIT, &tag, sizeof tag, outputs, 4, NULL, &states[0]), ERROR_IO_PENDING);
    CHECK(CancelIoEx(device, &states[0]));
    CHECK_ERROR(GetQueuedCompletionStatus(port, &bytes, &key, &state, 20000), ERROR_OPERATION_ABORTED);
    CHECK(state == &states[0]);
    /* An event with its lowest bit set: the port is not told. */
    HANDLE event = CreateEventA(NULL, TRUE, FALSE, NULL);
    memset(&states[0], 0, sizeof states[0]);
    states[0].hEvent = (HANDLE)((ULONG_PTR)event | 1);
    CHECK_ERROR(DeviceIoControl(device, ECHO_PEND, &inputs[1], sizeof inputs[1], outputs, 4, NULL, &states[0]), ERROR_IO_PENDING);
    CHECK(WaitForSingleObject(event, 20000) == WAIT_OBJECT_0 && states[0].Internal == 0);
    CHECK_ERROR(GetQueuedCompletionStatus(port, &bytes, &key, &state, 200), WAIT_TIMEOUT);
    CHECK(CloseHandle(device));
    CHECK(CloseHandle(port));
}

static struct {
    int times;
    DWORD error;
    DWORD bytes;
    OVERLAPPED *state;
} called;

static void CALLBACK routine(DWORD error, DWORD bytes, OVERLAPPED *state)
{
    called.times++;
    called.error = error;
    called.bytes = bytes;
    called.state = state;
}

/* Not before the thread waits alertably. */
static void await_routine(const OVERLAPPED *state, DWORD bytes)
{
    Sleep(100);
    CHECK(called.times == 0);
    CHECK(SleepEx(20000, TRUE) == WAIT_IO_COMPLETION);
    CHECK(called.times == 1 && called.error == 0 && called.bytes == bytes && called.state == state);
    memset(&called, 0, sizeof called);
}

static void routines(void)
{
    HANDLE device = open_overlapped();
    unsigned char input[10], output[100] = {0};
    OVERLAPPED state = {.hEvent = NULL};
    fill(input, sizeof input);
    CHECK(WriteFileEx(device, input, sizeof input, &state, routine));
    await_routine(&state, sizeof input);
    memset(&state, 0, sizeof state);
    CHECK(ReadFileEx(device, output, sizeof output, &state, routine));
    await_routine(&state, sizeof input);
    check_coded(output, input, sizeof input, ECHO_READ_KEY_BUFFERED);
    CHECK(SleepEx(0, TRUE) == 0);
    CHECK(CloseHandle(device));
}

/* A handle of the other kind: the call waits, and the event is set nevertheless. */
static void waiting(void)
{
    HANDLE device = open_device(NAME);
    OVERLAPPED state = {.hEvent = CreateEventA(NULL, TRUE, FALSE, NULL)};
    for (DWORD i = 0; i < 5; i++) {
        struct echo_pend input = {.delay_ms = 30, .tag = i};
        rf_u32 output = 0;
        DWORD bytes = 77;
        CHECK(ResetEvent(state.hEvent));
        CHECK(DeviceIoControl(device, ECHO_PEND, &input, sizeof input, &output, sizeof output, &bytes, &state));
        CHECK(bytes == 4 && output == ~(rf_u32)i && state.Internal == 0 && state.InternalHigh == 4);
        CHECK(WaitForSingleObject(state.hEvent, 0) == WAIT_OBJECT_0);
    }
    CHECK(CloseHandle(device));
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {
        {"results", results},
        {"completion-port", completion_port},
        {"routines", routines},
        {"waiting", waiting},
    };
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
