/* How a C program ends its connection: with requests under way, in a callback, and while another thread waits. Contexts are
 * freed as soon as ringfence_disconnect has returned. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ringfence.h"

#define IOCTL_ECHO 0x00222000u
#define IOCTL_WAIT 0x00222044u
#define CANCELLED 0xC0000120u
#define NOT_CONNECTED 0xC000009Du
#define COUNT 8

struct context {
    unsigned cancelled;
    ringfence_connection *driver; /* to be disconnected in a callback */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_disconnected;
};

static void check(const char *what, uint32_t status) {
    if (status != 0) {
        fprintf(stderr, "%s: NTSTATUS %08x\n", what, (unsigned)status);
        exit(1);
    }
}

static ringfence_connection *connect_to(const char *path, uint64_t *handle) {
    ringfence_connection *driver;
    check("connect", ringfence_connect(path, &driver));
    check("open", ringfence_open(driver, "\\\\.\\echo", 0, handle));
    return driver;
}

static void pending_done(void *context, const ringfence_completion *completion) {
    struct context *ours = context;
    ours->cancelled += completion->status == CANCELLED;
}

static void disconnect_now(void *context, const ringfence_completion *completion) {
    struct context *ours = context;
    (void)completion;
    ringfence_disconnect(ours->driver);
    pthread_mutex_lock(&ours->lock);
    ours->is_disconnected = 1;
    pthread_cond_signal(&ours->changed);
    pthread_mutex_unlock(&ours->lock);
}

static void end(const char *path, const char *how, int has_thread, int in_callback) {
    uint64_t handle;
    ringfence_connection *driver = connect_to(path, &handle);
    struct context *context = calloc(1, sizeof *context);
    unsigned number;

    pthread_mutex_init(&context->lock, NULL);
    pthread_cond_init(&context->changed, NULL);
    context->driver = driver;
    for (number = 0; number < COUNT; number++)
        check("submit", ringfence_submit_ioctl(driver, handle, IOCTL_WAIT, "wait", 4, 4, pending_done, context, NULL));
    if (in_callback)
        check("submit", ringfence_submit_ioctl(driver, handle, IOCTL_ECHO, "e", 1, 1, disconnect_now, context, NULL));
    if (has_thread)
        check("thread", ringfence_start_thread(driver));
    if (!in_callback) {
        ringfence_disconnect(driver);
    } else if (has_thread) {
        pthread_mutex_lock(&context->lock);
        while (!context->is_disconnected)
            pthread_cond_wait(&context->changed, &context->lock);
        pthread_mutex_unlock(&context->lock);
    } else {
        while (!context->is_disconnected) {
            struct pollfd ready = {.fd = ringfence_fd(driver), .events = POLLIN};
            if (ringfence_process(driver) == 0)
                poll(&ready, 1, -1);
        }
    }
    printf("%s: %u cancelled\n", how, context->cancelled);
    /* The callback in the library's thread may still be unlocking it. */
    if (!(has_thread && in_callback))
        free(context);
}

struct waiting {
    ringfence_connection *driver;
    uint64_t handle;
    uint32_t status;
    pthread_mutex_t lock;
    int has_begun;
};

static void *wait_for_ever(void *argument) {
    struct waiting *waiting = argument;
    unsigned char output[4];
    pthread_mutex_lock(&waiting->lock);
    waiting->has_begun = 1;
    pthread_mutex_unlock(&waiting->lock);
    waiting->status =
        ringfence_ioctl(waiting->driver, waiting->handle, IOCTL_WAIT, "wait", 4, output, sizeof output, NULL);
    return NULL;
}

static void end_anothers_call(const char *path) {
    struct waiting waiting = {0};
    struct timespec enough = {.tv_nsec = 200000000};
    pthread_t thread;
    int has_begun = 0;

    waiting.driver = connect_to(path, &waiting.handle);
    pthread_mutex_init(&waiting.lock, NULL);
    pthread_create(&thread, NULL, wait_for_ever, &waiting);
    while (!has_begun) {
        pthread_mutex_lock(&waiting.lock);
        has_begun = waiting.has_begun;
        pthread_mutex_unlock(&waiting.lock);
    }
    /* No call may begin once disconnecting has begun; that this one has cannot be seen from outside. */
    nanosleep(&enough, NULL);
    ringfence_disconnect(waiting.driver);
    pthread_join(thread, NULL);
    printf("another thread's call: %s\n",
           waiting.status == CANCELLED || waiting.status == NOT_CONNECTED ? "ended" : "not ended");
}

static void fill(const char *path) {
    struct context context = {0};
    uint64_t handle, tag = 0;
    ringfence_connection *driver = connect_to(path, &handle);
    uint32_t status;

    do
        status = ringfence_submit_ioctl(driver, handle, IOCTL_WAIT, "wait", 4, 4, pending_done, &context, &tag);
    while (status == 0);
    printf("full: %08x, cancel %08x\n", (unsigned)status, (unsigned)ringfence_cancel(driver, tag));
    ringfence_disconnect(driver);
}

int main(int count, char **arguments) {
    if (count != 2)
        return 2;
    end(arguments[1], "without a thread", 0, 0);
    end(arguments[1], "with a thread", 1, 0);
    end(arguments[1], "in a callback", 0, 1);
    end(arguments[1], "in a callback of the thread", 1, 1);
    end_anothers_call(arguments[1]);
    fill(arguments[1]);
    return 0;
}
