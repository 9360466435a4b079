/* Wine's processes as processes of the guest: each has handles and an I/O permission map of its own, from its first open of
 * a device until it ends. (Not until its last handle is closed: a program that GIVEIO.SYS has let at the ports closes the
 * device at once.)
 *
 * The guest answers when its driver lets it: what a process sends before it has a process there waits here. */
#include "driver.h"

enum process_state { STATE_FREE, STATE_ATTACHING, STATE_ATTACHED, STATE_EXITING };

struct process {
    uint32_t state; /* enum process_state */
    HANDLE pid;
    HANDLE handle; /* signalled when it ends: nobody else gets its id meanwhile */
    uint32_t guest; /* its id in the guest */
    uint32_t lanes; /* connections for requests that it was granted */
    struct waiting waiting; /* until it is attached */
    struct rf_request request; /* that makes it, or ends it */
};
static struct process processes[PROCESSES_MAX];

enum {
    /* Connections for requests: the VMM has room for 32 clients, of which we are one, and ports need some. The first programs
     * get several each, for their threads. */
    LANES_MAX = 24,
    LANES_EACH = 4,
    LANES_OF_FIRST = 12,
};

static bool is_alive(const struct process *process)
{
    return process->state == STATE_ATTACHING || process->state == STATE_ATTACHED;
}

/* The calling process; null: it has opened nothing. The lock is held. */
static struct process *current(void)
{
    HANDLE pid = PsGetCurrentProcessId();
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (is_alive(&processes[i]) && processes[i].pid == pid) {
            return &processes[i];
        }
    }
    return NULL;
}

/* The guest has answered, or nobody will. */
static void attached(struct rf_request *request)
{
    struct process *process = request->context;
    HANDLE handle = process->handle;
    NTSTATUS status = status_for_programs(request->status);
    uint32_t pid = (uint32_t)request->argument, guest = (uint32_t)request->value;
    bool is_attached = status == STATUS_SUCCESS;
    if (!is_attached) {
        log_line("process %x gets no process in the guest: status %x", pid, (uint32_t)status);
    } else if (guest != pid) {
        log_line("process %x is %x for its driver", pid, guest);
    }
    struct work *waiting;
    do {
        rf_acquire(&rf.lock);
        waiting = waiting_take(&process->waiting);
        if (waiting == NULL) {
            process->guest = guest;
            process->state = is_attached ? STATE_ATTACHED : STATE_FREE;
        }
        rf_unlock(&rf.lock);
        work_resume(waiting, status, guest, 0);
    } while (waiting != NULL);
    if (is_attached) {
        /* The keeper is to wait for its end. */
        event_set(rf.wake);
    } else {
        ZwClose(handle);
    }
}

/* An entry for the calling process, whose attaching is to be asked for. Only Wine's main loop makes processes, so there is none
 * between looking and adding. */
static struct process *add(NTSTATUS *status)
{
    HANDLE pid = PsGetCurrentProcessId();
    struct process *process = NULL;
    for (size_t i = 0; i < PROCESSES_MAX && process == NULL; i++) {
        process = __atomic_load_n(&processes[i].state, __ATOMIC_ACQUIRE) == STATE_FREE ? &processes[i] : NULL;
    }
    if (process == NULL) {
        log_line("more than %u programs use the driver", (uint32_t)PROCESSES_MAX);
        *status = STATUS_TOO_MANY_OPENED_FILES;
        return NULL;
    }
    HANDLE handle;
    OBJECT_ATTRIBUTES attributes;
    CLIENT_ID id = {.UniqueProcess = pid};
    InitializeObjectAttributes(&attributes, NULL, 0, NULL, NULL);
    *status = ZwOpenProcess(&handle, SYNCHRONIZE, &attributes, &id);
    if (!NT_SUCCESS(*status)) {
        log_line("process %x cannot be opened: status %x", (uint32_t)(ULONG_PTR)pid, (uint32_t)*status);
        return NULL;
    }
    *process = (struct process){.pid = pid, .handle = handle};
    /* What the program has from GetCurrentProcessId and gives its driver is what the driver is to find. */
    process->request.opcode = RF_OP_ATTACH;
    process->request.argument = (uint64_t)(ULONG_PTR)pid;
    process->request.complete = attached;
    process->request.context = process;
    return process;
}

void process_send(struct work *work, bool is_wanted)
{
    rf_acquire(&rf.lock);
    struct process *process = current();
    bool is_waiting = process != NULL && process->state == STATE_ATTACHING;
    uint32_t guest = process == NULL ? 0 : process->guest;
    if (is_waiting) {
        work_wait(work, &process->waiting);
    }
    rf_unlock(&rf.lock);
    if (process != NULL) {
        if (!is_waiting) {
            work_send(work, guest, 0);
        }
        return;
    }
    NTSTATUS status = STATUS_NOT_FOUND;
    process = is_wanted ? add(&status) : NULL;
    if (process == NULL) {
        work_fail(work, status);
        return;
    }
    rf_acquire(&rf.lock);
    process->state = STATE_ATTACHING;
    work_wait(work, &process->waiting);
    rf_unlock(&rf.lock);
    rf_submit(rf.channel, &process->request);
}

uint32_t process_lanes(void)
{
    uint32_t taken = 0;
    rf_acquire(&rf.lock);
    struct process *process = current();
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        taken += is_alive(&processes[i]) ? processes[i].lanes : 0;
    }
    if (process != NULL && process->lanes == 0) {
        process->lanes = taken + LANES_EACH <= LANES_OF_FIRST ? LANES_EACH : taken < LANES_MAX ? 1 : 0;
    }
    uint32_t lanes = process == NULL ? 1 : process->lanes;
    rf_unlock(&rf.lock);
    return lanes;
}

ULONG processes_handles(HANDLE *handles)
{
    ULONG count = 0;
    rf_acquire(&rf.lock);
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (processes[i].state == STATE_ATTACHED) {
            handles[count++] = processes[i].handle;
        }
    }
    rf_unlock(&rf.lock);
    return count;
}

static void exited(struct rf_request *request)
{
    struct process *process = request->context;
    if (request->status != 0 && rf_end_status(rf.channel) == 0) {
        log_line("guest process %x cannot be ended: status %x", request->process, request->status);
    }
    __atomic_store_n(&process->state, STATE_FREE, __ATOMIC_RELEASE);
}

void process_ended(HANDLE handle)
{
    struct process *process = NULL;
    rf_acquire(&rf.lock);
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (processes[i].state == STATE_ATTACHED && processes[i].handle == handle) {
            process = &processes[i];
            process->state = STATE_EXITING;
        }
    }
    rf_unlock(&rf.lock);
    if (process == NULL) {
        return;
    }
    ZwClose(handle);
    /* Its requests are cancelled, its handles closed, the driver's process routines called. */
    process->request = (struct rf_request){
        .opcode = RF_OP_EXIT,
        .process = process->guest,
        .complete = exited,
        .context = process,
    };
    rf_submit(rf.channel, &process->request);
}

void processes_forget(void)
{
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (processes[i].state == STATE_ATTACHED) {
            ZwClose(processes[i].handle);
        }
        processes[i].state = STATE_FREE;
    }
}
