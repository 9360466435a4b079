/* A driver that crashes under a program: faulty.exe. */
#include "common.h"

#include "../../tests/drivers/include/faulty.h"

/* Enough that ending them all takes a while: none may be overtaken by the end of the device. */
#define PENDING 100
/* Not in mingw-w64's winerror.h. */
#define ERROR_DRIVER_PROCESS_TERMINATED 1291

int main(void)
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
    printf("pending requests: all ended\n");
    is_ok = GetOverlappedResult(device, &state, &written, TRUE);
    printf("crashing request: %s %lu\n", is_ok ? "ok" : "error", is_ok ? 0 : GetLastError());
    /* What was opened stays open, and answers nothing any more. */
    ResetEvent(state.hEvent);
    is_ok = DeviceIoControl(device, FAULTY_NULL_WRITE, NULL, 0, NULL, 0, NULL, &state);
    if (!is_ok && GetLastError() == ERROR_IO_PENDING) {
        is_ok = GetOverlappedResult(device, &state, &written, TRUE);
    }
    printf("next request: %s\n", is_ok ? "ok" : "error");
    return 0;
}
