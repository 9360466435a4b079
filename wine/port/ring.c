#include "ring.h"

#include "../channel/internal.h"

enum {
    /* How often a thread looks whether the channel is free: first at once, then with other threads' turns between. */
    TRIES_BUSY = 2000,
    TRIES_YIELDING = 500,
    NR_SCHED_YIELD = RF_NR(24, 158),
    HEAD = 0,
    SECOND = 1,
};

static struct rf_request_header *header(struct rf_channel *channel)
{
    return (struct rf_request_header *)(channel->queue.memory + channel->queue.data_at);
}

static struct rf_result_header *result(struct rf_channel *channel)
{
    return (struct rf_result_header *)(channel->queue.memory + channel->queue.data_at + RF_CELL_BYTES);
}

void ring_start(struct rf_channel *channel)
{
    struct rf_queue *queue = &channel->queue;
    struct rf_descriptor *table = (struct rf_descriptor *)queue->memory;
    table[HEAD] = (struct rf_descriptor){
        .address = queue->data_at,
        .length = sizeof(struct rf_request_header),
        .flags = RF_DESCRIPTOR_NEXT,
        .next = SECOND,
    };
    table[SECOND] = (struct rf_descriptor){
        .address = queue->data_at + RF_CELL_BYTES,
        .length = sizeof(struct rf_result_header),
        .flags = RF_DESCRIPTOR_WRITE,
    };
    rf_zero(header(channel), sizeof(struct rf_request_header));
    for (uint32_t entry = 0; entry < queue->size; entry++) {
        ((volatile uint16_t *)(queue->memory + queue->available_at))[2 + entry] = HEAD;
    }
}

static void kick(struct rf_channel *channel)
{
    uint64_t one = 1;
    rf_syscall3(RF_NR_WRITE, channel->kick_fd, rf_at(&one), sizeof one);
}

static void submit(struct rf_channel *channel)
{
    struct rf_queue *queue = &channel->queue;
    queue->available++;
    __atomic_store_n((uint16_t *)(queue->memory + queue->available_at) + 1, queue->available, __ATOMIC_RELEASE);
    if (rf_queue_is_kick_due(queue)) {
        kick(channel);
    }
}

/* Sleeps until there may be an answer. The status that the channel ends with, or 0. */
static uint32_t sleep_for_answer(struct rf_channel *channel)
{
    rf_queue_arm(&channel->queue);
    if (rf_queue_has_used(&channel->queue)) {
        return 0;
    }
    struct rf_pollfd polled[2] = {
        {.fd = channel->call_fd, .events = RF_POLLIN},
        {.fd = channel->socket_fd, .events = RF_POLLIN},
    };
    uint64_t asleep = rf_now();
    rf_syscall3(RF_NR_POLL, rf_at(polled), 2, -1);
    rf_slept(&channel->looking, rf_now() - asleep);
    if (polled[0].revents != 0) {
        uint8_t bytes[64];
        rf_syscall3(RF_NR_READ, channel->call_fd, rf_at(bytes), sizeof bytes);
    }
    if (polled[1].revents == 0 || rf_queue_has_used(&channel->queue)) {
        return 0;
    }
    struct rf_farewell words;
    intptr_t received = rf_syscall(RF_NR_RECVFROM, channel->socket_fd, rf_at(&words), sizeof words, RF_MSG_DONTWAIT, 0, 0);
    if (received == -RF_EAGAIN || received == -RF_EINTR) {
        return 0;
    }
    return received == sizeof words && words.magic == RF_WIRE_MAGIC && words.status != 0 ? words.status
                                                                                       : RF_STATUS_NOT_CONNECTED;
}

static uint32_t take_answer(struct rf_channel *channel, uint32_t *value)
{
    struct rf_queue *queue = &channel->queue;
    const volatile struct rf_used_element *used = (const volatile struct rf_used_element *)(queue->memory + queue->used_at + 4);
    const volatile struct rf_used_element *element = &used[queue->next_used & (queue->size - 1)];
    const volatile struct rf_result_header *answer = result(channel);
    queue->next_used++;
    if (element->id != HEAD || element->length < sizeof(struct rf_result_header)) {
        return RF_STATUS_NOT_CONNECTED;
    }
    *value = (uint32_t)answer->value;
    return answer->status;
}

/* Statuses behind which there are no more answers: docs/channel.md, farewell. */
static int is_over(uint32_t status)
{
    return status == RF_STATUS_NOT_CONNECTED || status == 0xC0000450u /* STATUS_DRIVER_PROCESS_TERMINATED */ ||
           status == 0xC00000B5u /* STATUS_IO_TIMEOUT */ || status == 0xC00002B6u /* STATUS_DEVICE_REMOVED */;
}

/* Whoever had the channel was ended in the middle of an access, which may still be under way: waits for its answer, if there is
 * to be one. */
static void recover(struct rf_channel *channel)
{
    struct rf_queue *queue = &channel->queue;
    const uint16_t *available = (const uint16_t *)(queue->memory + queue->available_at) + 1;
    const uint16_t *used = (const uint16_t *)(queue->memory + queue->used_at) + 1;
    queue->available = __atomic_load_n(available, __ATOMIC_ACQUIRE);
    kick(channel);
    while (channel->end == 0) {
        queue->next_used = __atomic_load_n(used, __ATOMIC_ACQUIRE);
        if (queue->next_used == queue->available) {
            return;
        }
        if (!rf_look(&channel->looking, queue)) {
            channel->end = sleep_for_answer(channel);
        }
    }
}

/* Not a futex: a thread that waits is in the middle of the program's code, and whoever has the lock may be suspended, or
 * have been ended. */
static int take(struct rf_channel *channel)
{
    uint32_t thread = rf_own_thread(), owner = 0;
    for (uint32_t tries = 0; !__atomic_compare_exchange_n(&channel->lock, &owner, thread, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
         tries++) {
        if (tries == TRIES_BUSY + TRIES_YIELDING && rf_is_thread_gone(owner) &&
            __atomic_compare_exchange_n(&channel->lock, &owner, thread, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
            recover(channel);
            return 1;
        }
        owner = 0;
        if (tries < TRIES_BUSY && channel->looking.may_look) {
            __builtin_ia32_pause();
        } else if (tries < TRIES_BUSY + TRIES_YIELDING) {
            rf_syscall3(NR_SCHED_YIELD, 0, 0, 0);
        } else {
            return 0;
        }
    }
    return 1;
}

static void give_back(struct rf_channel *channel)
{
    __atomic_store_n(&channel->lock, 0, __ATOMIC_RELEASE);
}

uint32_t ring_access(struct rf_channel *channel, uint32_t process, int is_write, uint16_t port, uint32_t width,
                     uint32_t *value)
{
    uint32_t status = 0, answer = 0;
    if (!take(channel)) {
        return RING_BUSY;
    }
    if (channel->end != 0) {
        status = channel->end;
        give_back(channel);
        return status;
    }
    volatile struct rf_request_header *request = header(channel);
    request->opcode = is_write ? RF_OP_PORT_OUT : RF_OP_PORT_IN;
    request->process = process;
    request->code = port;
    request->argument = is_write ? (uint64_t)*value << 32 | width : width;
    submit(channel);
    while (status == 0 && !rf_look(&channel->looking, &channel->queue)) {
        status = sleep_for_answer(channel);
    }
    if (status == 0) {
        status = take_answer(channel, &answer);
    }
    if (is_over(status)) {
        channel->end = status;
    } else if (status == 0 && !is_write) {
        *value = answer;
    }
    give_back(channel);
    return status;
}
