/* Wine's processes as processes of the guest: each has handles and an I/O permission map of its own, from its first open of
 * a device until it ends. (Not until its last handle is closed: a program that GIVEIO.SYS has let at the ports closes the
 * device at once.) */
#include "driver.h"

static struct process processes[PROCESSES_MAX];

enum {
    /* Connections for requests: the VMM has room for 32 clients, of which we are one, and ports need some. The first programs
     * get several each, for their threads. */
    LANES_MAX = 24,
    LANES_EACH = 4,
    LANES_OF_FIRST = 12,
};

static struct process *find(HANDLE pid)
{
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (processes[i].handle != NULL && processes[i].pid == pid) {
            return &processes[i];
        }
    }
    return NULL;
}

static struct process *add(HANDLE pid, NTSTATUS *status)
{
    struct process *process = NULL;
    for (size_t i = 0; i < PROCESSES_MAX && process == NULL; i++) {
        process = processes[i].handle == NULL ? &processes[i] : NULL;
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
    /* What the program has from GetCurrentProcessId and gives its driver is what the driver is to find. */
    struct rf_request attach = {.opcode = RF_OP_ATTACH, .argument = (uint64_t)(ULONG_PTR)pid};
    *status = status_for_programs(rf_call(rf.channel, &attach));
    if (*status != STATUS_SUCCESS) {
        log_line("process %x gets no process in the guest: status %x", (uint32_t)(ULONG_PTR)pid, (uint32_t)*status);
        ZwClose(handle);
        return NULL;
    }
    if (attach.value != (ULONG_PTR)pid) {
        log_line("process %x is %x for its driver", (uint32_t)(ULONG_PTR)pid, (uint32_t)attach.value);
    }
    rf_acquire(&rf.lock);
    process->pid = pid;
    process->guest = (uint32_t)attach.value;
    process->has_token = false;
    process->lanes = 0;
    process->handle = handle;
    rf_unlock(&rf.lock);
    event_set(rf.wake);
    return process;
}

/* Only Wine's main loop makes processes, so there is none between looking and adding. */
struct process *process_current(bool is_wanted, NTSTATUS *status)
{
    HANDLE pid = PsGetCurrentProcessId();
    rf_acquire(&rf.lock);
    struct process *process = find(pid);
    rf_unlock(&rf.lock);
    *status = STATUS_SUCCESS;
    if (process != NULL) {
        return process;
    }
    if (is_wanted) {
        return add(pid, status);
    }
    *status = STATUS_NOT_FOUND;
    return NULL;
}

struct process *process_of_guest(uint32_t guest)
{
    struct process *found = NULL;
    rf_acquire(&rf.lock);
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (processes[i].handle != NULL && processes[i].guest == guest) {
            found = &processes[i];
        }
    }
    rf_unlock(&rf.lock);
    return found;
}

NTSTATUS process_share(struct process *process)
{
    if (process->has_token) {
        return STATUS_SUCCESS;
    }
    NTSTATUS status = status_for_programs(rf_share(rf.channel, process->guest, process->token));
    if (status != STATUS_SUCCESS) {
        log_line("process %x gets no token: status %x", process->guest, (uint32_t)status);
        return status;
    }
    process->has_token = true;
    return STATUS_SUCCESS;
}

uint32_t process_lanes(struct process *process)
{
    uint32_t taken = 0;
    rf_acquire(&rf.lock);
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        taken += processes[i].handle == NULL ? 0 : processes[i].lanes;
    }
    if (process->lanes == 0) {
        process->lanes = taken + LANES_EACH <= LANES_OF_FIRST ? LANES_EACH : taken < LANES_MAX ? 1 : 0;
    }
    uint32_t lanes = process->lanes;
    rf_unlock(&rf.lock);
    return lanes;
}

ULONG processes_handles(HANDLE *handles)
{
    ULONG count = 0;
    rf_acquire(&rf.lock);
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (processes[i].handle != NULL) {
            handles[count++] = processes[i].handle;
        }
    }
    rf_unlock(&rf.lock);
    return count;
}

void process_ended(HANDLE handle)
{
    uint32_t guest = 0;
    rf_acquire(&rf.lock);
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (processes[i].handle == handle) {
            guest = processes[i].guest;
            processes[i].handle = NULL;
        }
    }
    rf_unlock(&rf.lock);
    ZwClose(handle);
    /* Its requests are cancelled, its handles closed, the driver's process routines called. */
    struct rf_request exit = {.opcode = RF_OP_EXIT, .process = guest};
    uint32_t status = rf_call(rf.channel, &exit);
    if (status != 0 && rf_end_status(rf.channel) == 0) {
        log_line("guest process %x cannot be ended: status %x", guest, status);
    }
}

void processes_forget(void)
{
    for (size_t i = 0; i < PROCESSES_MAX; i++) {
        if (processes[i].handle != NULL) {
            ZwClose(processes[i].handle);
            processes[i].handle = NULL;
        }
    }
}
