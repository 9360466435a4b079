/* Programs beside a driver that hangs: hang.exe ROLE. Whoever drives the test lets them go on at each question. */
#include "common.h"

#include "../../tests/drivers/include/echo.h"
#include "../../tests/drivers/include/faulty.h"
#include "../include/ringfence_wine.h"

static void step(void)
{
    say("?");
    await_line();
}

static void ready(void)
{
    say("ready");
    step();
}

static HANDLE open_overlapped(const char *name)
{
    HANDLE device = open_device_with(name, FILE_FLAG_OVERLAPPED);
    CHECK(device != INVALID_HANDLE_VALUE);
    return device;
}

static void begin(HANDLE device, DWORD code, void *output, DWORD bytes, OVERLAPPED *state)
{
    state->hEvent = CreateEventA(NULL, TRUE, FALSE, NULL);
    CHECK_ERROR(DeviceIoControl(device, code, NULL, 0, output, bytes, NULL, state), ERROR_IO_PENDING);
}

static BOOL is_under_way(const OVERLAPPED *state)
{
    return WaitForSingleObject(state->hEvent, 0) == WAIT_TIMEOUT;
}

static DWORD end(HANDLE device, OVERLAPPED *state)
{
    DWORD bytes = 0;
    return GetOverlappedResult(device, state, &bytes, TRUE) ? 0 : GetLastError();
}

/* Opens the driver, and waits for its first answer. */
static HANDLE open_and_wait(void)
{
    OVERLAPPED state = {0};
    HANDLE device = open_overlapped("\\\\.\\faulty");
    begin(device, FAULTY_NOTHING, NULL, 0, &state);
    CHECK(end(device, &state) == 0);
    return device;
}

/* Has the driver hang. */
static void hang(void)
{
    OVERLAPPED state = {0};
    HANDLE device = open_and_wait();
    ready();
    begin(device, FAULTY_INFINITE_LOOP, NULL, 0, &state);
    say("sent");
    step();
    say(is_under_way(&state) ? "under way" : "over");
    printf("ended: error %lu\n", end(device, &state));
    ResetEvent(state.hEvent);
    BOOL is_ok = DeviceIoControl(device, FAULTY_NOTHING, NULL, 0, NULL, 0, NULL, &state);
    DWORD error = is_ok ? 0 : GetLastError();
    printf("next: error %lu\n", error == ERROR_IO_PENDING ? end(device, &state) : error);
}

/* Opens it while it hangs; the service of faulty.sys is the one that was started first. */
static void late(void)
{
    OVERLAPPED request = {0}, question = {0};
    struct rf_ports ports;
    ready();
    HANDLE device = open_overlapped("\\\\.\\faulty");
    begin(device, FAULTY_NOTHING, NULL, 0, &request);
    HANDLE asked = open_overlapped("\\\\.\\RingfencePorts0");
    begin(asked, RF_IOCTL_PORTS, &ports, sizeof ports, &question);
    say("sent");
    step();
    say(is_under_way(&request) && is_under_way(&question) ? "under way" : "over");
    DWORD error = end(device, &request);
    CHECK(end(asked, &question) == error);
    printf("ended: error %lu\n", error);
}

/* Has opened it before, and asks for its ports while it hangs. */
static void early(void)
{
    OVERLAPPED question = {0};
    struct rf_ports ports;
    open_and_wait();
    ready();
    HANDLE asked = open_overlapped("\\\\.\\RingfencePorts0");
    begin(asked, RF_IOCTL_PORTS, &ports, sizeof ports, &question);
    say("sent");
    step();
    say(is_under_way(&question) ? "under way" : "over");
    printf("ended: error %lu\n", end(asked, &question));
}

/* Uses another driver. */
static void other(void)
{
    unsigned char input[64] = {0}, output[64] = {0};
    DWORD bytes = 0;
    ready();
    HANDLE device = open_device("\\\\.\\echo");
    CHECK(DeviceIoControl(device, ECHO_BUFFERED, input, 64, output, 64, &bytes, NULL));
    CHECK(bytes == 64 && output[1] == ECHO_KEY_BUFFERED + 1);
    say("answered");
}

/* Cancels what waits for the driver: a request, and the question for the program's ports. */
static void cancel(void)
{
    OVERLAPPED request = {0}, question = {0}, others = {0};
    struct rf_ports ports;
    ready();
    HANDLE device = open_overlapped("\\\\.\\faulty");
    begin(device, FAULTY_NOTHING, NULL, 0, &request);
    HANDLE asked = open_overlapped("\\\\.\\RingfencePorts0");
    begin(asked, RF_IOCTL_PORTS, &ports, sizeof ports, &question);
    /* The other driver answers what was asked later: nothing was opened there. */
    HANDLE other = open_overlapped("\\\\.\\RingfencePorts1");
    begin(other, RF_IOCTL_PORTS, &ports, sizeof ports, &others);
    CHECK(end(other, &others) == ERROR_NOT_FOUND);
    CHECK(is_under_way(&request) && is_under_way(&question));
    CHECK(CancelIoEx(asked, &question));
    CHECK(end(asked, &question) == ERROR_OPERATION_ABORTED);
    CHECK(CancelIoEx(device, &request));
    CHECK(end(device, &request) == ERROR_OPERATION_ABORTED);
    say("cancelled");
}

/* Stops its service. */
static void stop(void)
{
    SERVICE_STATUS status;
    SC_HANDLE manager = OpenSCManagerA(NULL, NULL, SC_MANAGER_CONNECT);
    SC_HANDLE service = OpenServiceA(manager, "faulty", SERVICE_STOP);
    CHECK(service != NULL);
    ready();
    CHECK(ControlService(service, SERVICE_CONTROL_STOP, &status));
    say("stopped");
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } roles[] = {
        {"hang", hang}, {"late", late}, {"early", early}, {"other", other}, {"cancel", cancel}, {"stop", stop},
    };
    CHECK(count == 2);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(arguments[1], roles[i].name) == 0) {
            roles[i].run();
        }
    }
    return 0;
}
