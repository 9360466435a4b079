/* ringfence-port.dll: a program's in, out, ins and outs, performed in the micro-VMs in which it has a guest process.
 *
 * | file | what |
 * |---|---|
 * | decode.c | which instruction it is |
 * | machines.c | the micro-VMs of this process, and an access by the I/O permission maps of all of them |
 * | join.h | a connection in the guest process of a token: machines.c, lanes.c |
 * | exception.c | the vectored exception handler: every form, and the search for new micro-VMs |
 * | signal.c | in front of Wine's SIGSEGV handler: in and out in a fifth of the time |
 * | patch.c | in front of both: hot in and out instructions become jumps |
 * | children.c | the same for the processes that this one starts |
 * | direct.h | requests for drivers: hook.c, requests.c, handles.c, lanes.c, exchange.c |
 * | dll.c | the entry point |
 *
 * What runs in a signal handler or in place of an instruction uses no C library, no Windows, no thread-local storage and no
 * SSE or x87 register; see the Makefile-like rule in ../build-port.
 */
#ifndef RINGFENCE_PORT_H
#define RINGFENCE_PORT_H
#include <windows.h>

#include <stdint.h>

#include "decode.h"

/* machines.c */

enum port_outcome {
    PORT_DONE,
    PORT_DENIED, /* by the map of each micro-VM, or there is none */
};

/* Whether there is a micro-VM to ask. */
int port_is_ready(void);
/* An access of `width` bytes, `*value` being what is written or read. Any thread; waits for the VMM. `may_rest`: it is a
 * single in of a loop, which is slowed down when it sees nothing new. */
enum port_outcome port_access(int is_write, uint16_t port, uint32_t width, uint32_t *value, int may_rest);
/* How often a micro-VM was found so far. */
uint32_t port_found(void);
/* Asks the proxy driver for the micro-VMs in which this process has a guest process now. Whether there is one that was not
 * known when port_found() was `known`; another thread may have found it. Not in a signal handler. */
int port_search(uint32_t known);

/* exception.c */
void port_start_exceptions(void);

/* signal.c */

/* Puts a handler in front of Wine's, once. */
void port_start_signals(void);
/* Keeps the calling thread from being suspended or ended by Wine, until the mask is restored. */
uint64_t port_block_signals(void);
void port_restore_signals(uint64_t mask);

/* patch.c */

enum port_site_state {
    PORT_SITE_COUNTED, /* an instruction that faults each time */
    PORT_SITE_WANTED,  /* often enough: the vectored handler is to patch it */
    PORT_SITE_PATCHED,
    PORT_SITE_REFUSED, /* it cannot be done, or did not last */
};
struct port_site;

/* What is known of the instruction at `at`. Signal handlers may call these. */
enum port_site_state port_site_state(uintptr_t at);
/* The instruction has faulted, and its access was performed. */
void port_site_count(uintptr_t at, const struct port_instruction *decoded);
/* Whether a patched site is a jump at this moment. */
int port_is_jump(uintptr_t at);
/* The same once nobody patches or undoes; a site that is none any more, because the code there was loaded or written again,
 * is counted anew. Not in a signal handler. */
int port_site_renew(uintptr_t at);
/* Patches an instruction that is wanted. Not in a signal handler. */
void port_patch(uintptr_t at);
/* RINGFENCE_PORT_PATCH=0 in the environment: nothing is patched. */
void port_start_patches(void);

/* children.c */
void port_start_children(HMODULE self);

/* inject.c */

/* kernelbase's CreateProcessInternalW. */
typedef BOOL(WINAPI *create_process)(HANDLE token, const WCHAR *application, WCHAR *command_line,
                                     SECURITY_ATTRIBUTES *process_attributes, SECURITY_ATTRIBUTES *thread_attributes,
                                     BOOL inherits, DWORD flags, void *environment, const WCHAR *folder,
                                     STARTUPINFOW *startup, PROCESS_INFORMATION *information, HANDLE *new_token);

/* Has the main thread of a process that was created suspended load `dll` (ringfence-port64.dll or ringfence-port32.dll; the
 * other one beside it, if the process is of the other width) before the program's own code. Not 0: it is on its way. */
int port_inject(const PROCESS_INFORMATION *process, const WCHAR *dll, create_process create);
/* The same for a process of the caller's width. */
int port_inject_same(HANDLE process, HANDLE thread, const WCHAR *dll);
/* The event that the DLL sets in a process when it is there: `ringfence-port-PID` in `name`. */
void port_event_name(DWORD process, WCHAR name[32]);

#endif
