/* In front of Wine's SIGSEGV handler.
 *
 * Most of what an in costs by the vectored handler is Wine's: the context is saved, a frame built, the dispatcher called, the
 * context restored by a system call. A handler of our own that knows what the instruction is returns at once. It does
 * nothing but plain in and out when a micro-VM is known; everything else goes on to Wine's handler, with the registers, stack
 * and signal mask with which Wine's would have been called.
 *
 * What makes that sound: it runs on the stack that Wine gave the thread for signals, with Wine's flags and mask and SIGQUIT
 * besides, so that Wine neither suspends nor ends the thread meanwhile. It touches no thread-local storage, so it does not
 * matter whose FS and GS are. The kernel saves and restores all registers; none of SSE or x87 is used.
 */
#include "port.h"

#include "../channel/linux.h"

enum {
    NR_RT_SIGACTION = RF_NR(13, 174),
    NR_RT_SIGPROCMASK = RF_NR(14, 175),
    SIG_BLOCK_ = 0,
    SIG_SETMASK_ = 2,
    SIGNAL_SEGV = 11,
    TRAP_PROTECTION = 13,
    EFLAGS_TF = 0x100,
    USER_CODE_64 = 0x33,
    USER_CODE_32 = 0x23,
};
/* SIGQUIT ends a thread, SIGUSR1 suspends it (Wine's dlls/ntdll/unix/signal_*.c). */
#define SIGNALS_OF_WINE (1u << (3 - 1) | 1u << (10 - 1))
#define SA_ONSTACK_ 0x08000000u
#define SA_SIGINFO_ 4u

/* struct kernel_sigaction: arch/x86/include/uapi/asm/signal.h. */
struct action {
    void *handler;
    uintptr_t flags;
    void *restorer;
    /* Signals 1 to 32, 33 to 64. Not uint64_t, which Windows aligns to 8 bytes and Linux on i386 does not. */
    uint32_t mask[2];
};

/* struct ucontext with its struct sigcontext: arch/x86/include/uapi/asm/sigcontext.h. */
#ifdef _WIN64
struct user_context {
    uint64_t flags, link, stack[3];
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip, eflags;
    uint16_t cs, gs, fs, ss;
    uint64_t error, trap;
};
#define CODE_SELECTOR USER_CODE_64
#else
struct user_context {
    uint32_t flags, link, stack[3];
    uint16_t gs, gs_high, fs, fs_high, es, es_high, ds, ds_high;
    uint32_t di, si, bp, sp, bx, dx, cx, ax, trap, error, ip;
    uint16_t cs, cs_high;
    uint32_t eflags;
};
#define CODE_SELECTOR USER_CODE_32
#endif

/* Wine's handler. */
void *port_next_handler;

/* Whether it was a port access, which is done. Called by port_signal. */
#ifdef _WIN64
__attribute__((sysv_abi))
#endif
int port_handle_signal(struct user_context *context)
{
    struct port_instruction decoded;
    uint32_t value;
    uint16_t port;

    if (context->trap != TRAP_PROTECTION || context->error != 0 || context->cs != CODE_SELECTOR || !port_is_ready() ||
        (context->eflags & EFLAGS_TF) != 0) {
        return 0;
    }
    switch (port_site_state((uintptr_t)context->ip)) {
    case PORT_SITE_PATCHED:
        /* It became a jump between the fault and here, or is none any more. */
        return port_is_jump((uintptr_t)context->ip);
    case PORT_SITE_WANTED:
        return 0;
    default:
        break;
    }
    if (!port_decode((const volatile uint8_t *)(uintptr_t)context->ip, sizeof(void *) == 8, &decoded) ||
        decoded.is_string) {
        return 0;
    }
    port = decoded.is_immediate ? decoded.port : (uint16_t)context->dx;
    value = (uint32_t)context->ax;
    if (decoded.width != 4) {
        value &= (1u << (8 * decoded.width)) - 1;
    }
    if (port_access(decoded.is_write, port, decoded.width, &value, 1) == PORT_DENIED) {
        return 0;
    }
    if (!decoded.is_write) {
        uintptr_t mask = ((uintptr_t)1 << (8 * (decoded.width & 3))) - 1;
        context->ax = decoded.width == 4 ? value : (context->ax & ~mask) | (value & mask);
    }
    port_site_count((uintptr_t)context->ip, &decoded);
    context->ip += decoded.length;
    return 1;
}

