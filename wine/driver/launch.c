/* The micro-VM's process: `ringfence run DRIVER --socket S`. */
#include "driver.h"

enum {
    NR_DUP2 = RF_NR(33, 63),
    NR_FORK = RF_NR(57, 2),
    NR_EXECVE = RF_NR(59, 11),
    NR_EXIT_GROUP = RF_NR(231, 252),
    NR_WAIT4 = RF_NR(61, 114),
    NR_KILL = RF_NR(62, 37),
    NR_SETSID = RF_NR(112, 66),
    NR_PRCTL = RF_NR(157, 172),
    NR_RT_SIGPROCMASK = RF_NR(14, 175),
    NR_PIPE2 = RF_NR(293, 331),
    NR_CLOSE_RANGE = 436,
    PR_SET_PDEATHSIG = 1,
    SIGTERM = 15,
    SIGKILL = 9,
    SIG_SETMASK = 2,
    WNOHANG = 1,
    NR_FCNTL = RF_NR_FCNTL,
    F_SETFL = 4,
    O_NONBLOCK = 04000,
    O_RDWR = 2,
    O_APPEND_CREATE = 1 | 02000 | 0100,
    /* Pages for the environment, which is read from the kernel. */
    ENVIRONMENT_BYTES = 256 * 1024,
    ENVIRONMENT_MAX = 4096,
    /* A driver's DriverEntry has 10 s by itself; see `ringfence run --timeout`. */
    START_MS = 30000,
    STOP_MS = 5000,
    DATA_BYTES = sizeof(void *) == 8 ? 64 << 20 : 24 << 20,
};

static void sleep_ms(int milliseconds)
{
    rf_syscall3(RF_NR_POLL, 0, 0, milliseconds);
}

/* What the micro-VM is run with. Filled in before the fork: the child only makes system calls. */
struct start {
    const char *arguments[10];
    const char *environment[ENVIRONMENT_MAX + 2];
    const char *log;
    int output;
};

static bool is_log_level(const char *variable)
{
    const char *name = "RINGFENCE_LOG=";
    while (*name != 0 && *name == *variable) {
        name++;
        variable++;
    }
    return *name == 0;
}

/* Wine's environment is Windows'; the kernel still has the one that the process began with. */
static void read_environment(struct start *start, char *text)
{
    size_t length = 0;
    intptr_t fd = rf_syscall3(RF_NR_OPEN, rf_at("/proc/self/environ"), RF_O_RDONLY | RF_O_CLOEXEC, 0);
    if (!rf_is_error(fd)) {
        intptr_t got;
        while (length < ENVIRONMENT_BYTES - 1 &&
               (got = rf_syscall3(RF_NR_READ, fd, rf_at(text + length), (intptr_t)(ENVIRONMENT_BYTES - 1 - length))) > 0) {
            length += (size_t)got;
        }
        rf_close((int)fd);
    }
    text[length] = 0;
    size_t count = 0;
    bool has_level = false;
    for (size_t at = 0; at < length && count < ENVIRONMENT_MAX; at++) {
        start->environment[count++] = text + at;
        has_level |= is_log_level(text + at);
        while (text[at] != 0) {
            at++;
        }
    }
    if (!has_level) {
        /* What drivers print, at the level below, would fill the log. */
        start->environment[count++] = "RINGFENCE_LOG=warn";
    }
    start->environment[count] = NULL;
}

