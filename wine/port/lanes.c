/* Connections to the micro-VMs for the program's requests.
 *
 * A connection (a lane) is one thread's alone while its request is under way. So no lock is held then: a thread that is
 * suspended keeps its lane and nothing else, and one that is ended leaves a lane that is taken down when its Linux thread is
 * gone. When all lanes have somebody, requests go through winedevice. Nothing of a request is on a thread's stack: others may
 * cancel it.
 */
#include "direct.h"

#include "../channel/internal.h"
#include "../include/ringfence_wine.h"
#include "join.h"
#include "port.h"

enum {
    MACHINES_MAX = 32,
    /* Requests with more data go through winedevice. The VMM maps steps of 2 MiB. */
    DATA_BYTES = 1 << 20,
    CANCEL_BYTES = 256,
    NR_SCHED_YIELD = RF_NR(24, 158),
    F_SETFL = 4,
    HEADER = sizeof(struct rf_request_header),
    RESULT = sizeof(struct rf_result_header),
};

/* First descriptors of the two chains. */
enum { REQUEST = 0, CANCEL = 2 };

/* Low bits of a lane's word; above them is the tag of its request. */
enum phase {
    IDLE,
    WAITING,    /* its thread waits for the answer, and only reads */
    CANCELLING, /* another thread uses the available ring */
    CANCELLED,  /* both chains are with the VMM */
    PHASE_MASK = 3,
    TAG_STEP = 4,
};

struct lane {
    uint32_t owner;  /* the Linux thread that has it; 0: nobody */
    uint32_t thread; /* the same as Windows knows it */
    uint32_t word;
    uint32_t tag;
    struct rf_channel *channel; /* null: not connected */
    uint32_t connection;        /* which one it is, of all that there ever were */
    uint32_t process;
    const void *status_block;
    uint64_t file;
};

enum state { UNUSED, READY, OVER };

struct machine {
    uint32_t state;
    uint32_t files;
    uint32_t lanes; /* how many there may be */
    uint32_t opening;
    struct lane lane[LANES_MAX];
    char path[sizeof((struct rf_direct *)0)->socket];
    uint8_t token[RF_TOKEN_BYTES];
};

static struct machine machines[MACHINES_MAX];
static rf_lock machines_lock;
static uint32_t connections;

/* Whoever holds the lock is not suspended or ended. */
static struct machine *find_or_make(const struct rf_direct *direct)
{
    struct machine *vacant = NULL;
    for (unsigned i = 0; i < MACHINES_MAX; i++) {
        struct machine *machine = &machines[i];
        uint32_t state = __atomic_load_n(&machine->state, __ATOMIC_ACQUIRE);
        if (state == READY && join_is_same(machine->token, direct->token)) {
            return machine;
        }
        int is_free = state == UNUSED || (state == OVER && __atomic_load_n(&machine->files, __ATOMIC_ACQUIRE) == 0);
        for (unsigned lane = 0; lane < LANES_MAX; lane++) {
            is_free = is_free && machine->lane[lane].owner == 0 && machine->lane[lane].channel == NULL;
        }
        if (vacant == NULL && is_free) {
            vacant = machine;
        }
    }
    if (vacant != NULL) {
        rf_copy(vacant->path, direct->socket, sizeof vacant->path);
        rf_copy(vacant->token, direct->token, RF_TOKEN_BYTES);
        vacant->lanes = direct->lanes < LANES_MAX ? direct->lanes : LANES_MAX;
        __atomic_store_n(&vacant->state, READY, __ATOMIC_RELEASE);
    }
    return vacant;
}

struct machine *machine_of(const struct rf_direct *direct)
{
    size_t length = 0;
    while (length < sizeof direct->socket && direct->socket[length] != 0) {
        length++;
    }
    if (direct->version != RF_DIRECT_VERSION || length == sizeof direct->socket) {
        return NULL;
    }
    uint64_t mask = port_block_signals();
    rf_acquire(&machines_lock);
    struct machine *machine = find_or_make(direct);
    if (machine != NULL) {
        __atomic_add_fetch(&machine->files, 1, __ATOMIC_ACQ_REL);
    }
    rf_unlock(&machines_lock);
    port_restore_signals(mask);
    return machine;
}

