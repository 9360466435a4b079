/* Wine's way: an in or out of a program is #GP, thus SIGSEGV, thus STATUS_PRIVILEGED_INSTRUCTION. The vectored handler is
 * the first to see it. It knows every form, and it is the only one that looks for micro-VMs. */
#include "direct.h"
#include "port.h"

#ifdef _WIN64
#define REG(context, name) ((context)->R##name)
#else
#define REG(context, name) ((context)->E##name)
#endif

#define EFLAGS_TF 0x100u
#define EFLAGS_DF 0x400u

/* Moves `width` bytes (1, 2 or 4), one side of which is the program's memory. Where that faults, Wine does what it does for
 * any instruction (guard pages, watched pages); if that ends in an exception, `fault` gets it and the result is 0. Where it
 * happened is recognised by the address, so these are instructions of a known place. */
int port_copy(void *to, const void *from, uintptr_t width, EXCEPTION_RECORD *fault);
/* Whether both ends of `width` bytes can be written, in the same way. They keep their contents. */
int port_probe(void *at, void *last, uintptr_t unused, EXCEPTION_RECORD *fault);
extern const char port_moves_begin[], port_moves_end[], port_moves_failed[];
/* port_move and port_probe_pages; direct.h. */
extern const char port_bulk_begin[], port_bulk_end[], port_bulk_failed[];

#ifdef _WIN64
__asm__(".text\n"
        ".globl port_copy, port_probe, port_moves_begin, port_moves_end, port_moves_failed\n"
        "port_copy:\n" /* rcx to, rdx from, r8 width, r9 fault */
        "port_moves_begin:\n"
        "    cmpl $2, %r8d\n"
        "    je 2f\n"
        "    ja 4f\n"
        "    movb (%rdx), %al\n"
        "    movb %al, (%rcx)\n"
        "    jmp 5f\n"
        "2:  movw (%rdx), %ax\n"
        "    movw %ax, (%rcx)\n"
        "    jmp 5f\n"
        "4:  movl (%rdx), %eax\n"
        "    movl %eax, (%rcx)\n"
        "5:  movl $1, %eax\n"
        "    ret\n"
        "port_probe:\n"
        "    lock orb $0, (%rcx)\n"
        "    lock orb $0, (%rdx)\n"
        "    jmp 5b\n"
        "port_moves_end:\n"
        "port_moves_failed:\n"
        "    xorl %eax, %eax\n"
        "    ret\n"
        ".globl port_move, port_probe_pages, port_bulk_begin, port_bulk_end, port_bulk_failed\n"
        "port_move:\n" /* rcx to, rdx from, r8 bytes */
        "    movq %rdi, %r10\n"
        "    movq %rsi, %r11\n"
        "    movq %rcx, %rdi\n"
        "    movq %rdx, %rsi\n"
        "    movq %r8, %rcx\n"
        "port_bulk_begin:\n"
        "    rep movsb\n"
        "    movl $1, %eax\n"
        "1:  movq %r10, %rdi\n"
        "    movq %r11, %rsi\n"
        "    ret\n"
        "port_probe_pages:\n" /* rcx at, rdx bytes */
        "    movq %rdi, %r10\n"
        "    movq %rsi, %r11\n"
        "    leaq -1(%rcx,%rdx), %rdx\n"
        "2:  lock orb $0, (%rcx)\n"
        "    orq $0xFFF, %rcx\n"
        "    incq %rcx\n"
        "    cmpq %rdx, %rcx\n"
        "    jbe 2b\n"
        "    movl $1, %eax\n"
        "    ret\n"
        "port_bulk_end:\n"
        "port_bulk_failed:\n"
        "    xorl %eax, %eax\n"
        "    jmp 1b\n");
