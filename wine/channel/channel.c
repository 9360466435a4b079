/* Submitting, waiting, completions.
 *
 * One thread at a time waits for the VMM, and hands out what comes; threads that wait for their request meanwhile sleep on
 * `generation`. Requests are done without the lock held.
 */
#include "internal.h"

enum {
    /* A channel with fewer places has none to keep. */
    PLACES_MIN = 512,
    KEPT_FOR_ENDING = 32,
    /* Requests under way of one program, before some places are not for it. */
    MANY = 64,
    KEPT_FOR_OTHERS = 96,
};

static void append(struct rf_request **first, struct rf_request **last, struct rf_request *request)
{
    request->next = NULL;
    if (*first == NULL) {
        *first = request;
    } else {
        (*last)->next = request;
    }
    *last = request;
}

/* Tells whoever made the requests of a list. The lock is not held. */
static void finish(struct rf_request *request)
{
    while (request != NULL) {
        struct rf_request *next = request->next;
        if (request->complete != NULL) {
            request->complete(request);
        } else {
            __atomic_store_n(&request->is_done, 1, __ATOMIC_RELEASE);
        }
        request = next;
    }
}

static void end_request(struct rf_request *request, uint32_t status)
{
    request->status = status;
    request->output_written = 0;
    request->information = 0;
    request->value = 0;
}

/* Whether a request ends others. Such a one must get through when requests that only it can end have all other places. */
static bool is_ending(const struct rf_request *request)
{
    return request->opcode == RF_OP_CANCEL || request->opcode == RF_OP_CLEANUP || request->opcode == RF_OP_CLOSE ||
           request->opcode == RF_OP_EXIT;
}

static uint16_t *in_flight_of(struct rf_channel *channel, const struct rf_request *request)
{
    /* Ids of NT processes are multiples of 4. */
    return &channel->in_flight_of[request->process / 4 % RF_PROCESS_PLACES];
}

/* Whether a request may be under way now. Some places are kept for those that end others; and one program that has very many
 * under way leaves some to the others. */
static bool has_place(struct rf_channel *channel, const struct rf_request *request)
{
    uint32_t under_way = channel->in_flight, max = channel->in_flight_max;
    if (is_ending(request) || max < PLACES_MIN) {
        return under_way < max;
    }
    bool has_many = *in_flight_of(channel, request) >= MANY;
    return under_way + KEPT_FOR_ENDING + (has_many ? KEPT_FOR_OTHERS : 0) < max &&
           (under_way == 0 || rf_queue_leaves(&channel->queue, request, KEPT_FOR_ENDING));
}

/* Puts requests of a list into the ring, as far as they have places. */
static void fill_from(struct rf_channel *channel, struct rf_request **first, struct rf_request **last)
{
    struct rf_request *before = NULL;
    struct rf_request *request = *first;
    while (request != NULL && channel->in_flight < channel->in_flight_max) {
        struct rf_request *next = request->next;
        if (has_place(channel, request)) {
            if (!rf_queue_add(&channel->queue, request)) {
                break;
            }
            channel->in_flight++;
            ++*in_flight_of(channel, request);
            *(before == NULL ? first : &before->next) = next;
            *last = next == NULL ? before : *last;
        } else {
            before = request;
        }
        request = next;
    }
}

/* Puts what waits for room into the ring. Whether the VMM is to be notified. */
static bool fill_ring(struct rf_channel *channel)
{
    fill_from(channel, &channel->ending_first, &channel->ending_last);
    fill_from(channel, &channel->waiting_first, &channel->waiting_last);
    return rf_queue_is_kick_due(&channel->queue);
}

static void kick(struct rf_channel *channel)
{
    uint64_t one = 1;
    /* It does not block, and fails only if the VMM is notified already. */
    rf_syscall3(RF_NR_WRITE, channel->kick_fd, rf_at(&one), sizeof one);
}

/* Takes out what waits for room and would be sent when its handle is closed, or its process has ended. A list of what is done, as
 * cancelled: so the driver's cleanup ends what was sent. The lock is held. */
static struct rf_request *withdraw_with(struct rf_channel *channel, const struct rf_request *ending)
{
    struct rf_request *done = NULL, *last_done = NULL, *left = NULL, *last_left = NULL;
    if (ending->opcode == RF_OP_CANCEL) {
        return NULL;
    }
    while (channel->waiting_first != NULL) {
        struct rf_request *request = channel->waiting_first;
        channel->waiting_first = request->next;
        bool is_handles = ending->opcode == RF_OP_EXIT || request->handle == ending->handle;
        if (request->process == ending->process && is_handles) {
            end_request(request, RF_STATUS_CANCELLED);
            append(&done, &last_done, request);
        } else {
            append(&left, &last_left, request);
        }
    }
    channel->waiting_first = left;
    channel->waiting_last = last_left;
    return done;
}

/* Threads that sleep for their request look again. The lock is held: none is between its look and its sleep. */
static void wake_sleepers(struct rf_channel *channel)
{
    channel->generation++;
    if (channel->sleepers != 0) {
        rf_futex_wake(&channel->generation, 0x7FFFFFFF);
    }
}

