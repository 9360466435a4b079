/* The channel's client, built for Linux, against the echo driver: echo SOCKET. Exit status 0: everything was as it should
 * be; otherwise what was not is on standard error. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "../../../tests/drivers/include/echo.h"

#define CHECK(condition) check((condition), #condition, __LINE__)

static void check(bool is_true, const char *what, int line)
{
    if (!is_true) {
        fprintf(stderr, "echo.c:%d: not so: %s\n", line, what);
        exit(1);
    }
}

static const uint16_t NAME[] = {'\\', '\\', '.', '\\', 'e', 'c', 'h', 'o'};

static uint64_t open_echo(struct rf_channel *channel)
{
    struct rf_request open = {.opcode = RF_OP_OPEN, .input = NAME, .input_bytes = sizeof NAME};
    CHECK(rf_call(channel, &open) == 0);
    return open.value;
}

static void echo(struct rf_channel *channel, uint64_t handle, uint32_t bytes)
{
    uint8_t *input = malloc(bytes);
    uint8_t *output = calloc(1, bytes);
    for (uint32_t i = 0; i < bytes; i++) {
        input[i] = (uint8_t)(i * 7 + bytes);
    }
    struct rf_request request = {
        .opcode = RF_OP_IOCTL,
        .handle = handle,
        .code = ECHO_BUFFERED,
        .input = input,
        .input_bytes = bytes,
        .output = output,
        .output_bytes = bytes,
    };
    CHECK(rf_call(channel, &request) == 0);
    CHECK(request.information == bytes && request.output_written == bytes);
    for (uint32_t i = 0; i < bytes; i++) {
        CHECK(output[i] == (uint8_t)((input[i] ^ ECHO_KEY_BUFFERED) + i));
    }
    free(input);
    free(output);
}

struct worker {
    struct rf_channel *channel;
    uint64_t handle;
    uint32_t bytes;
};

static void *work(void *argument)
{
    struct worker *worker = argument;
    for (int i = 0; i < 200; i++) {
        echo(worker->channel, worker->handle, worker->bytes);
    }
    return NULL;
}

static uint32_t pended;

static void count_pended(struct rf_request *request)
{
    uint32_t tag = (uint32_t)(uintptr_t)request->context;
    CHECK(request->status == 0);
    CHECK(*(uint32_t *)request->output == (tag ^ 0xFFFFFFFF));
    __atomic_add_fetch(&pended, 1, __ATOMIC_SEQ_CST);
}

static void *run(void *channel)
{
    rf_run(channel);
    return NULL;
}

/* More requests at once than the channel and the driver take: the rest waits for its turn. */
static void pend_many(struct rf_channel *channel, uint64_t handle)
{
    enum { COUNT = 3000 };
    static struct rf_request requests[COUNT];
    static struct echo_pend inputs[COUNT];
    static uint32_t outputs[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        inputs[i] = (struct echo_pend){.delay_ms = 1, .tag = i};
        requests[i] = (struct rf_request){
            .opcode = RF_OP_IOCTL,
            .handle = handle,
            .code = ECHO_PEND,
            .input = &inputs[i],
            .input_bytes = sizeof inputs[i],
            .output = &outputs[i],
            .output_bytes = sizeof outputs[i],
            .complete = count_pended,
            .context = (void *)(uintptr_t)i,
        };
        rf_submit(channel, &requests[i]);
    }
    /* Requests are served in turn, so this one's answer does not come before all have been taken. */
    while (__atomic_load_n(&pended, __ATOMIC_SEQ_CST) < COUNT) {
        echo(channel, handle, 8);
    }
}

static void cancel(struct rf_channel *channel, uint64_t handle)
{
    uint32_t tag = 5;
    uint32_t output = 0;
    struct rf_request wait = {
        .opcode = RF_OP_IOCTL,
        .handle = handle,
        .code = ECHO_WAIT,
        .input = &tag,
        .input_bytes = sizeof tag,
        .output = &output,
        .output_bytes = sizeof output,
    };
    rf_submit(channel, &wait);
    struct rf_request question = {0};
    rf_cancel(channel, &wait, &question);
    CHECK(rf_wait(channel, &question) == 0);
    CHECK(rf_wait(channel, &wait) == RF_STATUS_CANCELLED);
}

