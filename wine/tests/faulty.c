/* A driver that crashes under a program: faulty.exe, or faulty.exe hold, which keeps its handle while the service is started
 * again. */
#include "common.h"

#include "../../tests/drivers/include/faulty.h"

/* Enough that ending them all takes a while: none may be overtaken by the end of the device. */
#define PENDING 100
/* Not in mingw-w64's winerror.h. */
#define ERROR_DRIVER_PROCESS_TERMINATED 1291

static DWORD request(HANDLE device, DWORD code, OVERLAPPED *state)
{
    DWORD written = 0;
    ResetEvent(state->hEvent);
    BOOL is_ok = DeviceIoControl(device, code, NULL, 0, NULL, 0, NULL, state);
    if (!is_ok && GetLastError() == ERROR_IO_PENDING) {
        is_ok = GetOverlappedResult(device, state, &written, TRUE);
    }
    return is_ok ? 0 : GetLastError();
}

/* Waits until there is nothing to open. */
static void await_end(void)
{
    HANDLE device;
    DWORD error = 0;
    for (int tries = 0; tries < 1000; tries++) {
        device = open_device_with("\\\\.\\faulty", FILE_FLAG_OVERLAPPED);
        error = GetLastError();
        if (device == INVALID_HANDLE_VALUE) {
            break;
        }
        CloseHandle(device);
        Sleep(20);
    }
    CHECK(device == INVALID_HANDLE_VALUE && error == ERROR_FILE_NOT_FOUND);
}

int main(int count, char **arguments)
{
    HANDLE device = open_device_with("\\\\.\\faulty", FILE_FLAG_OVERLAPPED);
    CHECK(device != INVALID_HANDLE_VALUE);
    OVERLAPPED lost[PENDING] = {0};
    OVERLAPPED state = {.hEvent = CreateEventA(NULL, TRUE, FALSE, NULL)};
    DWORD written = 0;
    for (unsigned i = 0; i < PENDING; i++) {
        lost[i].hEvent = CreateEventA(NULL, TRUE, FALSE, NULL);
        CHECK_ERROR(DeviceIoControl(device, FAULTY_LOST_REQUEST, NULL, 0, NULL, 0, NULL, &lost[i]), ERROR_IO_PENDING);
    }
    BOOL is_ok = DeviceIoControl(device, FAULTY_NULL_WRITE, NULL, 0, NULL, 0, NULL, &state);
    CHECK(!is_ok && GetLastError() == ERROR_IO_PENDING);
    for (unsigned i = 0; i < PENDING; i++) {
        CHECK_ERROR(GetOverlappedResult(device, &lost[i], &written, TRUE), ERROR_DRIVER_PROCESS_TERMINATED);
    }
    say("pending requests: all ended");
    is_ok = GetOverlappedResult(device, &state, &written, TRUE);
    printf("crashing request: %s %lu\n", is_ok ? "ok" : "error", is_ok ? 0 : GetLastError());
    /* What was opened stays open, and says why it answers nothing any more. */
    await_end();
    printf("next request: error %lu\n", request(device, FAULTY_NOTHING, &state));
    if (count == 2 && strcmp(arguments[1], "hold") == 0) {
        say("?");
        await_line();
        HANDLE again = open_device_with("\\\\.\\faulty", FILE_FLAG_OVERLAPPED);
        CHECK(again != INVALID_HANDLE_VALUE);
        CHECK(request(again, FAULTY_NOTHING, &state) == 0);
        printf("handle from before: error %lu\n", request(device, FAULTY_NOTHING, &state));
        CHECK(CloseHandle(device));
        CHECK(request(again, FAULTY_NOTHING, &state) == 0);
        say("as it should be");
    }
    return 0;
}
