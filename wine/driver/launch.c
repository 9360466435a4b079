/* The micro-VM's process: `ringfence run DRIVER --socket S`.
 *
 * The socket is made here and handed down (LISTEN_FDS), so that there is something to connect to at once: the welcome
 * comes as soon as the driver has started, and nobody has to look for it.
 */
#include "driver.h"

enum {
    NR_WAIT4 = RF_NR(61, 114),
    NR_KILL = RF_NR(62, 37),
    NR_UNLINK = RF_NR(87, 10),
    NR_PIDFD_OPEN = 434,
    SIGTERM = 15,
    SIGKILL = 9,
    WNOHANG = 1,
    ADDRESS_IN_USE = 98,
    /* A driver's DriverEntry has 10 s by itself; see `ringfence run --timeout`. */
    START_MS = 30000,
    STOP_MS = 5000,
    DATA_BYTES = sizeof(void *) == 8 ? 64 << 20 : 24 << 20,
};

/* Waits at most so long for the process to end; its exit code, 256 + signal, or -1: it still runs. */
static int wait_for_exit(struct vm *vm, int milliseconds)
{
    uint64_t until = rf_now() + (uint64_t)milliseconds * 1000000;
    struct rf_pollfd polled = {.fd = (int32_t)rf_syscall3(NR_PIDFD_OPEN, vm->pid, 0, 0), .events = RF_POLLIN};
    int32_t status = 0;
    intptr_t pid;
    for (;;) {
        pid = rf_syscall(NR_WAIT4, vm->pid, rf_at(&status), WNOHANG, 0, 0, 0);
        uint64_t now = rf_now();
        if ((pid != 0 && pid != -RF_EINTR) || now >= until) {
            break;
        }
        /* Without a descriptor (before Linux 5.3) it is looked for. */
        intptr_t left = (intptr_t)((uint32_t)((until - now) >> 10) / 976 + 1); /* about milliseconds; i386 divides 32 bits */
        rf_syscall3(RF_NR_POLL, rf_at(&polled), polled.fd >= 0, polled.fd >= 0 ? left : 1);
    }
    if (polled.fd >= 0) {
        rf_close(polled.fd);
    }
    if (pid == 0 || pid == -RF_EINTR) {
        return -1;
    }
    vm->pid = 0;
    /* An error: somebody else has waited for it. */
    return rf_is_error(pid) ? 0 : (status & 0x7F) == 0 ? status >> 8 & 0xFF : 256 + (status & 0x7F);
}

static uint32_t hexadecimal(const char *text)
{
    uint32_t value = 0;
    for (int digit = 0; digit < 8; digit++) {
        char character = text[digit] | 32;
        if (character >= '0' && character <= '9') {
            value = value << 4 | (uint32_t)(character - '0');
        } else if (character >= 'a' && character <= 'f') {
            value = value << 4 | (uint32_t)(character - 'a' + 10);
        } else {
            return 0;
        }
    }
    return value;
}

/* What the micro-VM has said on its standard output. */
enum { SAID_BYTES = 16 << 10, REASON_BYTES = 200 };
struct said {
    uint32_t status; /* the NTSTATUS in it, as "(0xc0000001)", or 0 */
    char reason[REASON_BYTES]; /* the first line of its report, or empty */
};

static bool begins_with(const char *text, size_t bytes, const char *wanted)
{
    size_t at = 0;
    while (wanted[at] != 0 && at < bytes && text[at] == wanted[at]) {
        at++;
    }
    return wanted[at] == 0;
}

/* `ringfence run` says "run: REPORT" or, before the driver has started, "start: REPORT". */
static void find_reason(struct said *said, const char *text, size_t bytes)
{
    for (size_t at = 0; at < bytes && said->reason[0] == 0; at++) {
        bool is_line = at == 0 || text[at - 1] == '\n';
        size_t word = begins_with(text + at, bytes - at, "run: ") ? 5 : begins_with(text + at, bytes - at, "start: ") ? 7 : 0;
        if (!is_line || word == 0) {
            continue;
        }
        size_t length = 0;
        for (at += word; at < bytes && text[at] != '\n' && length < REASON_BYTES - 1; at++) {
            said->reason[length++] = text[at];
        }
        said->reason[length] = 0;
    }
}

/* Writes what the micro-VM has said to the log. */
static void log_output(struct vm *vm, struct said *said)
{
    rf_zero(said, sizeof *said);
    if (vm->output < 0) {
        return;
    }
    char *text = heap_allocate(SAID_BYTES);
    intptr_t got;
    while (text != NULL && (got = rf_syscall3(RF_NR_READ, vm->output, rf_at(text), SAID_BYTES)) > 0) {
        size_t bytes = (size_t)got;
        for (size_t at = 0; said->status == 0 && at + 11 < bytes; at++) {
            if (begins_with(text + at, bytes - at, "(0x")) {
                said->status = hexadecimal(text + at + 3);
            }
        }
        find_reason(said, text, bytes);
        log_lines(text, bytes);
    }
    heap_free(text);
    rf_close(vm->output);
    vm->output = -1;
}

/* Exit codes of `ringfence run`; what the service manager says of a driver that does not start for such a reason. */
static NTSTATUS status_of_exit(int code, uint32_t said)
{
    switch (code) {
    case 1: /* what the driver itself says */
        return said >> 30 == 3 ? (NTSTATUS)said : STATUS_UNSUCCESSFUL;
    case 2: /* usage: the policy or the driver cannot be read */
        return STATUS_INVALID_PARAMETER;
    case 3:
        return STATUS_INVALID_IMAGE_FORMAT;
    case 4:
        return STATUS_DRIVER_UNABLE_TO_LOAD;
    case 5:
        return STATUS_NOT_SUPPORTED;
    case 6:
        return STATUS_IO_TIMEOUT;
    default:
        return STATUS_UNSUCCESSFUL;
    }
}