void rf_submit(struct rf_channel *channel, struct rf_request *request)
{
    request->is_done = 0;
    request->next = NULL;
    uint32_t status = 0;
    struct rf_request *withdrawn = NULL;
    bool is_kick_due = false;
    rf_acquire(&channel->lock);
    if (channel->end != 0) {
        status = channel->end;
    } else if (request->is_cancelled) {
        status = RF_STATUS_CANCELLED;
    } else if (request->input_bytes > channel->transfer_max || request->output_bytes > channel->transfer_max ||
               !rf_queue_could_hold(&channel->queue, request)) {
        status = RF_STATUS_INVALID_BUFFER_SIZE;
    } else {
        request->tag = channel->next_tag++;
        if (is_ending(request)) {
            withdrawn = withdraw_with(channel, request);
            append(&channel->ending_first, &channel->ending_last, request);
        } else {
            append(&channel->waiting_first, &channel->waiting_last, request);
        }
        is_kick_due = fill_ring(channel);
    }
    rf_unlock(&channel->lock);
    if (is_kick_due) {
        kick(channel);
    }
    if (status != 0) {
        end_request(request, status);
        finish(request);
    }
    if (withdrawn != NULL) {
        finish(withdrawn);
        rf_acquire(&channel->lock);
        wake_sleepers(channel);
        rf_unlock(&channel->lock);
    }
}

/* Takes what the VMM has given back; a list. The lock is held. */
static struct rf_request *reap(struct rf_channel *channel, bool *is_broken)
{
    struct rf_request *first = NULL;
    struct rf_request *last = NULL;
    struct rf_request *request;
    while ((request = rf_queue_take_used(&channel->queue, is_broken)) != NULL) {
        channel->in_flight--;
        --*in_flight_of(channel, request);
        append(&first, &last, request);
    }
    return first;
}

/* Everything is done with a status: what the VMM has, and what waits. Adds to a list. The lock is held. */
static struct rf_request *end_all(struct rf_channel *channel, uint32_t status, struct rf_request *first)
{
    struct rf_request *last = first;
    while (last != NULL && last->next != NULL) {
        last = last->next;
    }
    channel->end = status;
    struct rf_request *request;
    while ((request = rf_queue_take_back(&channel->queue)) != NULL) {
        end_request(request, status);
        append(&first, &last, request);
    }
    struct rf_request **lists[2] = {&channel->ending_first, &channel->waiting_first};
    for (int list = 0; list < 2; list++) {
        while ((request = *lists[list]) != NULL) {
            *lists[list] = request->next;
            end_request(request, status);
            append(&first, &last, request);
        }
    }
    channel->in_flight = 0;
    rf_zero(channel->in_flight_of, sizeof channel->in_flight_of);
    return first;
}

/* What the VMM has cancelled because its client has left was not cancelled by anybody: it ends as the channel does. */
static void end_cancelled(struct rf_request *request)
{
    for (; request != NULL; request = request->next) {
        if (request->status == RF_STATUS_CANCELLED) {
            end_request(request, RF_STATUS_NOT_CONNECTED);
        }
    }
}

/* The VMM's last words; 0: it has not said any. */
static uint32_t farewell(struct rf_channel *channel)
{
    struct rf_farewell words;
    intptr_t received = rf_syscall(RF_NR_RECVFROM, channel->socket_fd, rf_at(&words), sizeof words, RF_MSG_DONTWAIT, 0, 0);
    if (received == -RF_EAGAIN || received == -RF_EINTR) {
        return 0;
    }
    bool is_farewell = received == sizeof words && words.magic == RF_WIRE_MAGIC && words.status != 0;
    return is_farewell ? words.status : RF_STATUS_NOT_CONNECTED;
}

/* Waits until the VMM has given something back: looking for a short while, then asleep. The lock is not held; one thread
 * at a time. Returns the status that the channel ends with, or 0. */
static uint32_t watch(struct rf_channel *channel)
{
    struct rf_queue *queue = &channel->queue;
    if (rf_look(&channel->looking, queue)) {
        return 0;
    }
    rf_queue_arm(queue);
    if (rf_queue_has_used(queue)) {
        return 0;
    }
    struct rf_pollfd polled[2] = {
        {.fd = channel->call_fd, .events = RF_POLLIN},
        {.fd = channel->socket_fd, .events = RF_POLLIN},
    };
    uint64_t asleep = channel->looking.may_look ? rf_now() : 0;
    intptr_t count = rf_syscall3(RF_NR_POLL, rf_at(polled), 2, -1);
    if (rf_is_error(count)) {
        return count == -RF_EINTR ? 0 : RF_STATUS_NOT_CONNECTED;
    }
    if (channel->looking.may_look) {
        rf_slept(&channel->looking, rf_now() - asleep);
    }
    if (polled[0].revents != 0) {
        uint8_t bytes[64];
        /* One read: what is left makes the next poll return. */
        intptr_t taken = rf_syscall3(RF_NR_READ, channel->call_fd, rf_at(bytes), sizeof bytes);
        if (taken == 0 || (rf_is_error(taken) && taken != -RF_EAGAIN && taken != -RF_EINTR)) {
            /* The VMM has closed its end, after its last words. */
            uint32_t words = farewell(channel);
            return words != 0 ? words : RF_STATUS_NOT_CONNECTED;
        }
    }
    return polled[1].revents != 0 ? farewell(channel) : 0;
}

