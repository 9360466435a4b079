/* A request over a lane: its bytes in the lane's memory, and the wait for the answer. Nothing of it is on a thread's stack: others
 * may cancel it. */
#include "lanes.h"

#include "port.h"

enum {
    CANCEL_BYTES = 256,
    HEADER = sizeof(struct rf_request_header),
    RESULT = sizeof(struct rf_result_header),
};

/* First descriptors of the two chains. */
enum { REQUEST = 0, CANCEL = 2 };

static struct rf_request_header *header(struct rf_channel *channel, unsigned chain)
{
    uint32_t at = chain == REQUEST ? 0 : LANE_DATA_BYTES - CANCEL_BYTES;
    return (struct rf_request_header *)(channel->queue.memory + channel->queue.data_at + at);
}

static void describe(struct rf_channel *channel, unsigned chain, uint32_t input_bytes, uint32_t result_at, uint32_t output_bytes)
{
    struct rf_queue *queue = &channel->queue;
    struct rf_descriptor *table = (struct rf_descriptor *)queue->memory;
    uint64_t at = (uint64_t)((uint8_t *)header(channel, chain) - queue->memory);
    table[chain] = (struct rf_descriptor){
        .address = at,
        .length = HEADER + input_bytes,
        .flags = RF_DESCRIPTOR_NEXT,
        .next = (uint16_t)(chain + 1),
    };
    table[chain + 1] = (struct rf_descriptor){
        .address = at + result_at,
        .length = RESULT + output_bytes,
        .flags = RF_DESCRIPTOR_WRITE,
    };
}

static void submit(struct rf_channel *channel, unsigned chain)
{
    struct rf_queue *queue = &channel->queue;
    uint16_t *available = (uint16_t *)(queue->memory + queue->available_at);
    available[2 + (queue->available & (queue->size - 1))] = (uint16_t)chain;
    queue->available++;
    __atomic_store_n(available + 1, queue->available, __ATOMIC_RELEASE);
    if (rf_queue_is_kick_due(queue)) {
        uint64_t one = 1;
        rf_syscall3(RF_NR_WRITE, channel->kick_fd, rf_at(&one), sizeof one);
    }
}

/* The VMM's last words, when its end of the pipe is closed. */
static uint32_t farewell(struct rf_channel *channel)
{
    struct rf_farewell words;
    intptr_t received = rf_syscall(RF_NR_RECVFROM, channel->socket_fd, rf_at(&words), sizeof words, RF_MSG_DONTWAIT, 0, 0);
    return received == sizeof words && words.magic == RF_WIRE_MAGIC && words.status != 0 ? words.status
                                                                                       : RF_STATUS_NOT_CONNECTED;
}

/* Sleeps until there may be an answer: in one system call, so the pipe's end was made to block. The status that the channel
 * ends with, or 0. */
static uint32_t sleep_for_answer(struct rf_channel *channel)
{
    uint8_t bytes[64];
    rf_queue_arm(&channel->queue);
    if (rf_queue_has_used(&channel->queue)) {
        return 0;
    }
    uint64_t asleep = channel->looking.may_look ? rf_now() : 0;
    intptr_t taken = rf_syscall3(RF_NR_READ, channel->call_fd, rf_at(bytes), sizeof bytes);
    if (channel->looking.may_look) {
        rf_slept(&channel->looking, rf_now() - asleep);
    }
    if (taken > 0 || taken == -RF_EINTR || taken == -RF_EAGAIN || rf_queue_has_used(&channel->queue)) {
        return 0;
    }
    return farewell(channel);
}

/* Takes one of the VMM's elements. A broken VMM ends the channel. */
static uint32_t take_used(struct rf_channel *channel, uint32_t result_at, struct rf_result_header *answer, int *has_answer,
                          int *has_cancelled)
{
    struct rf_queue *queue = &channel->queue;
    const volatile struct rf_used_element *used = (const volatile struct rf_used_element *)(queue->memory + queue->used_at + 4);
    const volatile struct rf_used_element *element = &used[queue->next_used & (queue->size - 1)];
    uint32_t id = element->id, length = element->length;
    queue->next_used++;
    if (id == CANCEL) {
        *has_cancelled = 1;
        return 0;
    }
    if (id != REQUEST || *has_answer || length < RESULT) {
        return RF_STATUS_NOT_CONNECTED;
    }
    rf_copy(answer, (const uint8_t *)header(channel, REQUEST) + result_at, RESULT);
    *has_answer = 1;
    return 0;
}