/* What such an exit means, and what to do. */
static const char *exit_text(int code)
{
    switch (code) {
    case 0:
        return "it was asked to end";
    case 1:
        return "the driver has refused to start, or the machine lacks what a rule of the policy or an option needs; the lines above "
               "say what";
    case 2:
        return "the policy, an option or the driver's file is not as it should be; the lines above say where: correct it, and start "
               "the service again";
    case 3:
        return "the driver's image is rejected; the lines above say why";
    case 4:
        return "the driver has crashed; the report is above";
    case 5:
        return "KVM cannot be used; `ringfence doctor` says why";
    case 6:
        return "the driver has hung; the report is above";
    case 127:
        return "the program that prefix.conf names cannot be executed: run `ringfence wine install` again";
    default:
        return code > 256 ? "its process was killed by a signal" : "its process has ended";
    }
}

/* The number that goes with it. */
static uint32_t exit_number(int code)
{
    return (uint32_t)(code > 256 ? code - 256 : code);
}

static const char *exit_kind(int code)
{
    return code > 256 ? "signal" : "exit code";
}

static struct rf_channel *connect(const struct config *config, struct rf_failure *failure)
{
    return rf_connect(config->socket, DATA_BYTES, START_MS, failure);
}

/* Starts the process; it has the socket then. `*channel` if somebody serves it already, and there is no process. */
static NTSTATUS serve(struct vm *vm, const struct config *config, struct rf_channel **channel)
{
    struct rf_failure failure;
    if (!folder_make(config->run)) {
        return STATUS_ACCESS_DENIED;
    }
    intptr_t listener = socket_make(config);
    if (listener == -ADDRESS_IN_USE) {
        *channel = connect(config, &failure);
        if (*channel != NULL) {
            log_line("%s is served already by somebody else: that micro-VM is used as it is, and left alone when the service stops",
                     config->socket);
            return STATUS_SUCCESS;
        }
        if (failure.error == RF_ECONNREFUSED) {
            /* One that was killed has left it. */
            rf_syscall3(NR_UNLINK, rf_at(config->socket), 0, 0);
            listener = socket_make(config);
        }
    }
    if (rf_is_error(listener)) {
        log_line("the socket %s cannot be made (error %u): make room in its folder, or see to it that this user may write there",
                 config->socket, (uint32_t)-listener);
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    log_line("starting %s with %s", config->driver, config->policy[0] != 0 ? config->policy : "no policy: every port is denied");
    NTSTATUS status = vm_spawn(vm, config, (int)listener);
    /* From here on it is the process's: with it goes what has connected. */
    rf_close((int)listener);
    if (!NT_SUCCESS(status)) {
        rf_syscall3(NR_UNLINK, rf_at(config->socket), 0, 0);
    }
    return status;
}

struct rf_channel *vm_start(struct vm *vm, const struct config *config, NTSTATUS *status)
{
    struct rf_channel *channel = NULL;
    struct rf_failure failure;
    *status = serve(vm, config, &channel);
    if (!NT_SUCCESS(*status)) {
        return NULL;
    }
    state_begin(config);
    if (channel == NULL) {
        channel = connect(config, &failure);
    }
    if (channel != NULL) {
        state_set("running", "");
        return channel;
    }
    /* A connection that broke: the process is about to end. */
    int code = wait_for_exit(vm, failure.status == (uint32_t)STATUS_IO_TIMEOUT ? 0 : STOP_MS);
    if (code >= 0) {
        struct said said;
        log_output(vm, &said);
        *status = status_of_exit(code, said.status);
        log_line("the micro-VM did not start: %s (%s %u, status %x)", exit_text(code), exit_kind(code), exit_number(code),
                 (uint32_t)*status);
    } else {
        log_line("the micro-VM is there, but cannot be used: %s (error %u, status %x); it is ended: start the service again",
                 failure.what, failure.error, failure.status);
        vm_stop(vm, config);
        *status = STATUS_IO_TIMEOUT;
    }
    state_end();
    return NULL;
}

void vm_ended(struct vm *vm)
{
    int code = vm->pid == 0 ? -1 : wait_for_exit(vm, STOP_MS);
    struct said said;
    log_output(vm, &said);
    const char *reason = code >= 0 ? exit_text(code) : "its process still runs, but the connection to it is lost";
    if (code >= 0) {
        log_line("the micro-VM has ended: %s (%s %u); the service must be stopped and started", reason, exit_kind(code),
                 exit_number(code));
    } else {
        log_line("the micro-VM cannot be used any more: %s; the service must be stopped and started", reason);
    }
    state_set("crashed", said.reason[0] != 0 ? said.reason : reason);
}

void vm_stop(struct vm *vm, const struct config *config)
{
    state_set("stopping", "");
    if (vm->pid == 0) {
        state_end();
        return;
    }
    static const char unload[] = "{\"command\":\"unload\"}\n";
    socket_command(config, unload, sizeof unload - 1, STOP_MS);
    rf_syscall3(NR_KILL, vm->pid, SIGTERM, 0);
    int code = wait_for_exit(vm, STOP_MS);
    if (code < 0) {
        log_line("the micro-VM has not ended 5 s after it was asked to (does DriverUnload return?): it is killed");
        rf_syscall3(NR_KILL, vm->pid, SIGKILL, 0);
        wait_for_exit(vm, STOP_MS);
    }
    struct said said;
    log_output(vm, &said);
    state_end();
}
