/* Sends a driver a buffer by DeviceIoControl, blocking, by callback with poll, and with a buffer that both share.
 *
 *     cc client/c/examples/echo.c -Iclient/c/include -Ltarget/release -lringfence -o echo
 *     LD_LIBRARY_PATH=target/release ./echo /run/echo.sock
 */
#include <poll.h>
#include <stdio.h>

#include "ringfence.h"

#define IOCTL_ECHO 0x00222000u
#define IOCTL_ECHO_OUT_DIRECT 0x0022200Au

static void print(const unsigned char *bytes, size_t count) {
    for (size_t at = 0; at < count; at++)
        printf("%02x", bytes[at]);
    printf("\n");
}

static void done(void *context, const ringfence_completion *completion) {
    printf("callback: status %08x, ", (unsigned)completion->status);
    print(completion->output, completion->output_bytes);
    *(int *)context = 1;
}

static int failed(const char *what, uint32_t status) {
    fprintf(stderr, "%s: NTSTATUS %08x\n", what, (unsigned)status);
    return 1;
}

int main(int count, char **arguments) {
    ringfence_connection *driver;
    ringfence_buffer *buffer;
    uint64_t handle, information;
    unsigned char output[5];
    int is_done = 0;
    uint32_t status;

    if (count != 2) {
        fprintf(stderr, "usage: echo SOCKET\n");
        return 2;
    }
    status = ringfence_connect(arguments[1], &driver);
    if (status != 0)
        return failed("connect", status);
    status = ringfence_open(driver, "\\\\.\\echo", 0, &handle);
    if (status != 0)
        return failed("open", status);

    status = ringfence_ioctl(driver, handle, IOCTL_ECHO, "hello", 5, output, sizeof output, &information);
    if (status != 0)
        return failed("ioctl", status);
    printf("blocking: ");
    print(output, information);

    status = ringfence_submit_ioctl(driver, handle, IOCTL_ECHO, "hello", 5, 5, done, &is_done, NULL);
    if (status != 0)
        return failed("submit", status);
    while (status == 0 && !is_done) {
        struct pollfd ready = {.fd = ringfence_fd(driver), .events = POLLIN};
        status = ringfence_process(driver);
        if (status == 0 && !is_done)
            poll(&ready, 1, -1);
    }
    if (status != 0)
        return failed("process", status);

    status = ringfence_buffer_create(driver, 4096, &buffer);
    if (status != 0)
        return failed("buffer", status);
    status = ringfence_ioctl_buffer(driver, handle, IOCTL_ECHO_OUT_DIRECT, "hello", 5, buffer, 0, 5, &information);
    if (status != 0)
        return failed("ioctl in place", status);
    printf("in place: ");
    print(ringfence_buffer_address(buffer), information);
    ringfence_buffer_free(buffer);
    ringfence_close(driver, handle);
    ringfence_disconnect(driver);
    return 0;
}
