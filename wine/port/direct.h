/* A program's requests, sent to the micro-VM by the program itself.
 *
 * | file | what |
 * |---|---|
 * | hook.c | ntdll's functions become ours |
 * | requests.c | what they do |
 * | handles.c | what is known of each handle |
 * | lanes.c | connections to the micro-VMs |
 * | exchange.c | a request over one |
 *
 * What is out of the ordinary is left to the functions that were there before: then a request goes through wineserver and
 * winedevice, as it would without us.
 */
#ifndef RINGFENCE_PORT_DIRECT_H
#define RINGFENCE_PORT_DIRECT_H
#include <windows.h>
#include <winternl.h>

#include <stdint.h>

#include "../channel/wire.h"

/* NTSTATUS values that windows.h and winternl.h lack. */
#ifndef STATUS_SUCCESS
#define STATUS_SUCCESS ((NTSTATUS)0)
#endif
#define STATUS_NOT_SUPPORTED ((NTSTATUS)0xC00000BB)
#define STATUS_RETRY ((NTSTATUS)0xC000022D)
#define STATUS_NOT_FOUND ((NTSTATUS)0xC0000225)
#define STATUS_ACCESS_DENIED ((NTSTATUS)0xC0000022)
#undef STATUS_INVALID_CID
#define STATUS_INVALID_CID ((NTSTATUS)0xC000000B)
#undef STATUS_DEVICE_REMOVED
#define STATUS_DEVICE_REMOVED ((NTSTATUS)0xC00002B6)

struct rf_direct;

/* hook.c */

struct hook {
    const char *name;
    void *own;
    void **original; /* how the function that was there is called */
};

/* Puts all of them in, or none. 0: ntdll's code is not what is understood here. */
int hook_all(const struct hook *hooks, unsigned count);

/* lanes.c */

enum { LANES_MAX = 4 };

struct machine;

/* The micro-VM of an answer of ringfence.sys, for one more file; null: it cannot be used. */
struct machine *machine_of(const struct rf_direct *direct);
/* The file is gone. */
void machine_release(struct machine *machine);

/* What a file is by a connection: the numbers of its handle. */
struct lane_file {
    uint64_t owners; /* the process's owner's number */
    /* By lane: its number on that connection. */
    struct {
        uint64_t number;
        uint32_t connection; /* 0: not borrowed yet */
    } lane[LANES_MAX];
};

struct transfer {
    uint16_t opcode;
    uint32_t code;
    uint64_t argument;
    const void *input;
    uint32_t input_bytes;
    void *output;
    uint32_t output_bytes;
    int is_output_sent; /* the driver sees what is in it */
    const void *status_block; /* for CancelIoEx */
};

enum transfer_outcome {
    TRANSFER_DONE,
    TRANSFER_NOT_SENT,
    TRANSFER_NO_FILE, /* nor is there such a file: the handle is another one by now */
};

/* Sends a request and waits for its answer. */
enum transfer_outcome machine_transfer(struct machine *machine, struct lane_file *file, const struct transfer *transfer,
                     struct rf_result_header *answer);

/* Cancels requests that threads wait for. Whether there was one. */
int machine_cancel_thread(DWORD thread);
int machine_cancel_file(const struct machine *machine, uint64_t owners, const void *status_block);
/* The thread that waits for a request and is a handle's, by `is_it`; 0: there is none. */
DWORD machine_waiting_thread(int (*is_it)(DWORD thread, HANDLE handle), HANDLE handle);

/* handles.c */

struct file {
    uint32_t state;
    uint32_t users;
    ACCESS_MASK access;
    struct machine *machine;
    struct lane_file lanes;
};

/* What may be asked of a handle that nothing is known of. */
enum handle_use {
    HANDLE_LOOKED_AT, /* nothing */
    HANDLE_TRANSFER,  /* if it was opened by a driver's name */
    HANDLE_CONTROL,   /* it got a driver's control code */
};
/* The file of a handle; null if its requests go the other way. file_leave gives it back. */
struct file *file_enter(HANDLE handle, enum handle_use use);
void file_leave(struct file *file);
/* Requests of the file cannot be sent any more. */
void file_forget(HANDLE handle, const struct file *file);

/* The handle was made. What was known of that number is another handle's, which somebody else has closed. */
void handle_made(HANDLE handle, int may_be_drivers);
/* Whether it may be a driver's by what handle_made was told, or is known to be one. */
int handle_is_candidate(HANDLE handle);
/* The handle is being closed. What is returned is for handle_closed, which comes when it is closed or could not be. */
uint32_t handle_closing(HANDLE handle);
void handle_closed(HANDLE handle, uint32_t closing, int is_closed);

/* requests.c */

typedef NTSTATUS(WINAPI *device_control)(HANDLE handle, HANDLE event, void *apc, void *apc_context, IO_STATUS_BLOCK *io,
                                         ULONG code, void *input, ULONG input_bytes, void *output, ULONG output_bytes);
/* ntdll's own. */
extern device_control original_device_control;
/* RINGFENCE_DIRECT=0 in the environment: everything goes through winedevice. */
void port_start_requests(HMODULE self);

/* exception.c */

/* Moves bytes, one side of which is the program's memory. 0: part of it is not there. */
int port_move(void *to, const void *from, uintptr_t bytes);
/* Whether all of it can be written. It keeps its contents. */
int port_probe_pages(void *at, uintptr_t bytes);

#endif
