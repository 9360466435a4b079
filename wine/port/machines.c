/* NT has one I/O permission map for a process, whichever driver granted a port. Here each driver has its micro-VM, with a map
 * of its own; a port is the program's if one of them allows it. */
#include "port.h"

#include "../channel/linux.h"
#include "../include/ringfence_wine.h"
#include "join.h"
#include "ring.h"

enum {
    MACHINES_MAX = 64,
    /* Connections to a micro-VM, which serves 32. */
    LANES_MAX = 3,
    /* Data area: a request has none but its header. */
    DATA_BYTES = 4096,
    /* A loop on a port that never shows anything new is slowed down after so many reads, by so much more each time. */
    REST_AFTER = 4096,
    REST_STEP_NS = 20000,
    REST_MAX_NS = 1000000,
    REMEMBERED = 64,
    NR_NANOSLEEP = RF_NR(35, 162),
};
#define STATUS_PRIVILEGED 0xC0000096u

enum state { UNUSED, READY, OVER };

/* A connection. A thread that is suspended, or ended, in the middle of an access keeps it, so others open another. */
struct lane {
    struct rf_channel *channel;
    uint32_t process;
};

struct machine {
    uint32_t state;
    /* Threads inside: it is freed when it is over and there are none. */
    uint32_t users;
    uint32_t lanes;
    rf_lock lanes_lock;
    struct lane lane[LANES_MAX];
    char path[sizeof((struct rf_ports *)0)->socket];
    uint8_t token[RF_TOKEN_BYTES];
};

static struct machine machines[MACHINES_MAX];
/* How many entries were ever used. */
static uint32_t used;
static uint32_t ready;
static uint32_t found;
/* One thread adds at a time. Nobody asks wineserver meanwhile: there a thread that is suspended or ended would keep it. */
static rf_lock add_lock;

/* By port: the machine that allowed it last, and what was read from it last. Races cost an access more, or a rest. */
static struct {
    uint16_t port;
    uint8_t machine;
    uint8_t width;
    uint32_t value;
} remembered[REMEMBERED];
static uint32_t unchanged;

int port_is_ready(void)
{
    return __atomic_load_n(&ready, __ATOMIC_RELAXED) != 0;
}

