/* The process `ringfence run`, from its environment to its exec. */
#include "driver.h"

enum {
    NR_CHDIR = RF_NR(80, 12),
    NR_DUP2 = RF_NR(33, 63),
    NR_GETPID = RF_NR(39, 20),
    NR_FORK = RF_NR(57, 2),
    NR_EXECVE = RF_NR(59, 11),
    NR_EXIT_GROUP = RF_NR(231, 252),
    NR_SETSID = RF_NR(112, 66),
    NR_PRCTL = RF_NR(157, 172),
    NR_RT_SIGPROCMASK = RF_NR(14, 175),
    NR_PIPE2 = RF_NR(293, 331),
    NR_CLOSE_RANGE = 436,
    PR_SET_PDEATHSIG = 1,
    SIGTERM = 15,
    SIG_SETMASK = 2,
    F_SETFD = 2,
    F_SETFL = 4,
    O_NONBLOCK = 04000,
    O_RDWR = 2,
    O_APPEND_CREATE = 1 | 02000 | 0100,
    /* Pages for the environment, which is read from the kernel. */
    ENVIRONMENT_BYTES = 256 * 1024,
    ENVIRONMENT_MAX = 4096,
    /* LISTEN_PID= and 10 digits. */
    LISTEN_PID_BYTES = 24,
    /* `ringfence run DRIVER --socket S --policy P`, and the end. */
    ARGUMENTS_MAX = 8 + 2 * OPTIONS_MAX,
};

/* What the micro-VM is run with. Filled in before the fork: the child only makes system calls. */
struct start {
    const char *arguments[ARGUMENTS_MAX];
    const char *environment[ENVIRONMENT_MAX + 6];
    char listen_pid[LISTEN_PID_BYTES];
    char log_name[32 + 3 * NAME_UNITS];
    char folder[PATH_BYTES]; /* of the policy; empty: none */
    const char *log;
    int output;
    int listener;
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
    /* The first of a name counts. */
    start->environment[count++] = "LISTEN_FDS=1";
    start->environment[count++] = "LISTEN_FDNAMES=ringfence-own";
    start->environment[count++] = start->listen_pid;
    start->environment[count++] = start->log_name;
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

/* Says whose lines the micro-VM's are, in a log that services share. */
static void set_log_name(struct start *start, const char *service)
{
    static const char name[] = "RINGFENCE_LOG_NAME=";
    size_t length = sizeof name - 1;
    rf_copy(start->log_name, name, length);
    while (*service != 0) {
        start->log_name[length++] = *service++;
    }
    start->log_name[length] = 0;
}

/* What a policy names without a folder is in its own one: that of Wine's process would be anybody's guess. */
static void set_folder(struct start *start, const char *policy)
{
    size_t length = 0;
    for (size_t at = 0; policy[at] != 0; at++) {
        start->folder[at] = policy[at];
        length = policy[at] == '/' ? at + 1 : length;
    }
    start->folder[length] = 0;
}

/* Says for whom the socket is: the calling process. */
static void set_listen_pid(struct start *start)
{
    static const char name[] = "LISTEN_PID=";
    uint32_t pid = (uint32_t)rf_syscall3(NR_GETPID, 0, 0, 0);
    size_t digits = 1;
    for (uint32_t rest = pid; rest >= 10; rest /= 10) {
        digits++;
    }
    size_t length = sizeof name - 1 + digits;
    rf_copy(start->listen_pid, name, sizeof name - 1);
    start->listen_pid[length] = 0;
    do {
        start->listen_pid[--length] = (char)('0' + pid % 10);
        pid /= 10;
    } while (pid != 0);
}

/* The new process. It shares nothing with Wine any more, and never returns. */
static void __attribute__((noreturn)) become_vm(struct start *start)
{
    uint64_t no_signals = 0;
    rf_syscall3(NR_PRCTL, PR_SET_PDEATHSIG, SIGTERM, 0);
    rf_syscall3(NR_SETSID, 0, 0, 0);
    if (start->folder[0] != 0) {
        /* If it is not there, nor is the policy, which is said then. */
        rf_syscall3(NR_CHDIR, rf_at(start->folder), 0, 0);
    }
    intptr_t null = rf_syscall3(RF_NR_OPEN, rf_at("/dev/null"), O_RDWR, 0);
    intptr_t log = rf_syscall3(RF_NR_OPEN, rf_at(start->log), O_APPEND_CREATE, 0600);
    rf_syscall3(NR_DUP2, null, 0, 0);
    rf_syscall3(NR_DUP2, start->output, 1, 0);
    rf_syscall3(NR_DUP2, rf_is_error(log) ? null : log, 2, 0);
    rf_syscall3(NR_DUP2, start->listener, LISTEN_FD, 0);
    rf_syscall3(RF_NR_FCNTL, LISTEN_FD, F_SETFD, 0);
    rf_syscall3(NR_CLOSE_RANGE, LISTEN_FD + 1, -1, 0);
    set_listen_pid(start);
    rf_syscall(NR_RT_SIGPROCMASK, SIG_SETMASK, rf_at(&no_signals), 0, sizeof no_signals, 0, 0);
    rf_syscall3(NR_EXECVE, rf_at(start->arguments[0]), rf_at(start->arguments), rf_at(start->environment));
    static const char message[] = "ringfence.sys: the program that prefix.conf names cannot be executed\n";
    rf_syscall3(RF_NR_WRITE, 2, rf_at(message), sizeof message - 1);
    rf_syscall3(NR_EXIT_GROUP, 127, 0, 0);
    __builtin_unreachable();
}

NTSTATUS vm_spawn(struct vm *vm, const struct config *config, int listener)
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
    set_log_name(start, config->name8);
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
    for (size_t word = 0; word < config->option_words; word++) {
        *argument++ = config->options[word];
    }
    *argument = NULL;
    set_folder(start, config->policy);
    start->log = config->log;
    start->output = ends[1];
    start->listener = listener;
    intptr_t pid = rf_syscall3(NR_FORK, 0, 0, 0);
    if (pid == 0) {
        become_vm(start);
    }
    rf_close(ends[1]);
    heap_free(start);
    heap_free(text);
    if (rf_is_error(pid)) {
        rf_close(ends[0]);
        log_line("no process can be made for the micro-VM (error %u): the machine or this user has too many, or too little memory",
                 (uint32_t)-pid);
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    rf_syscall3(RF_NR_FCNTL, ends[0], F_SETFL, O_NONBLOCK);
    vm->pid = (int)pid;
    vm->output = ends[0];
    return STATUS_SUCCESS;
}
