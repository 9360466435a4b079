/* ringfence.sys: the driver that Wine loads in the stead of the real one, which runs in a micro-VM.
 *
 * | file | what |
 * |---|---|
 * | entry.c | DriverEntry, DriverUnload, the thread that does what takes time |
 * | config.c | what the installer has written, and the service's registry key |
 * | folder.c | the folder of the sockets |
 * | launch.c | starts the micro-VM, and ends it |
 * | spawn.c | its process |
 * | socket.c | its socket |
 * | state.c | what `ringfence wine list` shows of it |
 * | log.c | the prefix's log |
 * | names.c | the driver's devices and symbolic links, made in Wine's namespace |
 * | process.c | Wine's processes as processes of the guest |
 * | file.c | IRP_MJ_CREATE and IRP_MJ_CLOSE |
 * | transfer.c | IRPs that move data |
 * | work.c | what IRPs come to: waiting, cancelling, completing |
 * | ports.c | the device by which a process gets to its ports |
 * | direct.c | how a program gets to the driver without us |
 *
 * Threads: Wine's main loop calls the dispatch routines, one at a time, for all services; nothing there waits for a driver.
 * The pump waits for the micro-VM and completes IRPs.
 * The keeper does everything else: it starts the micro-VM, keeps names and processes, and cleans up.
 */
#ifndef RINGFENCE_DRIVER_H
#define RINGFENCE_DRIVER_H

#include "nt.h"

#include "../channel/channel.h"
#include "../channel/linux.h"
#include "../include/ringfence_wine.h"

enum {
    /* Bytes of a path on Linux, with its closing zero. */
    PATH_BYTES = 1024,
    /* Units of a service's name, with its closing zero (Windows allows 256). */
    NAME_UNITS = 257,
    /* Processes of Wine at a time: the VMM has 64 for a connection, and WaitForMultipleObjects 64 handles. */
    PROCESSES_MAX = 63,
    SOCKET_BYTES = 108,
    /* Options of `ringfence run` that a service may have; vmm/src/cli/wine/options.rs writes no more. */
    OPTIONS_MAX = 32,
};

/* config.c */
struct config {
    WCHAR name[NAME_UNITS]; /* of the service */
    char name8[3 * NAME_UNITS]; /* the same in UTF-8 */
    char log[PATH_BYTES];
    char ringfence[PATH_BYTES]; /* the program */
    char run[PATH_BYTES];       /* folder of the sockets */
    char driver[PATH_BYTES];
    char policy[PATH_BYTES]; /* empty: everything is denied */
    char socket[SOCKET_BYTES];
    /* Further arguments of `ringfence run`: names of options and their values, in turns. */
    const char *options[2 * OPTIONS_MAX];
    size_t option_words;
};
/* For a service that a program has installed itself: the driver, a path of Linux. Exported to our winedevice.exe, which
 * calls it before DriverEntry. */
void NTAPI RingfenceSetDriver(const char *path);
/* Whether the service whose registry key is `key` is the host: it has no driver, and keeps the process for those that have. */
bool config_is_host(const UNICODE_STRING *key);
/* Reads the configuration of the service whose registry key is `key`. What is wrong goes to the log, as far as that is
 * known. */
NTSTATUS config_read(struct config *config, const UNICODE_STRING *key);

/* log.c. `%s` text, `%w` UTF-16 text, `%u` decimal and `%x` hexadecimal of 32 bits; one line, dated and named. */
void log_begin(const struct config *config);
void log_line(const char *format, ...);
void log_raw(const char *text, size_t bytes);
/* What somebody else has said: each of its lines as one of the service's. The text is changed. */
void log_lines(char *text, size_t bytes);

/* folder.c: makes the folder if it is not there; whether only this user may write to it. What is
 * wrong goes to the log. */
bool folder_make(const char *path);

/* launch.c */
struct vm {
    int pid;    /* 0: not ours, or not running */
    int output; /* the end of the pipe that it writes results to, or -1 */
};
/* Starts the micro-VM of `config`, and waits until it serves; `vm->pid` is 0 if somebody else serves the socket. The thread
 * that calls must live as long as the micro-VM is to. */
struct rf_channel *vm_start(struct vm *vm, const struct config *config, NTSTATUS *status);
/* Has the driver unloaded and the micro-VM end. */
void vm_stop(struct vm *vm, const struct config *config);
/* The micro-VM ended by itself: says why in the log, and for `ringfence wine list`. */
void vm_ended(struct vm *vm);

/* spawn.c: starts the process, which serves `listener`. The thread that calls must live as long as the process is to. */
NTSTATUS vm_spawn(struct vm *vm, const struct config *config, int listener);

/* socket.c */
enum { LISTEN_FD = 3 }; /* where LISTEN_FDS begins */
/* Makes the socket, for its owner alone; a descriptor that is not below LISTEN_FD, or an error, negated. */
intptr_t socket_make(const struct config *config);
/* Has one command executed, and waits at most so long for that. */
void socket_command(const struct config *config, const char *line, size_t bytes, int milliseconds);