static void end(struct machine *machine)
{
    uint32_t expected = READY;
    if (__atomic_compare_exchange_n(&machine->state, &expected, OVER, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        __atomic_sub_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    }
}

static int open_lane(struct lane *lane, const char *path, const uint8_t token[RF_TOKEN_BYTES])
{
    struct rf_channel *channel = join_open(path, token, DATA_BYTES, &lane->process);
    if (channel == NULL) {
        return 0;
    }
    ring_start(channel);
    lane->channel = channel;
    return 1;
}

/* One more connection, if it is the caller who makes it and there may be one. */
static void add_lane(struct machine *machine, uint32_t known)
{
    uint32_t expected = 0;
    if (known == LANES_MAX) {
        return;
    }
    uint64_t mask = port_block_signals();
    if (!__atomic_compare_exchange_n(&machine->lanes_lock, &expected, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        port_restore_signals(mask);
        return;
    }
    if (machine->lanes == known && open_lane(&machine->lane[known], machine->path, machine->token)) {
        __atomic_store_n(&machine->lanes, known + 1, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&machine->lanes_lock, 0, __ATOMIC_RELEASE);
    port_restore_signals(mask);
}

/* What one machine says: an NTSTATUS; STATUS_PRIVILEGED too when it is over. */
static uint32_t ask(struct machine *machine, int is_write, uint16_t port, uint32_t width, uint32_t *value)
{
    uint32_t status = RING_BUSY;
    __atomic_add_fetch(&machine->users, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&machine->state, __ATOMIC_SEQ_CST) != READY) {
        status = STATUS_PRIVILEGED;
    }
    while (status == RING_BUSY) {
        uint32_t lanes = __atomic_load_n(&machine->lanes, __ATOMIC_ACQUIRE);
        for (uint32_t i = 0; i < lanes && status == RING_BUSY; i++) {
            struct lane *lane = &machine->lane[i];
            status = ring_access(lane->channel, lane->process, is_write, port, width, value);
        }
        if (status == RING_BUSY) {
            add_lane(machine, lanes);
        }
    }
    if (status != 0 && status != STATUS_PRIVILEGED) {
        /* The driver has stopped, the program has no process there any more. */
        end(machine);
        status = STATUS_PRIVILEGED;
    }
    __atomic_sub_fetch(&machine->users, 1, __ATOMIC_SEQ_CST);
    return status;
}

static void rest(uint32_t reads)
{
    uint32_t steps = reads - REST_AFTER;
    struct rf_timespec time = {
        0, steps < REST_MAX_NS / REST_STEP_NS ? (intptr_t)(steps + 1) * REST_STEP_NS : REST_MAX_NS};
    rf_syscall3(NR_NANOSLEEP, rf_at(&time), 0, 0);
}

/* A loop that waits for a port to change keeps its own processor busy, as on Windows; the VMM, which answers it, would keep a
 * second one busy. So it rests between two reads when it has seen nothing new for long; a write or a change ends that. */
static void watch_loop(int is_same)
{
    if (!is_same) {
        __atomic_store_n(&unchanged, 0, __ATOMIC_RELAXED);
        return;
    }
    uint32_t reads = __atomic_load_n(&unchanged, __ATOMIC_RELAXED) + 1;
    if (reads == 0x80000000u) {
        reads--;
    }
    __atomic_store_n(&unchanged, reads, __ATOMIC_RELAXED);
    if (reads > REST_AFTER) {
        rest(reads);
    }
}

enum port_outcome port_access(int is_write, uint16_t port, uint32_t width, uint32_t *value, int may_rest)
{
    unsigned slot = port % REMEMBERED;
    uint32_t count = __atomic_load_n(&used, __ATOMIC_ACQUIRE);
    int is_known = remembered[slot].port == port;
    uint32_t first = is_known ? remembered[slot].machine : 0;
    uint32_t index = first;
    if (count == 0) {
        return PORT_DENIED;
    }
    for (uint32_t tried = 0; tried < count; tried++) {
        if (tried != 0) {
            /* The one that was asked first is not asked again. */
            index = tried <= first ? tried - 1 : tried;
        }
        if (ask(&machines[index], is_write, port, width, value) != 0) {
            continue;
        }
        int is_same = !is_write && may_rest && is_known && remembered[slot].width == width &&
                      remembered[slot].value == *value;
        remembered[slot].port = port;
        remembered[slot].machine = (uint8_t)index;
        if (is_write) {
            remembered[slot].width = 0;
        } else {
            remembered[slot].width = (uint8_t)width;
            remembered[slot].value = *value;
        }
        watch_loop(is_same);
        return PORT_DONE;
    }
    return PORT_DENIED;
}

static int is_known(const uint8_t token[RF_TOKEN_BYTES])
{
    for (uint32_t index = 0; index < used; index++) {
        const struct machine *machine = &machines[index];
        if (join_is_same(machine->token, token) && __atomic_load_n(&machine->state, __ATOMIC_SEQ_CST) == READY) {
            return 1;
        }
    }
    return 0;
}

/* An entry that nobody uses; null: all are in use. */
static struct machine *vacant(void)
{
    for (uint32_t index = 0; index < MACHINES_MAX; index++) {
        struct machine *machine = &machines[index];
        uint32_t state = __atomic_load_n(&machine->state, __ATOMIC_SEQ_CST);
        if (state == UNUSED) {
            return machine;
        }
        if (state == OVER && __atomic_load_n(&machine->users, __ATOMIC_SEQ_CST) == 0) {
            for (uint32_t i = 0; i < machine->lanes; i++) {
                join_close(machine->lane[i].channel);
            }
            machine->lanes = 0;
            return machine;
        }
    }
    return NULL;
}

static void add_locked(const char *path, size_t length, const uint8_t token[RF_TOKEN_BYTES])
{
    struct machine *machine = is_known(token) ? NULL : vacant();
    if (machine == NULL || !open_lane(&machine->lane[0], path, token)) {
        return;
    }
    rf_copy(machine->path, path, length + 1);
    rf_copy(machine->token, token, RF_TOKEN_BYTES);
    machine->lanes = 1;
    __atomic_store_n(&machine->state, READY, __ATOMIC_SEQ_CST);
    uint32_t index = (uint32_t)(machine - machines);
    if (index >= used) {
        __atomic_store_n(&used, index + 1, __ATOMIC_RELEASE);
    }
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&found, 1, __ATOMIC_SEQ_CST);
}

/* Connects to a micro-VM, if it is there and not known. */
static void add(const char *path, const uint8_t token[RF_TOKEN_BYTES])
{
    size_t length = 0;
    while (path[length] != 0) {
        length++;
    }
    if (length >= sizeof machines->path) {
        return;
    }
    uint64_t mask = port_block_signals();
    rf_acquire(&add_lock);
    add_locked(path, length, token);
    rf_unlock(&add_lock);
    port_restore_signals(mask);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* RINGFENCE_PORTS: `PATH=TOKEN`, the token in 32 hexadecimal digits; several with `;` between them. For programs without
 * the proxy driver, such as tests. */
static void search_environment(void)
{
    char text[1024];
    DWORD length = GetEnvironmentVariableA("RINGFENCE_PORTS", text, sizeof text);
    if (length == 0 || length >= sizeof text) {
        return;
    }
    for (char *at = text; *at != 0;) {
        char *path = at, *equals = NULL;
        while (*at != 0 && *at != ';') {
            if (*at == '=') {
                equals = at;
            }
            at++;
        }
        char *behind = at;
        if (*at == ';') {
            at++;
        }
        uint8_t token[RF_TOKEN_BYTES];
        int is_whole = equals != NULL && behind - equals - 1 == 2 * RF_TOKEN_BYTES;
        for (unsigned i = 0; is_whole && i < RF_TOKEN_BYTES; i++) {
            int high = hex_digit(equals[1 + 2 * i]), low = hex_digit(equals[2 + 2 * i]);
            is_whole = high >= 0 && low >= 0;
            token[i] = (uint8_t)(high << 4 | low);
        }
        if (is_whole) {
            *equals = 0;
            add(path, token);
        }
    }
}

/* The devices of the proxy driver. */
static void search_devices(void)
{
    for (unsigned number = 0; number < RF_PORTS_DEVICES; number++) {
        WCHAR name[sizeof(RF_PORTS_DEVICE_W) / sizeof(WCHAR) + 2] = RF_PORTS_DEVICE_W;
        unsigned length = sizeof(RF_PORTS_DEVICE_W) / sizeof(WCHAR) - 1;
        if (number >= 10) {
            name[length++] = (WCHAR)(L'0' + number / 10);
        }
        name[length++] = (WCHAR)(L'0' + number % 10);
        name[length] = 0;
        HANDLE device = CreateFileW(name, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                                    OPEN_EXISTING, 0, NULL);
        if (device == INVALID_HANDLE_VALUE) {
            continue;
        }
        struct rf_ports ports;
        DWORD bytes = 0;
        BOOL is_answered = DeviceIoControl(device, RF_IOCTL_PORTS, NULL, 0, &ports, sizeof ports, &bytes, NULL);
        CloseHandle(device);
        if (is_answered && bytes >= sizeof ports && ports.version == RF_PORTS_VERSION) {
            ports.socket[sizeof ports.socket - 1] = 0;
            add(ports.socket, ports.token);
        }
    }
}

uint32_t port_found(void)
{
    return __atomic_load_n(&found, __ATOMIC_SEQ_CST);
}

int port_search(uint32_t known)
{
    /* The program's own error code is not ours to change. */
    DWORD error = GetLastError();
    if (port_found() == known) {
        search_environment();
        search_devices();
    }
    SetLastError(error);
    return port_found() != known;
}