#define FAULT(context) ((EXCEPTION_RECORD *)(context)->R9)
#else
__asm__(".text\n"
        ".globl _port_copy, _port_probe, _port_moves_begin, _port_moves_end, _port_moves_failed\n"
        "_port_copy:\n"
        "_port_moves_begin:\n"
        "    movl 4(%esp), %ecx\n"
        "    movl 8(%esp), %edx\n"
        "    cmpl $2, 12(%esp)\n"
        "    je 2f\n"
        "    ja 4f\n"
        "    movb (%edx), %al\n"
        "    movb %al, (%ecx)\n"
        "    jmp 5f\n"
        "2:  movw (%edx), %ax\n"
        "    movw %ax, (%ecx)\n"
        "    jmp 5f\n"
        "4:  movl (%edx), %eax\n"
        "    movl %eax, (%ecx)\n"
        "5:  movl $1, %eax\n"
        "    ret\n"
        "_port_probe:\n"
        "    movl 4(%esp), %ecx\n"
        "    movl 8(%esp), %edx\n"
        "    lock orb $0, (%ecx)\n"
        "    lock orb $0, (%edx)\n"
        "    jmp 5b\n"
        "_port_moves_end:\n"
        "_port_moves_failed:\n"
        "    xorl %eax, %eax\n"
        "    ret\n"
        ".globl _port_move, _port_probe_pages, _port_bulk_begin, _port_bulk_end, _port_bulk_failed\n"
        "_port_move:\n"
        "    pushl %edi\n"
        "    pushl %esi\n"
        "    movl 12(%esp), %edi\n"
        "    movl 16(%esp), %esi\n"
        "    movl 20(%esp), %ecx\n"
        "_port_bulk_begin:\n"
        "    rep movsb\n"
        "    movl $1, %eax\n"
        "1:  popl %esi\n"
        "    popl %edi\n"
        "    ret\n"
        "_port_probe_pages:\n"
        "    pushl %edi\n"
        "    pushl %esi\n"
        "    movl 12(%esp), %ecx\n"
        "    movl 16(%esp), %edx\n"
        "    leal -1(%ecx,%edx), %edx\n"
        "2:  lock orb $0, (%ecx)\n"
        "    orl $0xFFF, %ecx\n"
        "    incl %ecx\n"
        "    cmpl %edx, %ecx\n"
        "    jbe 2b\n"
        "    movl $1, %eax\n"
        "    jmp 1b\n"
        "_port_bulk_end:\n"
        "_port_bulk_failed:\n"
        "    xorl %eax, %eax\n"
        "    jmp 1b\n");
#define FAULT(context) (*(EXCEPTION_RECORD **)((context)->Esp + 16))
#endif

/* The program's bytes at `address` when an instruction uses a segment. */
static uintptr_t segment_base(enum port_segment segment)
{
#ifdef _WIN64
    /* FS is Linux's under Wine and nobody's on Windows. */
    return segment == PORT_GS ? (uintptr_t)NtCurrentTeb() : 0;
#else
    return segment == PORT_FS ? (uintptr_t)NtCurrentTeb() : 0;
#endif
}

static uintptr_t part_mask(unsigned bytes)
{
    return bytes >= sizeof(uintptr_t) ? ~(uintptr_t)0 : ((uintptr_t)1 << (8 * bytes)) - 1;
}

/* A register of which an instruction uses so many bytes. Writing 4 bytes of 8 zeroes the rest, as the processor does. */
static void set_part(uintptr_t *whole, unsigned bytes, uintptr_t value)
{
    uintptr_t mask = part_mask(bytes);
    *whole = bytes == 2 ? (*whole & ~mask) | (value & mask) : value & mask;
}

/* An access as the program's exception handlers may see it: a suspended or ended thread would keep a lock. */
static enum port_outcome access(int is_write, uint16_t port, uint32_t width, uint32_t *value, int may_rest)
{
    uint32_t known = port_found();
    uint64_t mask = port_block_signals();
    enum port_outcome outcome = port_access(is_write, port, width, value, may_rest);
    port_restore_signals(mask);
    if (outcome == PORT_DENIED && port_search(known)) {
        mask = port_block_signals();
        outcome = port_access(is_write, port, width, value, may_rest);
        port_restore_signals(mask);
    }
    return outcome;
}

enum result { CONTINUES, DENIED, FAULTED };

/* ins and outs. The registers are those of a processor that stops between two elements. */
static enum result string(const struct port_instruction *decoded, CONTEXT *context, EXCEPTION_RECORD *record)
{
    uintptr_t *count = (uintptr_t *)&REG(context, cx);
    uintptr_t *index = (uintptr_t *)(decoded->is_write ? &REG(context, si) : &REG(context, di));
    uintptr_t mask = part_mask(decoded->address_bytes);
    uintptr_t step = context->EFlags & EFLAGS_DF ? -(uintptr_t)decoded->width : decoded->width;
    uintptr_t base = decoded->is_write ? segment_base(decoded->segment) : 0;
    uint16_t port = (uint16_t)REG(context, dx);
    EXCEPTION_RECORD fault = {0};

