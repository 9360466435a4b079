/* Null pointers, another connection's buffer, and signals: each is an error, or nothing, and never half a request. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "ringfence.h"

#define IOCTL_ECHO 0x00222000

static int listener;
static volatile sig_atomic_t ticks;

/* The third one ends the connection. */
static void tick(int signal) {
    (void)signal;
    if (++ticks == 3)
        close(accept(listener, NULL, NULL));
}

static void interrupted(const char *beside) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct sigaction action = {.sa_handler = tick};
    struct itimerval timer = {{0, 50000}, {0, 50000}};
    struct itimerval never = {{0, 0}, {0, 0}};
    ringfence_connection *driver;

    snprintf(address.sun_path, sizeof address.sun_path, "%s.silent", beside);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(listener, (struct sockaddr *)&address, sizeof address);
    listen(listener, 1);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    printf("ended by the server: %08x", (unsigned)ringfence_connect(address.sun_path, &driver));
    printf(", %s\n", ticks >= 3 ? "not by a signal" : "by a signal");
    setitimer(ITIMER_REAL, &never, NULL);
    unlink(address.sun_path);
}

int main(int count, char **arguments) {
    ringfence_connection *driver, *other;
    ringfence_buffer *buffer;
    uint64_t handle, again, information;
    unsigned char output[5];

    if (count != 2 || ringfence_connect(arguments[1], &driver) != 0 || ringfence_connect(arguments[1], &other) != 0)
        return 1;
    printf("null: %08x", (unsigned)ringfence_connect(arguments[1], NULL));
    printf(" %08x", (unsigned)ringfence_connect(NULL, &driver));
    printf(" %08x", (unsigned)ringfence_open(driver, "\\\\.\\echo", 0, NULL));
    if (ringfence_open(driver, "\\\\.\\echo", 0, &handle) != 0)
        return 1;
    printf(" %08x", (unsigned)ringfence_read(driver, handle, 0, NULL, 5, &information));
    printf(" %08x", (unsigned)ringfence_ioctl(driver, handle, IOCTL_ECHO, "hello", 5, NULL, 5, &information));
    printf(" %08x", (unsigned)ringfence_ioctl(driver, handle, IOCTL_ECHO, NULL, 5, output, 5, &information));
    printf(" %08x", (unsigned)ringfence_port_in(driver, 0x300, 1, NULL));
    printf(" %08x\n", (unsigned)ringfence_submit_read(driver, handle, 0, 5, NULL, NULL, NULL));

    /* Handles are numbered one after the other: none was opened for nobody. */
    if (ringfence_open(driver, "\\\\.\\echo", 0, &again) != 0)
        return 1;
    printf("handles: %u %u\n", (unsigned)handle, (unsigned)again);

    if (ringfence_buffer_create(other, 4096, &buffer) != 0)
        return 1;
    printf("another's buffer: %08x\n",
           (unsigned)ringfence_read_buffer(driver, handle, 0, buffer, 0, 5, &information));
    printf("outside of it: %08x\n",
           (unsigned)ringfence_read_buffer(other, handle, 0, buffer, 4095, 5, &information));
    ringfence_buffer_free(buffer);
    ringfence_disconnect(other);
    ringfence_disconnect(driver);
    interrupted(arguments[1]);
    return 0;
}