void machine_release(struct machine *machine)
{
    __atomic_sub_fetch(&machine->files, 1, __ATOMIC_ACQ_REL);
}

/* Nobody begins to cancel any more; who is at it gets done. */
static void stop_waiting(struct lane *lane)
{
    uint32_t word;
    while (((word = __atomic_load_n(&lane->word, __ATOMIC_ACQUIRE)) & PHASE_MASK) != IDLE) {
        if ((word & PHASE_MASK) == CANCELLING) {
            rf_syscall3(NR_SCHED_YIELD, 0, 0, 0);
        } else {
            __atomic_compare_exchange_n(&lane->word, &word, IDLE, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
        }
    }
}

/* The caller has the lane, and nothing of it is under way, or its thread is gone. */
static void disconnect(struct lane *lane)
{
    struct rf_channel *channel = lane->channel;
    lane->channel = NULL;
    stop_waiting(lane);
    if (channel != NULL) {
        join_close(channel);
    }
}

static struct rf_request_header *header(struct rf_channel *channel, unsigned chain)
{
    uint32_t at = chain == REQUEST ? 0 : DATA_BYTES - CANCEL_BYTES;
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
    stop_waiting(lane);
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

static int connect_lane(struct lane *lane, const struct machine *machine)
{
    struct rf_channel *channel = join_open(machine->path, machine->token, DATA_BYTES, &lane->process);
    if (channel == NULL) {
        return 0;
    }
    /* It is our end of the pipe alone; the VMM has the other one. */
    if (rf_is_error(rf_syscall3(RF_NR_FCNTL, channel->call_fd, F_SETFL, 0))) {
        join_close(channel);
        return 0;
    }
    lane->connection = __atomic_add_fetch(&connections, 1, __ATOMIC_RELAXED);
    lane->channel = channel;
    return 1;
}

static int claim(struct lane *lane, uint32_t of, uint32_t thread)
{
    return __atomic_compare_exchange_n(&lane->owner, &of, thread, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static void give_back(struct lane *lane)
{
    __atomic_store_n(&lane->owner, 0, __ATOMIC_RELEASE);
}

static void end(struct machine *machine)
{
    uint32_t expected = READY, thread = rf_own_thread();
    __atomic_compare_exchange_n(&machine->state, &expected, OVER, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < LANES_MAX; i++) {
        /* Others find out themselves. */
        if (claim(&machine->lane[i], 0, thread)) {
            disconnect(&machine->lane[i]);
            give_back(&machine->lane[i]);
        }
    }
}

/* Connects a lane that the caller has. One thread does so at a time; others' requests go the other way meanwhile. */
static int open_lane(struct machine *machine, unsigned index)
{
    int is_open = 0;
    uint32_t expected = 0;
    uint64_t mask = port_block_signals();
    if (__atomic_compare_exchange_n(&machine->opening, &expected, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        is_open = connect_lane(&machine->lane[index], machine);
        if (!is_open) {
            /* The VMM has all the clients that it takes, or it is gone. */
            __atomic_store_n(&machine->lanes, index, __ATOMIC_RELAXED);
        }
        __atomic_store_n(&machine->opening, 0, __ATOMIC_RELEASE);
    }
    port_restore_signals(mask);
    return is_open;
}

/* A lane that is the caller's alone; null: there is none. */
static struct lane *take_lane(struct machine *machine)
{
    uint32_t thread = rf_own_thread(), lanes = __atomic_load_n(&machine->lanes, __ATOMIC_RELAXED);
    enum { CONNECTED, NEW, LEFT_BEHIND, PASSES };
    for (unsigned pass = CONNECTED; pass < PASSES; pass++) {
        for (unsigned i = 0; i < lanes; i++) {
            struct lane *lane = &machine->lane[i];
            uint32_t owner = __atomic_load_n(&lane->owner, __ATOMIC_RELAXED);
            int is_wanted = pass == LEFT_BEHIND ? owner != 0 && rf_is_thread_gone(owner)
                                                : owner == 0 && (lane->channel != NULL) == (pass == CONNECTED);
            if (!is_wanted || !claim(lane, owner, thread)) {
                continue;
            }
            if (pass == LEFT_BEHIND) {
                disconnect(lane);
            }
            if (lane->channel == NULL && (pass == CONNECTED || !open_lane(machine, i))) {
                give_back(lane);
                return NULL;
            }
            lane->thread = (uint32_t)(uintptr_t)GetCurrentThreadId();
            return lane;
        }
    }
    return NULL;
}

/* The file's number on this connection. */
static enum transfer_outcome borrow(struct machine *machine, struct lane *lane, struct lane_file *file, uint64_t *number)
{
    unsigned index = (unsigned)(lane - machine->lane);
    if (file->lane[index].connection != lane->connection) {
        struct rf_result_header answer;
        const struct transfer question = {.opcode = RF_OP_BORROW};
        lane->file = 0;
        if (exchange(lane, &question, file->owners, &answer) != 0) {
            disconnect(lane);
            end(machine);
            return TRANSFER_NOT_SENT;
        }
        if (answer.status == (uint32_t)STATUS_INVALID_HANDLE) {
            return TRANSFER_NO_FILE;
        }
        if (answer.status != 0) {
            /* A VMM that does not know how, or a process that has ended. */
            disconnect(lane);
            end(machine);
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
        disconnect(lane);
        end(machine);
        return TRANSFER_DONE;
    }
    uint32_t said = answer->status;
    get_data(lane, transfer, answer);
    int is_cancelled = said == RF_STATUS_CANCELLED;
    if (is_cancelled || said == (uint32_t)STATUS_INVALID_HANDLE || said == (uint32_t)STATUS_INVALID_CID) {
        /* The driver says so, or there was no file or process to ask it with; or the service stops, and its driver's cleanup
         * has ended the request. */
        file->lane[lane - machine->lane].connection = 0;
        outcome = borrow(machine, lane, file, &number);
        if (is_cancelled && outcome == TRANSFER_NOT_SENT) {
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
    uint32_t room = DATA_BYTES - CANCEL_BYTES - HEADER - RESULT - 8;
    if (transfer->input_bytes > room || transfer->output_bytes > room - transfer->input_bytes ||
        __atomic_load_n(&machine->state, __ATOMIC_ACQUIRE) != READY) {
        return TRANSFER_NOT_SENT;
    }
    struct lane *lane = take_lane(machine);
    if (lane == NULL) {
        return TRANSFER_NOT_SENT;
    }
    enum transfer_outcome outcome = transfer_by(machine, lane, file, transfer, answer);
    give_back(lane);
    return outcome;
}

/* Cancels what a lane's thread waits for, if it is still that. */
static int cancel(struct lane *lane, uint32_t word)
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

static int cancel_matching(const struct machine *of, DWORD thread, uint64_t owners, const void *status_block)
{
    int is_found = 0;
    for (unsigned i = 0; i < MACHINES_MAX; i++) {
        struct machine *machine = &machines[i];
        for (unsigned at = 0; at < LANES_MAX && (of == NULL || of == machine); at++) {
            struct lane *lane = &machine->lane[at];
            uint32_t word = __atomic_load_n(&lane->word, __ATOMIC_ACQUIRE);
            int is_meant = of == NULL ? lane->thread == thread && lane->file != 0
                                      : lane->file == owners && (status_block == NULL || lane->status_block == status_block);
            if (__atomic_load_n(&lane->owner, __ATOMIC_ACQUIRE) == 0 || !is_meant) {
                continue;
            }
            if ((word & PHASE_MASK) == WAITING) {
                is_found |= cancel(lane, word);
            } else if ((word & PHASE_MASK) != IDLE) {
                /* It was cancelled before. */
                is_found = 1;
            }
        }
    }
    return is_found;
}

int machine_cancel_thread(DWORD thread)
{
    return cancel_matching(NULL, thread, 0, NULL);
}

int machine_cancel_file(const struct machine *machine, uint64_t owners, const void *status_block)
{
    return cancel_matching(machine, 0, owners, status_block);
}