/* Handles completions until `request` is done, or, without one, until the channel has ended and nothing is under way. */
static void run(struct rf_channel *channel, struct rf_request *request)
{
    rf_acquire(&channel->lock);
    for (;;) {
        /* The end is there when whoever noticed it has handed everything out. */
        bool is_over = channel->end != 0 && !channel->is_watched;
        if (request != NULL ? __atomic_load_n(&request->is_done, __ATOMIC_ACQUIRE) != 0 : is_over) {
            break;
        }
        if (channel->is_watched || channel->end != 0) {
            /* Whoever waits hands it out. */
            uint32_t generation = channel->generation;
            channel->sleepers++;
            rf_unlock(&channel->lock);
            rf_futex_wait(&channel->generation, generation);
            rf_acquire(&channel->lock);
            channel->sleepers--;
            continue;
        }
        channel->is_watched = true;
        rf_unlock(&channel->lock);
        uint32_t end = watch(channel);
        rf_acquire(&channel->lock);
        bool is_broken = false;
        struct rf_request *done = reap(channel, &is_broken);
        if (is_broken) {
            end = RF_STATUS_NOT_CONNECTED;
        }
        if (__atomic_load_n(&channel->is_left, __ATOMIC_SEQ_CST)) {
            end = RF_STATUS_NOT_CONNECTED;
            end_cancelled(done);
        }
        bool is_kick_due = false;
        if (end != 0) {
            done = end_all(channel, end, done);
        } else {
            is_kick_due = fill_ring(channel);
        }
        rf_unlock(&channel->lock);
        if (is_kick_due) {
            kick(channel);
        }
        finish(done);
        rf_acquire(&channel->lock);
        channel->is_watched = false;
        wake_sleepers(channel);
    }
    rf_unlock(&channel->lock);
}

uint32_t rf_wait(struct rf_channel *channel, struct rf_request *request)
{
    if (__atomic_load_n(&request->is_done, __ATOMIC_ACQUIRE) == 0) {
        run(channel, request);
    }
    return request->status;
}

uint32_t rf_call(struct rf_channel *channel, struct rf_request *request)
{
    rf_submit(channel, request);
    return rf_wait(channel, request);
}

void rf_run(struct rf_channel *channel)
{
    run(channel, NULL);
}

/* Takes a request out of those that wait for room. The lock is held. */
static bool withdraw(struct rf_channel *channel, struct rf_request *victim)
{
    struct rf_request *before = NULL;
    for (struct rf_request *request = channel->waiting_first; request != NULL; request = request->next) {
        if (request == victim) {
            if (before == NULL) {
                channel->waiting_first = victim->next;
            } else {
                before->next = victim->next;
            }
            if (channel->waiting_last == victim) {
                channel->waiting_last = before;
            }
            victim->next = NULL;
            return true;
        }
        before = request;
    }
    return false;
}

void rf_cancel(struct rf_channel *channel, struct rf_request *victim, struct rf_request *request)
{
    request->opcode = RF_OP_CANCEL;
    request->process = victim->process;
    request->argument = victim->tag;
    rf_acquire(&channel->lock);
    bool is_early = victim->tag == 0;
    victim->is_cancelled = is_early;
    bool is_withdrawn = !is_early && withdraw(channel, victim);
    rf_unlock(&channel->lock);
    if (is_early || is_withdrawn) {
        end_request(request, 0);
        request->next = NULL;
        if (is_withdrawn) {
            end_request(victim, RF_STATUS_CANCELLED);
            finish(victim);
        }
        finish(request);
        rf_acquire(&channel->lock);
        wake_sleepers(channel);
        rf_unlock(&channel->lock);
        return;
    }
    rf_submit(channel, request);
}

void rf_disconnect(struct rf_channel *channel)
{
    /* Without the lock: whoever holds it may never come back (wine/port). */
    __atomic_store_n(&channel->is_left, true, __ATOMIC_SEQ_CST);
    rf_syscall3(RF_NR_SHUTDOWN, channel->socket_fd, RF_SHUT_RDWR, 0);
}

uint32_t rf_process(const struct rf_channel *channel)
{
    return channel->process;
}

uint32_t rf_driver_abi(const struct rf_channel *channel)
{
    return channel->driver_abi;
}

uint32_t rf_transfer_max(const struct rf_channel *channel)
{
    return channel->transfer_max;
}

uint32_t rf_end_status(struct rf_channel *channel)
{
    rf_acquire(&channel->lock);
    uint32_t end = channel->end;
    rf_unlock(&channel->lock);
    return end;
}