/* The new process. It shares nothing with Wine any more, and never returns. */
static void __attribute__((noreturn)) become_vm(const struct start *start)
{
    uint64_t no_signals = 0;
    rf_syscall3(NR_PRCTL, PR_SET_PDEATHSIG, SIGTERM, 0);
    rf_syscall3(NR_SETSID, 0, 0, 0);
    intptr_t null = rf_syscall3(RF_NR_OPEN, rf_at("/dev/null"), O_RDWR, 0);
    intptr_t log = rf_syscall3(RF_NR_OPEN, rf_at(start->log), O_APPEND_CREATE, 0600);
    rf_syscall3(NR_DUP2, null, 0, 0);
    rf_syscall3(NR_DUP2, start->output, 1, 0);
    rf_syscall3(NR_DUP2, rf_is_error(log) ? null : log, 2, 0);
    rf_syscall3(NR_CLOSE_RANGE, 3, -1, 0);
    rf_syscall(NR_RT_SIGPROCMASK, SIG_SETMASK, rf_at(&no_signals), 0, sizeof no_signals, 0, 0);
    rf_syscall3(NR_EXECVE, rf_at(start->arguments[0]), rf_at(start->arguments), rf_at(start->environment));
    static const char message[] = "ringfence.sys: the program that prefix.conf names cannot be executed\n";
    rf_syscall3(RF_NR_WRITE, 2, rf_at(message), sizeof message - 1);
    rf_syscall3(NR_EXIT_GROUP, 127, 0, 0);
    __builtin_unreachable();
}