/* Waits until the request is answered and nobody else uses the lane. The status that the channel ends with, or 0. */
static uint32_t wait_for_answer(struct lane *lane, uint32_t result_at, struct rf_result_header *answer)
{
    struct rf_channel *channel = lane->channel;
    uint32_t waiting = lane->tag | WAITING, status = 0;
    int has_answer = 0, has_cancelled = 0;
    while (status == 0) {
        if (rf_queue_has_used(&channel->queue)) {
            status = take_used(channel, result_at, answer, &has_answer, &has_cancelled);
            continue;
        }
        if (has_answer) {
            uint32_t word = waiting;
            if (__atomic_compare_exchange_n(&lane->word, &word, IDLE, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
                ((word & PHASE_MASK) == CANCELLED && has_cancelled)) {
                break;
            }
            if ((word & PHASE_MASK) == CANCELLING) {
                rf_syscall3(NR_SCHED_YIELD, 0, 0, 0);
                continue;
            }
        }
        if (!rf_look(&channel->looking, &channel->queue)) {
            status = sleep_for_answer(channel);
        }
    }
    lane_stop_waiting(lane);
    return has_answer ? 0 : status;
}

static uint32_t result_offset(uint32_t input_bytes)
{
    return (HEADER + input_bytes + 7) & ~7u;
}

/* A request whose data is in place. The status that the channel ends with, or 0. */
static uint32_t exchange(struct lane *lane, const struct transfer *transfer, uint64_t number, struct rf_result_header *answer)
{
    struct rf_channel *channel = lane->channel;
    uint32_t result_at = result_offset(transfer->input_bytes);
    struct rf_request_header request = {
        .opcode = transfer->opcode,
        .process = lane->process,
        .handle = number,
        .code = transfer->code,
        .input_bytes = transfer->input_bytes,
        .output_bytes = transfer->output_bytes,
        .argument = transfer->argument,
    };
    lane->tag += TAG_STEP;
    request.tag = lane->tag;
    rf_copy(header(channel, REQUEST), &request, HEADER);
    rf_zero((uint8_t *)header(channel, REQUEST) + result_at, RESULT);
    describe(channel, REQUEST, transfer->input_bytes, result_at, transfer->output_bytes);
    submit(channel, REQUEST);
    __atomic_store_n(&lane->word, lane->tag | WAITING, __ATOMIC_RELEASE);
    return wait_for_answer(lane, result_at, answer);
}
/* The file's number on this connection. */
static enum transfer_outcome borrow(struct machine *machine, struct lane *lane, struct lane_file *file, uint64_t *number)
{
    unsigned index = lane_index(machine, lane);
    if (file->lane[index].connection != lane->connection) {
        struct rf_result_header answer;
        const struct transfer question = {.opcode = RF_OP_BORROW};
        lane->file = 0;
        if (exchange(lane, &question, file->owners, &answer) != 0) {
            lane_disconnect(lane);
            machine_end(machine);
            return TRANSFER_NOT_SENT;
        }
        if (answer.status == (uint32_t)STATUS_INVALID_HANDLE) {
            return TRANSFER_NO_FILE;
        }
        if (answer.status != 0) {
            /* A VMM that does not know how, or a process that has ended. */
            lane_disconnect(lane);
            machine_end(machine);
            return TRANSFER_NOT_SENT;
        }
        file->lane[index].number = answer.value;
        file->lane[index].connection = lane->connection;
    }
    *number = file->lane[index].number;
    return TRANSFER_DONE;
}

static int put_data(struct lane *lane, const struct transfer *transfer)
{
    uint8_t *at = (uint8_t *)header(lane->channel, REQUEST);
    uint8_t *output = at + result_offset(transfer->input_bytes) + RESULT;
    if (transfer->input_bytes != 0 && !port_move(at + HEADER, transfer->input, transfer->input_bytes)) {
        return 0;
    }
    /* What cannot be written is not read from the driver. */
    if (transfer->output_bytes != 0 && !port_probe_pages(transfer->output, transfer->output_bytes)) {
        return 0;
    }
    if (transfer->opcode == RF_OP_READ) {
        /* A driver with direct I/O may report more than it writes; nothing of an earlier request is there then. */
        rf_zero(output, transfer->output_bytes);
    }
    return !transfer->is_output_sent || transfer->output_bytes == 0 ||
           port_move(output, transfer->output, transfer->output_bytes);
}

/* The answer's data to the program. */
static void get_data(struct lane *lane, const struct transfer *transfer, struct rf_result_header *answer)
{
    const uint8_t *at = (const uint8_t *)header(lane->channel, REQUEST);
    const uint8_t *output = at + result_offset(transfer->input_bytes) + RESULT;
    if (answer->output_bytes > transfer->output_bytes) {
        answer->output_bytes = transfer->output_bytes;
    }
    if (answer->output_bytes != 0 && !port_move(transfer->output, output, answer->output_bytes)) {
        /* It was there before. */
        *answer = (struct rf_result_header){.status = (uint32_t)STATUS_ACCESS_VIOLATION};
    }
}

static enum transfer_outcome transfer_by(struct machine *machine, struct lane *lane, struct lane_file *file,
                                         const struct transfer *transfer, struct rf_result_header *answer)
{
    uint64_t number = 0;
    enum transfer_outcome outcome = borrow(machine, lane, file, &number);
    if (outcome != TRANSFER_DONE) {
        return outcome;
    }
    if (!put_data(lane, transfer)) {
        return TRANSFER_NOT_SENT;
    }
    lane->status_block = transfer->status_block;
    lane->file = file->owners;
    uint32_t status = exchange(lane, transfer, number, answer);
    if (status != 0) {
        *answer = (struct rf_result_header){.status = status};
        lane_disconnect(lane);
        machine_end(machine);
        return TRANSFER_DONE;
    }
    uint32_t said = answer->status;
    get_data(lane, transfer, answer);
    int is_cancelled = said == RF_STATUS_CANCELLED;
    if (is_cancelled || said == (uint32_t)STATUS_INVALID_HANDLE || said == (uint32_t)STATUS_INVALID_CID) {
        /* The driver says so, or there was no file or process to ask it with; or the service stops, and its driver's cleanup
         * has ended the request. The process of a handle that was inherited may have ended for itself. */
        int is_own = lane->process == GetCurrentProcessId();
        file->lane[lane_index(machine, lane)].connection = 0;
        outcome = borrow(machine, lane, file, &number);
        if (is_cancelled && is_own && outcome == TRANSFER_NOT_SENT) {
            *answer = (struct rf_result_header){.status = (uint32_t)STATUS_DEVICE_REMOVED};
        } else if (!is_cancelled && outcome != TRANSFER_DONE) {
            return outcome;
        }
    }
    return TRANSFER_DONE;
}

enum transfer_outcome machine_transfer(struct machine *machine, struct lane_file *file, const struct transfer *transfer,
                                       struct rf_result_header *answer)
{
    uint32_t room = LANE_DATA_BYTES - CANCEL_BYTES - HEADER - RESULT - 8;
    if (transfer->input_bytes > room || transfer->output_bytes > room - transfer->input_bytes ||
        !machine_is_ready(machine)) {
        return TRANSFER_NOT_SENT;
    }
    struct lane *lane = lane_take(machine);
    if (lane == NULL) {
        return TRANSFER_NOT_SENT;
    }
    enum transfer_outcome outcome = transfer_by(machine, lane, file, transfer, answer);
    lane_give_back(lane);
    return outcome;
}

/* Cancels what a lane's thread waits for, if it is still that. */
int lane_cancel(struct lane *lane, uint32_t word)
{
    int is_cancelled = 0;
    /* The lane's thread waits for this one. */
    uint64_t mask = port_block_signals();
    uint32_t expected = word;
    if (__atomic_compare_exchange_n(&lane->word, &expected, (word & ~(uint32_t)PHASE_MASK) | CANCELLING, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED)) {
        struct rf_channel *channel = lane->channel;
        struct rf_request_header request = {
            .opcode = RF_OP_CANCEL,
            .process = lane->process,
            .argument = word & ~(uint32_t)PHASE_MASK,
        };
        rf_copy(header(channel, CANCEL), &request, HEADER);
        describe(channel, CANCEL, 0, HEADER, 0);
        submit(channel, CANCEL);
        __atomic_store_n(&lane->word, (word & ~(uint32_t)PHASE_MASK) | CANCELLED, __ATOMIC_RELEASE);
        is_cancelled = 1;
    }
    port_restore_signals(mask);
    return is_cancelled;
}