/* A driver may report more than it has written to a read's buffer, and must not hand out what others had there. */
static void read_nothing_of_others(struct rf_channel *channel, uint64_t handle)
{
    enum { BYTES = 4000, WRITTEN = 10 };
    static uint8_t data[BYTES];
    echo(channel, handle, BYTES);
    struct rf_request write = {.opcode = RF_OP_WRITE, .handle = handle, .input = data, .input_bytes = WRITTEN};
    CHECK(rf_call(channel, &write) == 0);
    struct rf_request read = {.opcode = RF_OP_READ, .handle = handle, .output = data, .output_bytes = BYTES};
    CHECK(rf_call(channel, &read) == 0 && read.output_written == WRITTEN);
    const uint8_t *area = channel->queue.memory + channel->queue.data_at + read.first_cell * RF_CELL_BYTES;
    const uint8_t *output = area + sizeof(struct rf_request_header) + sizeof(struct rf_result_header);
    CHECK(memcmp(output, data, WRITTEN) == 0);
    for (uint32_t i = WRITTEN; i < BYTES; i++) {
        CHECK(output[i] == 0);
    }
}

static uint32_t ended;

static void count_ended(struct rf_request *request)
{
    CHECK(request->status == RF_STATUS_NOT_CONNECTED);
    __atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
}

/* The VMM cancels what a client that goes has left; those answers are none for the client that ended the channel itself. */
static void leave_pending(const char *path)
{
    enum { COUNT = 200 };
    static struct rf_request requests[COUNT];
    static uint32_t tags[COUNT];
    static uint32_t outputs[COUNT];
    struct rf_failure failure;
    struct rf_channel *channel = rf_connect(path, 1 << 20, 5000, &failure);
    CHECK(channel != NULL);
    uint64_t handle = open_echo(channel);
    pthread_t pump;
    CHECK(pthread_create(&pump, NULL, run, channel) == 0);
    ended = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        tags[i] = i;
        requests[i] = (struct rf_request){
            .opcode = RF_OP_IOCTL,
            .handle = handle,
            .code = ECHO_WAIT,
            .input = &tags[i],
            .input_bytes = sizeof tags[i],
            .output = &outputs[i],
            .output_bytes = sizeof outputs[i],
            .complete = count_ended,
        };
        rf_submit(channel, &requests[i]);
    }
    /* Requests are taken in turn: the driver has all of them now. */
    echo(channel, handle, 8);
    rf_disconnect(channel);
    pthread_join(pump, NULL);
    CHECK(__atomic_load_n(&ended, __ATOMIC_SEQ_CST) == COUNT);
    rf_free(channel);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    struct rf_failure failure = {0};
    struct rf_channel *channel = rf_connect(arguments[1], 1 << 20, 5000, &failure);
    if (channel == NULL) {
        fprintf(stderr, "%s: error %u, status %08x\n", failure.what, failure.error, failure.status);
        return 2;
    }
    uint64_t handle = open_echo(channel);
    echo(channel, handle, 0);
    echo(channel, handle, 5);
    echo(channel, handle, 300000);
    read_nothing_of_others(channel, handle);
    /* Without a thread that handles completions, whoever waits does. */
    cancel(channel, handle);
    pthread_t threads[4];
    struct worker workers[4];
    for (int i = 0; i < 4; i++) {
        workers[i] = (struct worker){channel, handle, 100u + 1000u * (uint32_t)i};
        CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_t pump;
    CHECK(pthread_create(&pump, NULL, run, channel) == 0);
    pend_many(channel, handle);
    cancel(channel, handle);
    uint32_t value = 0;
    CHECK(rf_port_in(channel, 0, 0x379, 1, &value) == 0xC0000096);
    struct rf_request large = {.opcode = RF_OP_IOCTL, .handle = handle, .code = ECHO_BUFFERED, .output_bytes = 2 << 20};
    CHECK(rf_call(channel, &large) == RF_STATUS_INVALID_BUFFER_SIZE);
    rf_disconnect(channel);
    pthread_join(pump, NULL);
    CHECK(rf_end_status(channel) == RF_STATUS_NOT_CONNECTED);
    struct rf_request late = {.opcode = RF_OP_FLUSH, .handle = handle};
    CHECK(rf_call(channel, &late) == RF_STATUS_NOT_CONNECTED);
    rf_free(channel);
    for (int i = 0; i < 20; i++) {
        leave_pending(arguments[1]);
    }
    puts("echo: as it should be");
    return 0;
}