static NTSTATUS spawn(struct vm *vm, const struct config *config)
{
    int ends[2];
    struct start *start = heap_allocate(sizeof *start);
    char *text = heap_allocate(ENVIRONMENT_BYTES);
    if (start == NULL || text == NULL || rf_is_error(rf_syscall3(NR_PIPE2, rf_at(ends), RF_O_CLOEXEC, 0))) {
        heap_free(start);
        heap_free(text);
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    read_environment(start, text);
    const char **argument = start->arguments;
    *argument++ = config->ringfence;
    *argument++ = "run";
    *argument++ = config->driver;
    *argument++ = "--socket";
    *argument++ = config->socket;
    if (config->policy[0] != 0) {
        *argument++ = "--policy";
        *argument++ = config->policy;
    }
    *argument = NULL;
    start->log = config->log;
    start->output = ends[1];
    intptr_t pid = rf_syscall3(NR_FORK, 0, 0, 0);
    if (pid == 0) {
        become_vm(start);
    }
    rf_close(ends[1]);
    heap_free(start);
    heap_free(text);
    if (rf_is_error(pid)) {
        rf_close(ends[0]);
        log_line("no process can be made: error %u", (uint32_t)-pid);
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    rf_syscall3(NR_FCNTL, ends[0], F_SETFL, O_NONBLOCK);
    vm->pid = (int)pid;
    vm->output = ends[0];
    return STATUS_SUCCESS;
}

/* Waits at most so long for the process to end; its exit code, 256 + signal, or -1: it still runs. */
static int wait_for_exit(struct vm *vm, int milliseconds)
{
    for (;; milliseconds--) {
        int32_t status = 0;
        intptr_t pid = rf_syscall(NR_WAIT4, vm->pid, rf_at(&status), WNOHANG, 0, 0, 0);
        if (pid == vm->pid || (rf_is_error(pid) && pid != -RF_EINTR)) {
            vm->pid = 0;
            /* An error: somebody else has waited for it. */
            return rf_is_error(pid) ? 0 : (status & 0x7F) == 0 ? status >> 8 & 0xFF : 256 + (status & 0x7F);
        }
        if (milliseconds <= 0) {
            return -1;
        }
        sleep_ms(1);
    }
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

/* Writes what the micro-VM has said to the log. Returns the NTSTATUS in it, as "(0xc0000001)", or 0. */
static uint32_t log_output(struct vm *vm)
{
    uint32_t found = 0;
    if (vm->output < 0) {
        return 0;
    }
    for (;;) {
        char text[1024];
        intptr_t got = rf_syscall3(RF_NR_READ, vm->output, rf_at(text), sizeof text);
        if (got <= 0) {
            break;
        }
        log_raw(text, (size_t)got);
        for (intptr_t at = 0; found == 0 && at + 11 < got; at++) {
            if (text[at] == '(' && text[at + 1] == '0' && text[at + 2] == 'x') {
                found = hexadecimal(text + at + 3);
            }
        }
    }
    rf_close(vm->output);
    vm->output = -1;
    return found;
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

static struct rf_channel *connect(const struct config *config, struct rf_failure *failure)
{
    return rf_connect(config->socket, DATA_BYTES, START_MS, failure);
}

struct rf_channel *vm_start(struct vm *vm, const struct config *config, NTSTATUS *status)
{
    struct rf_failure failure;
    if (!folder_make(config->run)) {
        *status = STATUS_ACCESS_DENIED;
        return NULL;
    }
    struct rf_channel *channel = connect(config, &failure);
    if (channel != NULL) {
        log_line("%s is served already", config->socket);
        return channel;
    }
    log_line("starting %s with %s", config->driver, config->policy[0] != 0 ? config->policy : "no policy: every port is denied");
    *status = spawn(vm, config);
    if (!NT_SUCCESS(*status)) {
        return NULL;
    }
    for (int waited = 0; waited < START_MS; waited++) {
        /* The socket is there before the driver has started: then this waits for the driver. */
        channel = connect(config, &failure);
        if (channel != NULL) {
            return channel;
        }
        int code = wait_for_exit(vm, 0);
        if (code < 0 && failure.error == RF_EPROTO) {
            /* The connection broke: the process is about to end. */
            code = wait_for_exit(vm, STOP_MS);
        }
        if (code >= 0) {
            *status = status_of_exit(code, log_output(vm));
            log_line("the micro-VM did not start: exit code %u, status %x", (uint32_t)code, (uint32_t)*status);
            return NULL;
        }
        sleep_ms(1);
    }
    log_line("the micro-VM does not answer: %s (error %u, status %x)", failure.what, failure.error, failure.status);
    vm_stop(vm, config);
    *status = STATUS_IO_TIMEOUT;
    return NULL;
}

void vm_ended(struct vm *vm)
{
    int code = vm->pid == 0 ? -1 : wait_for_exit(vm, STOP_MS);
    log_output(vm);
    if (code >= 0) {
        log_line("the micro-VM has ended: exit code %u; the service must be stopped and started", (uint32_t)code);
    } else {
        log_line("the connection to the micro-VM is lost; the service must be stopped and started");
    }
}

/* One text command; docs/channel.md: anything that does not begin with a zero is text. */
static void send_command(const struct config *config, const char *line, size_t bytes)
{
    struct rf_sockaddr_un address = {.family = RF_AF_UNIX};
    rf_copy(address.path, config->socket, sizeof address.path);
    intptr_t fd = rf_syscall3(RF_NR_SOCKET, RF_AF_UNIX, RF_SOCK_STREAM | RF_SOCK_CLOEXEC, 0);
    if (rf_is_error(fd)) {
        return;
    }
    struct rf_timeval timeout = {STOP_MS / 1000, 0};
    char reply[256];
    rf_syscall(RF_NR_SETSOCKOPT, fd, RF_SOL_SOCKET, RF_SO_RCVTIMEO, rf_at(&timeout), sizeof timeout, 0);
    if (!rf_is_error(rf_syscall3(RF_NR_CONNECT, fd, rf_at(&address), sizeof address)) &&
        rf_syscall(RF_NR_SENDTO, fd, rf_at(line), (intptr_t)bytes, RF_MSG_NOSIGNAL, 0, 0) == (intptr_t)bytes) {
        /* Its answer is in the micro-VM's log; what matters is that it was done. */
        rf_syscall(RF_NR_RECVFROM, fd, rf_at(reply), sizeof reply, 0, 0, 0);
    }
    rf_close((int)fd);
}

void vm_stop(struct vm *vm, const struct config *config)
{
    if (vm->pid == 0) {
        return;
    }
    static const char unload[] = "{\"command\":\"unload\"}\n";
    send_command(config, unload, sizeof unload - 1);
    rf_syscall3(NR_KILL, vm->pid, SIGTERM, 0);
    int code = wait_for_exit(vm, STOP_MS);
    if (code < 0) {
        log_line("the micro-VM does not end: it is killed");
        rf_syscall3(NR_KILL, vm->pid, SIGKILL, 0);
        wait_for_exit(vm, STOP_MS);
    }
    log_output(vm);
}