void port_signal(void);

#ifdef _WIN64
__asm__(".text\n"
        ".globl port_signal\n"
        "port_signal:\n" /* as the kernel calls it: rdi signal, rsi siginfo, rdx ucontext */
        "    pushq %rdi\n"
        "    pushq %rsi\n"
        "    pushq %rdx\n"
        "    movq %rdx, %rdi\n"
        "    call port_handle_signal\n"
        "    popq %rdx\n"
        "    popq %rsi\n"
        "    popq %rdi\n"
        "    testl %eax, %eax\n"
        "    jnz 1f\n"
        "    xorl %eax, %eax\n"
        "    jmpq *port_next_handler(%rip)\n"
        "1:  ret\n");
#else
__asm__(".text\n"
        ".globl _port_signal\n"
        "_port_signal:\n" /* on the stack: return address, signal, siginfo, ucontext */
        "    pushl 12(%esp)\n"
        "    call _port_handle_signal\n"
        "    addl $4, %esp\n"
        "    testl %eax, %eax\n"
        "    jnz 1f\n"
        /* The kernel passes them in registers too. */
        "    movl 4(%esp), %eax\n"
        "    movl 8(%esp), %edx\n"
        "    movl 12(%esp), %ecx\n"
        "    jmpl *_port_next_handler\n"
        "1:  ret\n");
#endif

static intptr_t sigaction(const struct action *new, struct action *old)
{
    return rf_syscall(NR_RT_SIGACTION, SIGNAL_SEGV, rf_at(new), rf_at(old), sizeof(uint64_t), 0, 0);
}

/* Whether the Linux process is of this code's width. 32-bit code may run in a 64-bit one ("new WoW64"), where a handler of
 * 32 bits would get the faults of 64-bit code too. */
static int is_own_width(void)
{
    uint8_t head[5] = {0};
    intptr_t file = rf_syscall3(RF_NR_OPEN, rf_at("/proc/self/exe"), RF_O_RDONLY | RF_O_CLOEXEC, 0);
    if (rf_is_error(file)) {
        return 0;
    }
    rf_syscall3(RF_NR_READ, file, rf_at(head), sizeof(head));
    rf_close((int)file);
    return head[0] == 0x7F && head[4] == (sizeof(void *) == 8 ? 2 : 1);
}

void port_start_signals(void)
{
    static LONG is_started;
    struct action wine, own;

    if (__atomic_load_n(&is_started, __ATOMIC_RELAXED) || InterlockedExchange(&is_started, 1) != 0) {
        return;
    }
    if (!is_own_width() || rf_is_error(sigaction(NULL, &wine))) {
        return;
    }
    /* As Wine's are, or it is not understood and left alone. */
    if ((uintptr_t)wine.handler <= 1 || (wine.flags & (SA_SIGINFO_ | SA_ONSTACK_)) != (SA_SIGINFO_ | SA_ONSTACK_)) {
        return;
    }
    port_next_handler = wine.handler;
    own = wine;
    own.handler = (void *)port_signal;
    own.mask[0] |= SIGNALS_OF_WINE;
    /* If it fails, the vectored handler goes on alone. */
    sigaction(&own, NULL);
}

uint64_t port_block_signals(void)
{
    uint64_t wanted = SIGNALS_OF_WINE, before = 0;
    rf_syscall(NR_RT_SIGPROCMASK, SIG_BLOCK_, rf_at(&wanted), rf_at(&before), sizeof(before), 0, 0);
    return before;
}

void port_restore_signals(uint64_t mask)
{
    rf_syscall(NR_RT_SIGPROCMASK, SIG_SETMASK_, rf_at(&mask), 0, sizeof(mask), 0, 0);
}
