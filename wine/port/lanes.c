/* Connections to the micro-VMs for the program's requests: which there are, and whose.
 *
 * A connection (a lane) is one thread's alone while its request is under way. So no lock is held then: a thread that is
 * suspended keeps its lane and nothing else, and one that is ended leaves a lane that is taken down when its Linux thread is
 * gone. When all lanes have somebody, requests go through winedevice.
 */
#include "lanes.h"

#include "../include/ringfence_wine.h"
#include "join.h"
#include "port.h"

enum {
    MACHINES_MAX = 32,
    F_SETFL = 4,
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

static int claim(struct lane *lane, uint32_t of, uint32_t thread)
{
    return __atomic_compare_exchange_n(&lane->owner, &of, thread, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

unsigned lane_index(const struct machine *machine, const struct lane *lane)
{
    return (unsigned)(lane - machine->lane);
}

int machine_is_ready(const struct machine *machine)
{
    return __atomic_load_n(&machine->state, __ATOMIC_ACQUIRE) == READY;
}

void lane_give_back(struct lane *lane)
{
    __atomic_store_n(&lane->owner, 0, __ATOMIC_RELEASE);
}

void lane_stop_waiting(struct lane *lane)
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

void lane_disconnect(struct lane *lane)
{
    /* Who cancels uses the channel until then. */
    lane_stop_waiting(lane);
    struct rf_channel *channel = lane->channel;
    lane->channel = NULL;
    if (channel != NULL) {
        join_close(channel);
    }
}

/* Disconnects the lanes that nobody has. Whether that is all of them. */
static int disconnect_idle(struct machine *machine)
{
    uint32_t thread = rf_own_thread();
    int are_all = 1;
    for (unsigned i = 0; i < LANES_MAX; i++) {
        if (claim(&machine->lane[i], 0, thread)) {
            lane_disconnect(&machine->lane[i]);
            lane_give_back(&machine->lane[i]);
        } else {
            are_all = 0;
        }
    }
    return are_all;
}

static int is_same_path(const char *left, const char *right)
{
    unsigned at = 0;
    while (left[at] == right[at] && left[at] != 0) {
        at++;
    }
    return left[at] == right[at];
}

/* How well an entry serves for a micro-VM at `path`; 0: it has files. */
static unsigned vacancy(const struct machine *machine, const char *path)
{
    enum { IN_USE, WITHOUT_FILES, VACANT, REPLACED };
    uint32_t state = __atomic_load_n(&machine->state, __ATOMIC_ACQUIRE);
    if (state == UNUSED) {
        return VACANT;
    }
    if (__atomic_load_n(&machine->files, __ATOMIC_ACQUIRE) != 0) {
        return IN_USE;
    }
    /* The service was started again, so the one from before is gone. */
    return is_same_path(machine->path, path) ? REPLACED : state == OVER ? VACANT : WITHOUT_FILES;
}

/* Whoever holds the lock is not suspended or ended. Without files nobody uses a machine, nor begins to: that takes the lock. */
static struct machine *find_or_make(const struct rf_direct *direct)
{
    struct machine *best = NULL;
    unsigned most = 0;
    for (unsigned i = 0; i < MACHINES_MAX; i++) {
        struct machine *machine = &machines[i];
        uint32_t state = __atomic_load_n(&machine->state, __ATOMIC_ACQUIRE);
        if (state == READY && join_is_same(machine->token, direct->token)) {
            return machine;
        }
        unsigned found = vacancy(machine, direct->socket);
        if (found > most) {
            best = machine;
            most = found;
        }
    }
    if (best == NULL || !disconnect_idle(best)) {
        return NULL;
    }
    rf_copy(best->path, direct->socket, sizeof best->path);
    rf_copy(best->token, direct->token, RF_TOKEN_BYTES);
    best->lanes = direct->lanes < LANES_MAX ? direct->lanes : LANES_MAX;
    __atomic_store_n(&best->state, READY, __ATOMIC_RELEASE);
    return best;
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

static int connect_lane(struct lane *lane, const struct machine *machine)
{
    struct rf_channel *channel = join_open(machine->path, machine->token, LANE_DATA_BYTES, &lane->process);
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

void machine_end(struct machine *machine)
{
    uint32_t expected = READY;
    __atomic_compare_exchange_n(&machine->state, &expected, OVER, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    /* Those that have a lane find out themselves. */
    disconnect_idle(machine);
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

struct lane *lane_take(struct machine *machine)
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
                lane_disconnect(lane);
            }
            if (lane->channel == NULL && (pass == CONNECTED || !open_lane(machine, i))) {
                lane_give_back(lane);
                return NULL;
            }
            lane->thread = (uint32_t)(uintptr_t)GetCurrentThreadId();
            return lane;
        }
    }
    return NULL;
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
                is_found |= lane_cancel(lane, word);
            } else if ((word & PHASE_MASK) != IDLE) {
                /* It was cancelled before. */
                is_found = 1;
            }
        }
    }
    return is_found;
}

DWORD machine_waiting_thread(int (*is_it)(DWORD thread, HANDLE handle), HANDLE handle)
{
    for (unsigned i = 0; i < MACHINES_MAX; i++) {
        for (unsigned at = 0; at < LANES_MAX; at++) {
            const struct lane *lane = &machines[i].lane[at];
            DWORD thread = lane->thread;
            if (__atomic_load_n(&lane->owner, __ATOMIC_ACQUIRE) != 0 &&
                (__atomic_load_n(&lane->word, __ATOMIC_ACQUIRE) & PHASE_MASK) != IDLE && is_it(thread, handle)) {
                return thread;
            }
        }
    }
    return 0;
}

int machine_cancel_thread(DWORD thread)
{
    return cancel_matching(NULL, thread, 0, NULL);
}

int machine_cancel_file(const struct machine *machine, uint64_t owners, const void *status_block)
{
    return cancel_matching(machine, 0, owners, status_block);
}