    while (!decoded->is_repeated || (*count & mask) != 0) {
        uint8_t *at = (uint8_t *)(base + (*index & mask));
        uint32_t value = 0;
        /* The processor looks at the memory first: what cannot be stored is not read from the port. */
        int is_memory_there = decoded->is_write ? port_copy(&value, at, decoded->width, &fault)
                                                : port_probe(at, at + decoded->width - 1, 0, &fault);
        if (!is_memory_there) {
            void *address = record->ExceptionAddress;
            *record = fault;
            record->ExceptionAddress = address;
            return FAULTED;
        }
        if (access(decoded->is_write, port, decoded->width, &value, 0) == PORT_DENIED) {
            return DENIED;
        }
        if (!decoded->is_write && !port_copy(at, &value, decoded->width, &fault)) {
            /* The memory was there a moment ago. */
            void *address = record->ExceptionAddress;
            *record = fault;
            record->ExceptionAddress = address;
            return FAULTED;
        }
        set_part(index, decoded->address_bytes, *index + step);
        if (!decoded->is_repeated) {
            return CONTINUES;
        }
        set_part(count, decoded->address_bytes, *count - 1);
    }
    /* None at all: the map has not been looked at. */
    return port_is_ready() || port_search(port_found()) ? CONTINUES : DENIED;
}

static enum result single(const struct port_instruction *decoded, CONTEXT *context)
{
    uintptr_t *accumulator = (uintptr_t *)&REG(context, ax);
    uint16_t port = decoded->is_immediate ? decoded->port : (uint16_t)REG(context, dx);
    uint32_t value = (uint32_t)(*accumulator & part_mask(decoded->width));

    if (access(decoded->is_write, port, decoded->width, &value, 1) == PORT_DENIED) {
        return DENIED;
    }
    if (!decoded->is_write) {
        uintptr_t mask = part_mask(decoded->width);
        *accumulator = decoded->width == 4 ? value : (*accumulator & ~mask) | (value & mask);
    }
    return CONTINUES;
}

static LONG CALLBACK on_exception(EXCEPTION_POINTERS *pointers)
{
    EXCEPTION_RECORD *record = pointers->ExceptionRecord;
    CONTEXT *context = pointers->ContextRecord;
    const char *at = (const char *)REG(context, ip);
    struct port_instruction decoded;
    enum result result;

    if (at >= port_bulk_begin && at < port_bulk_end &&
        (record->ExceptionCode == (DWORD)STATUS_ACCESS_VIOLATION || record->ExceptionCode == (DWORD)STATUS_GUARD_PAGE_VIOLATION ||
         record->ExceptionCode == (DWORD)STATUS_IN_PAGE_ERROR)) {
        REG(context, ip) = (uintptr_t)port_bulk_failed;
        return EXCEPTION_CONTINUE_EXECUTION;
    }
    if (at >= port_moves_begin && at < port_moves_end) {
        *FAULT(context) = *record;
        REG(context, ip) = (uintptr_t)port_moves_failed;
        return EXCEPTION_CONTINUE_EXECUTION;
    }
    if (record->ExceptionCode != (DWORD)STATUS_PRIVILEGED_INSTRUCTION &&
        record->ExceptionCode != (DWORD)STATUS_ACCESS_VIOLATION) {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    if (port_site_state((uintptr_t)at) == PORT_SITE_PATCHED && port_site_renew((uintptr_t)at)) {
        /* It became a jump between the fault and here; an access violation is what Wine makes of it when it has looked at
         * the jump. */
        return EXCEPTION_CONTINUE_EXECUTION;
    }
    if (record->ExceptionCode != (DWORD)STATUS_PRIVILEGED_INSTRUCTION) {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    if (!port_decode((const volatile uint8_t *)at, sizeof(void *) == 8, &decoded)) {
        /* Or it became a jump just now. */
        return port_site_state((uintptr_t)at) == PORT_SITE_PATCHED && port_is_jump((uintptr_t)at)
                   ? EXCEPTION_CONTINUE_EXECUTION
                   : EXCEPTION_CONTINUE_SEARCH;
    }
    result = decoded.is_string ? string(&decoded, context, record) : single(&decoded, context);
    if (result != CONTINUES) {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    port_start_signals();
    if (port_site_state((uintptr_t)at) == PORT_SITE_WANTED) {
        port_patch((uintptr_t)at);
    }
    REG(context, ip) += decoded.length;
    if (context->EFlags & EFLAGS_TF) {
        /* The trap behind the instruction. */
        context->EFlags &= ~EFLAGS_TF;
        record->ExceptionCode = (DWORD)STATUS_SINGLE_STEP;
        record->ExceptionAddress = (void *)REG(context, ip);
        record->NumberParameters = 0;
        return EXCEPTION_CONTINUE_SEARCH;
    }
    return EXCEPTION_CONTINUE_EXECUTION;
}

void port_start_exceptions(void)
{
    AddVectoredExceptionHandler(1, on_exception);
}