/* state.c */
void state_begin(const struct config *config);
/* `reason`: of the micro-VM's end, or empty. */
void state_set(const char *state, const char *reason);
void state_end(void);

/* names.c */
struct name;
struct names {
    struct name *first;
};
/* Makes in Wine's namespace what the micro-VM has, and removes what it has not. `*version`: the count of changes. */
NTSTATUS names_update(struct names *names, DRIVER_OBJECT *driver, struct rf_channel *channel, uint64_t *version,
                      NTSTATUS *not_made);
void names_remove_links(struct names *names);
void names_remove(struct names *names);
/* The name of a device that names_update has made: in the guest it has the same. */
static inline const WCHAR *name_of_device(const DEVICE_OBJECT *device)
{
    return device->DeviceExtension;
}

/* work.c: a request to the micro-VM for an IRP */
struct work {
    struct rf_request request;
    IRP *irp;
    uint32_t answer_bytes; /* with the token in them */
    struct waiting *waits_among;
    struct work *next;
    /* The completion and the cancel routine meet: the second one completes the IRP. */
    uint32_t met;
};
/* What waits before it is sent, oldest first. The lock guards it. */
struct waiting {
    struct work *first;
    struct work *last;
};
/* Null: there is no memory. */
struct work *work_make(IRP *irp);
/* One that asks for a process' token, which is part of an answer of so many bytes. */
struct work *work_for_token(IRP *irp, uint8_t token[RF_TOKEN_BYTES], uint32_t answer_bytes);
/* Its IRP is pending, and can be cancelled; the work then is sent, waits, or fails. */
void work_begin(struct work *work);
void work_send(struct work *work, uint32_t guest, uint64_t handle);
void work_fail(struct work *work, NTSTATUS status);
/* The lock is held. */
void work_wait(struct work *work, struct waiting *waiting);
/* Takes all that waits; a list. The lock is held. */
struct work *waiting_take(struct waiting *waiting);
/* Sends the works of a list, or fails them. */
void work_resume(struct work *first, NTSTATUS status, uint32_t guest, uint64_t handle);
/* The NTSTATUS that programs get for one of the channel. */
NTSTATUS status_for_programs(uint32_t status);
NTSTATUS irp_complete(IRP *irp, NTSTATUS status, ULONG_PTR information);

/* process.c */
/* Sends a work as one of the calling process, now or when that is a process of the guest, which it becomes if `is_wanted`. */
void process_send(struct work *work, bool is_wanted);
/* How many connections for requests the calling process may have: as many as it was granted before, or a share of what is
 * left; one if it has opened nothing. */
uint32_t process_lanes(void);
/* Adds the handles to wait for; returns how many there are. */
ULONG processes_handles(HANDLE *handles);
/* A process has ended. */
void process_ended(HANDLE handle);
void processes_forget(void);

/* file.c: an open file, in FILE_OBJECT.FsContext */
struct file {
    uint64_t handle;
    uint32_t guest;
    uint32_t state; /* enum file_state */
    NTSTATUS status; /* of the open */
    bool is_synchronous; /* opened with FILE_SYNCHRONOUS_IO_NONALERT */
    struct waiting waiting; /* what came before the open was done */
    struct file *next;
};
enum file_state { STATE_OPENING, STATE_OPENED, STATE_FAILED, STATE_GONE };
NTSTATUS dispatch_create(DEVICE_OBJECT *device, IRP *irp);
NTSTATUS dispatch_close(DEVICE_OBJECT *device, IRP *irp);
void files_forget(void);

/* transfer.c */
NTSTATUS dispatch_transfer(DEVICE_OBJECT *device, IRP *irp);

/* ports.c */
void ports_create(DRIVER_OBJECT *driver);
void ports_remove_link(void);
void ports_remove(void);
bool ports_is(const DEVICE_OBJECT *device);
NTSTATUS ports_dispatch(IRP *irp);

/* direct.c */
bool direct_is(const IRP *irp);
NTSTATUS direct_dispatch(IRP *irp);

/* entry.c: the one micro-VM of this image. Each service has an image of its own, and all of them a process. */
struct driver {
    struct config config;
    DRIVER_OBJECT *object;
    struct rf_channel *channel;
    /* Guards files and processes. */
    rf_lock lock;
    HANDLE wake; /* the keeper has something to do */
    bool is_stopping;
    /* Threads of Wine's that are in here: what they use is not given back. */
    uint32_t users;
};
extern struct driver rf;

static inline void driver_enter(void)
{
    __atomic_add_fetch(&rf.users, 1, __ATOMIC_SEQ_CST);
}

static inline void driver_leave(void)
{
    __atomic_sub_fetch(&rf.users, 1, __ATOMIC_SEQ_CST);
}

#endif
