/* A program that touches ports, as unmodified programs do: it knows nothing of Ringfence. `ports.exe WHAT` prints what it
 * saw; tests/tests/wine/ports.rs says what that must be. Ports 0x300 to 0x37F keep what is written (the `ram` model).
 *
 * One file, though a long one: the checks share the program, its handler and its accesses.
 *
 * Exit status: 0 all as it should be, 2 a check failed (printed), 3 an exception that nothing took (printed).
 */
#include <windows.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN64
#define REG(context, name) ((context)->R##name)
#else
#define REG(context, name) ((context)->E##name)
#endif

static int failures;

#define CHECK(condition)                                          \
    do {                                                          \
        if (!(condition)) {                                       \
            printf("line %d: %s\n", __LINE__, #condition);        \
            failures++;                                           \
        }                                                         \
    } while (0)

/* What an exception looked like, and how many there were. */
static struct {
    DWORD code;
    uintptr_t address, ip, ax, cx, dx, di, si, parameters, parameter[2];
    int count;
} seen;
/* Bytes to continue behind the instruction; 0: the exception goes on. */
static volatile int skip;

static LONG CALLBACK on_exception(EXCEPTION_POINTERS *pointers)
{
    EXCEPTION_RECORD *record = pointers->ExceptionRecord;
    CONTEXT *context = pointers->ContextRecord;
    if (skip == 0) {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    seen.count++;
    seen.code = record->ExceptionCode;
    seen.address = (uintptr_t)record->ExceptionAddress;
    seen.ip = REG(context, ip);
    seen.ax = REG(context, ax);
    seen.cx = REG(context, cx);
    seen.dx = REG(context, dx);
    seen.di = REG(context, di);
    seen.si = REG(context, si);
    seen.parameters = record->NumberParameters;
    seen.parameter[0] = record->ExceptionInformation[0];
    seen.parameter[1] = record->ExceptionInformation[1];
    REG(context, ip) += skip;
    return EXCEPTION_CONTINUE_EXECUTION;
}

static LONG CALLBACK on_unhandled(EXCEPTION_POINTERS *pointers)
{
    const uint8_t *at = pointers->ExceptionRecord->ExceptionAddress;
    printf("unhandled %08lx\n", pointers->ExceptionRecord->ExceptionCode);
    if (pointers->ExceptionRecord->ExceptionCode == (DWORD)STATUS_PRIVILEGED_INSTRUCTION) {
        fprintf(stderr, "at %p: %02x %02x, port %x\n", at, at[0], at[1], (unsigned)REG(pointers->ContextRecord, dx));
    }
    fflush(stdout);
    TerminateProcess(GetCurrentProcess(), 3);
    return EXCEPTION_EXECUTE_HANDLER;
}

static uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static uint32_t inl(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void outl(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

/* Not granted: what a program's handler sees is what Windows shows. */
static void denied(void)
{
    uintptr_t ax = 0x11223344, cx = 0x55667788, dx = 0x300, di = 0x99, si = 0xAA;
    skip = 1;
    for (int turn = 0; turn < 3; turn++) {
        memset(&seen, 0, sizeof seen);
        __asm__ volatile("1: outb %%al, %%dx" : "+a"(ax), "+c"(cx), "+d"(dx), "+D"(di), "+S"(si) : : "memory");
        CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_PRIVILEGED_INSTRUCTION);
        CHECK(seen.address == seen.ip && *(uint8_t *)seen.address == 0xEE);
        CHECK(seen.parameters == 0);
        CHECK(seen.ax == 0x11223344 && seen.cx == 0x55667788 && seen.dx == 0x300 && seen.di == 0x99 && seen.si == 0xAA);
        CHECK(ax == 0x11223344 && cx == 0x55667788 && dx == 0x300 && di == 0x99 && si == 0xAA);
    }
    skip = 2;
    memset(&seen, 0, sizeof seen);
    uint8_t buffer[4] = {1, 2, 3, 4};
    void *to = buffer;
    uintptr_t count = 4;
    __asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(0x300) : "memory");
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_PRIVILEGED_INSTRUCTION);
    CHECK(to == buffer && count == 4 && buffer[0] == 1);
    skip = 0;
}

/* Every form of in and out with every width. */
static void plain_forms(void)
{
    uintptr_t ax, bx = 0x0123;
    outl(0x340, 0xA1B2C3D4);
    CHECK(inb(0x340) == 0xD4 && inb(0x341) == 0xC3 && inb(0x343) == 0xA1 && inl(0x340) == 0xA1B2C3D4);
    ax = (uintptr_t)0x1122334455667788;
    __asm__ volatile("inb %%dx, %%al" : "+a"(ax) : "d"(0x340));
    CHECK(ax == (((uintptr_t)0x1122334455667788 & ~(uintptr_t)0xFF) | 0xD4));
    ax = (uintptr_t)0x1122334455667788;
    __asm__ volatile("inw %%dx, %%ax" : "+a"(ax) : "d"(0x340));
    CHECK(ax == (((uintptr_t)0x1122334455667788 & ~(uintptr_t)0xFFFF) | 0xC3D4));
    ax = (uintptr_t)0x1122334455667788;
    __asm__ volatile("inl %%dx, %%eax" : "+a"(ax) : "d"(0x340));
    CHECK(ax == 0xA1B2C3D4);
    /* An out changes neither what it does not write nor a register. */
    ax = (uintptr_t)0x1122334455667788;
    __asm__ volatile("outw %%ax, %%dx" : "+a"(ax), "+b"(bx) : "d"(0x342));
    CHECK(ax == (uintptr_t)0x1122334455667788 && bx == 0x0123 && inl(0x340) == 0x7788C3D4);
    __asm__ volatile("outb %%al, %%dx" : "+a"(ax) : "d"(0x341));
    CHECK(inl(0x340) == 0x778888D4);
    /* With the port in the instruction: the forms for ports below 0x100. */
    ax = 0x66778899;
    __asm__ volatile("outl %%eax, $0x80" : "+a"(ax));
    ax = 0;
    __asm__ volatile("inl $0x80, %%eax" : "+a"(ax));
    CHECK(ax == 0x66778899);
    ax = 0xFFFF0000;
    __asm__ volatile("inw $0x82, %%ax" : "+a"(ax));
    CHECK(ax == 0xFFFF6677);
    __asm__ volatile("inb $0x81, %%al" : "+a"(ax));
    CHECK(ax == 0xFFFF6688);
    ax = 0x12;
    __asm__ volatile("outb %%al, $0x81" : "+a"(ax));
    __asm__ volatile("outw %%ax, $0x82" : "+a"(ax));
    CHECK(inl(0x80) == 0x00121299);
    /* Prefixes that mean nothing here. */
    ax = 0;
    __asm__ volatile(".byte 0xF3, 0x3E, 0xEC" : "+a"(ax) : "d"(0x340));
    CHECK(ax == 0xD4);
#ifdef _WIN64
    ax = 0;
    __asm__ volatile(".byte 0x48, 0xED" : "+a"(ax) : "d"(0x340));
    CHECK(ax == 0x778888D4);
#endif
    /* Flags are nobody's business: carry, overflow, direction. */
    uintptr_t flags;
    __asm__ volatile("stc\n\tstd\n\tinb %%dx, %%al\n\tpushf\n\tpop %0\n\tcld" : "=r"(flags), "+a"(ax) : "d"(0x340) : "cc");
    CHECK((flags & 0x401) == 0x401);
}

/* The thread's block (TEB), which keeps its own address. */
static uint32_t own_block(void)
{
    uintptr_t address;
#ifdef _WIN64
    __asm__("movq %%gs:0x30, %0" : "=r"(address));
#else
    __asm__("movl %%fs:0x18, %0" : "=r"(address));
#endif
    return (uint32_t)address;
}

static uint8_t block[64];

/* ins and outs: every width, repeated and not, both directions. */
static void string_forms(void)
{
    void *at;
    uintptr_t count;

    /* The ram model keeps the last value, so outs of a block leave its last element. */
    for (unsigned i = 0; i < sizeof block; i++) {
        block[i] = (uint8_t)(i + 1);
    }
    at = block;
    __asm__ volatile("outsb" : "+S"(at) : "d"(0x350) : "memory");
    CHECK(at == block + 1 && inb(0x350) == 1);
    __asm__ volatile("outsw" : "+S"(at) : "d"(0x350) : "memory");
    CHECK(at == block + 3 && inb(0x350) == 2 && inb(0x351) == 3);
    __asm__ volatile("outsl" : "+S"(at) : "d"(0x350) : "memory");
    CHECK(at == block + 7 && inl(0x350) == 0x07060504);
    count = 5;
    __asm__ volatile("rep outsb" : "+S"(at), "+c"(count) : "d"(0x350) : "memory");
    CHECK(at == block + 12 && count == 0 && inb(0x350) == 12);
    count = 3;
    __asm__ volatile("rep outsl" : "+S"(at), "+c"(count) : "d"(0x350) : "memory");
    CHECK(at == block + 24 && count == 0 && inl(0x350) == 0x18171615);
    /* Downwards. */
    at = block + 40;
    count = 4;
    __asm__ volatile("std\n\trep outsw\n\tcld" : "+S"(at), "+c"(count) : "d"(0x350) : "memory");
    CHECK(at == block + 32 && count == 0 && inb(0x350) == 35);
    /* REPNE is REP here. */
    count = 2;
    at = block;
    __asm__ volatile("repne outsb" : "+S"(at), "+c"(count) : "d"(0x350) : "memory");
    CHECK(at == block + 2 && count == 0 && inb(0x350) == 2);

    outl(0x350, 0xDEADBEEF);
    memset(block, 0, sizeof block);
    at = block;
    __asm__ volatile("insb" : "+D"(at) : "d"(0x350) : "memory");
    __asm__ volatile("insw" : "+D"(at) : "d"(0x350) : "memory");
    __asm__ volatile("insl" : "+D"(at) : "d"(0x350) : "memory");
    CHECK(at == block + 7 && memcmp(block, "\xEF\xEF\xBE\xEF\xBE\xAD\xDE", 8) == 0);
    count = 3;
    __asm__ volatile("rep insw" : "+D"(at), "+c"(count) : "d"(0x352) : "memory");
    CHECK(at == block + 13 && count == 0 && memcmp(block + 7, "\xAD\xDE\xAD\xDE\xAD\xDE", 7) == 0);
    at = block + 30;
    count = 2;
    __asm__ volatile("std\n\trep insl\n\tcld" : "+D"(at), "+c"(count) : "d"(0x350) : "memory");
    CHECK(at == block + 22 && block[26] == 0xEF && block[33] == 0xDE && block[25] == 0 && block[34] == 0);
    count = 0;
    at = block;
    __asm__ volatile("rep insb" : "+D"(at), "+c"(count) : "d"(0x350) : "memory");
    CHECK(at == block && count == 0 && block[0] == 0xEF);

    /* Segments and address sizes. */
#ifdef _WIN64
    /* 67: esi and ecx, whose upper halves become zero. gs:0x30 is the thread's block, whose address is kept there. */
    uint8_t *low = VirtualAlloc((void *)0x20000000, 4096, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
    if (low != NULL) {
        low[0] = 0x77;
        at = low;
        count = (uintptr_t)0x500000001;
        __asm__ volatile("addr32 rep outsb" : "+S"(at), "+c"(count) : "d"(0x350) : "memory");
        CHECK(at == low + 1 && count == 0 && inb(0x350) == 0x77);
        VirtualFree(low, 0, MEM_RELEASE);
    }
    at = (void *)0x30;
    __asm__ volatile("outsl %%gs:(%%rsi), %%dx" : "+S"(at) : "d"(0x350) : "memory");
    CHECK(at == (void *)0x34 && inl(0x350) == own_block());
#else
    at = (void *)0x18;
    __asm__ volatile("outsl %%fs:(%%esi), %%dx" : "+S"(at) : "d"(0x350) : "memory");
    CHECK(at == (void *)0x1C && inl(0x350) == own_block());
#endif
}

/* Memory that is not there: an access violation at the instruction, with the registers of what was done before. */
static void faults(void)
{
    uint8_t *pages = VirtualAlloc(NULL, 8192, MEM_RESERVE, PAGE_READWRITE);
    VirtualAlloc(pages, 4096, MEM_COMMIT, PAGE_READWRITE);
    void *at;
    uintptr_t count;

    skip = 2;
    memset(pages, 0x31, 4096);
    pages[4095] = 0x32;
    memset(&seen, 0, sizeof seen);
    at = pages + 4092;
    count = 10;
    __asm__ volatile("rep outsb" : "+S"(at), "+c"(count) : "d"(0x350) : "memory");
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_ACCESS_VIOLATION);
    CHECK(seen.address == seen.ip && *(uint8_t *)seen.address == 0xF3);
    CHECK(seen.parameters == 2 && seen.parameter[0] == 0 && seen.parameter[1] == (uintptr_t)pages + 4096);
    CHECK(at == pages + 4096 && count == 6 && inb(0x350) == 0x32);

    memset(&seen, 0, sizeof seen);
    outb(0x350, 0x44);
    at = pages + 4093;
    count = 10;
    __asm__ volatile("rep insb" : "+D"(at), "+c"(count) : "d"(0x350) : "memory");
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_ACCESS_VIOLATION);
    CHECK(seen.parameters == 2 && seen.parameter[0] == 1 && seen.parameter[1] == (uintptr_t)pages + 4096);
    CHECK(at == pages + 4096 && count == 7 && pages[4092] == 0x31 && pages[4093] == 0x44 && pages[4095] == 0x44);

    /* Across the edge nothing of the element is stored. */
    memset(&seen, 0, sizeof seen);
    at = pages + 4094;
    skip = 1;
    __asm__ volatile("insl" : "+D"(at) : "d"(0x350) : "memory");
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_ACCESS_VIOLATION);
    CHECK(at == pages + 4094 && pages[4094] == 0x44);
    /* Read-only memory. */
    DWORD before;
    VirtualProtect(pages, 4096, PAGE_READONLY, &before);
    memset(&seen, 0, sizeof seen);
    at = pages;
    __asm__ volatile("insb" : "+D"(at) : "d"(0x350) : "memory");
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_ACCESS_VIOLATION && seen.parameter[0] == 1);
    CHECK(at == pages && pages[0] == 0x31);
    skip = 0;
    /* A guard page is one once. */
    VirtualProtect(pages, 4096, PAGE_READWRITE | PAGE_GUARD, &before);
    skip = 1;
    memset(&seen, 0, sizeof seen);
    __asm__ volatile("outsb" : "+S"(at) : "d"(0x350) : "memory");
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_GUARD_PAGE_VIOLATION && at == pages);
    skip = 0;
    __asm__ volatile("outsb" : "+S"(at) : "d"(0x350) : "memory");
    CHECK(at == pages + 1 && inb(0x350) == 0x31);
    /* Code that is somebody else's business still is: hlt, and in without a grant for the port is tested elsewhere. */
    skip = 1;
    memset(&seen, 0, sizeof seen);
    __asm__ volatile("hlt" : : : "memory");
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_PRIVILEGED_INSTRUCTION);
    memset(&seen, 0, sizeof seen);
    volatile uint8_t *none = NULL;
    skip = 2;
    __asm__ volatile("movb (%1), %%al" : : "a"(0), "c"(none) : "memory");
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_ACCESS_VIOLATION);
    skip = 0;
}

/* A trap behind the instruction, as debuggers use it. */
static void single_step(void)
{
    uintptr_t value = 0;
    outb(0x360, 0x5A);
    skip = 0;
    memset(&seen, 0, sizeof seen);
    /* `nop` is where the trap comes; the handler goes on behind it. */
    skip = 1;
    __asm__ volatile("pushf\n\torl $0x100, (%%" 
#ifdef _WIN64
                     "r"
#else
                     "e"
#endif
                     "sp)\n\tpopf\n\tinb %%dx, %%al\n\tnop\n\tnop"
                     : "+a"(value)
                     : "d"(0x360)
                     : "cc", "memory");
    skip = 0;
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_SINGLE_STEP && *(uint8_t *)seen.ip == 0x90);
    CHECK((value & 0xFF) == 0x5A);
}

static DWORD WINAPI hammer(void *argument)
{
    uint16_t port = (uint16_t)(0x304 + 4 * (uintptr_t)argument);
    uintptr_t wrong = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        uint32_t value = i << 8 | (uint32_t)(uintptr_t)argument;
        outl(port, value);
        wrong += inl(port) != value;
    }
    return (DWORD)wrong;
}

/* Threads at the same time, while others are suspended and resumed. */
static void threads(void)
{
    HANDLE all[4];
    for (uintptr_t i = 0; i < 4; i++) {
        all[i] = CreateThread(NULL, 0, hammer, (void *)i, 0, NULL);
    }
    while (WaitForMultipleObjects(4, all, TRUE, 0) == WAIT_TIMEOUT) {
        for (int i = 0; i < 4; i++) {
            SuspendThread(all[i]);
            /* This thread is not held up by one that is suspended. */
            outb(0x303, (uint8_t)i);
            CHECK(inb(0x303) == i);
            ResumeThread(all[i]);
        }
    }
    for (int i = 0; i < 4; i++) {
        DWORD wrong = 1;
        GetExitCodeThread(all[i], &wrong);
        CHECK(wrong == 0);
    }
}

/* One in of port 0x301, at the same place each time: a function that keeps all registers but eax and edx. */
#ifdef _WIN64
#define SYMBOL(name) name
#else
#define SYMBOL(name) "_" name
#endif
extern const uint8_t hot_in[];
__asm__(".text\n"
        ".globl " SYMBOL("hot_in") "\n"
        "    nop\n"
        SYMBOL("hot_in") ":\n"
        "    inb %dx, %al\n"
        "    ret\n"
        /* With the ret the distance of the jump that the in becomes. */
        "    nop\n"
        "    nop\n"
        "    nop\n");

static uint8_t read_hot(void)
{
    uint32_t value = 0;
    __asm__ volatile("call " SYMBOL("hot_in") : "+a"(value) : "d"(0x301) : "memory");
    return (uint8_t)value;
}

/* Often enough to be a jump, if the place that it leads to can be had. */
static void heat(void)
{
    outb(0x301, 0x77);
    for (int i = 0; i < 200; i++) {
        CHECK(read_hot() == 0x77);
    }
}

/* Whether the in is a jump; 32-bit programs in 64-bit Linux processes have none. */
static int is_hot_jump(void)
{
    BOOL is_wow64 = FALSE;
    IsWow64Process(GetCurrentProcess(), &is_wow64);
    return is_wow64 || *(volatile const uint8_t *)hot_in == 0xE9;
}

/* Code that is loaded again at the same address is what it was in the file. */
static void loaded_again(void)
{
    uint8_t in = *(volatile const uint8_t *)hot_in;
    DWORD before;
    heat();
    CHECK(is_hot_jump());
    for (int turn = 0; turn < 3; turn++) {
        CHECK(VirtualProtect((void *)hot_in, 1, PAGE_EXECUTE_READWRITE, &before));
        *(volatile uint8_t *)hot_in = in;
        VirtualProtect((void *)hot_in, 1, before, &before);
        heat();
        CHECK(is_hot_jump());
    }
}

static volatile LONG hot_reads;

static DWORD WINAPI read_for_ever(void *unused)
{
    (void)unused;
    for (;;) {
        read_hot();
        InterlockedIncrement(&hot_reads);
    }
    return 0;
}

/* A thread that is ended in the middle of an access leaves nothing behind that others need. */
static void ended_threads(void)
{
    heat();
    for (int i = 0; i < 24; i++) {
        LONG reads = hot_reads;
        HANDLE thread = CreateThread(NULL, 0, read_for_ever, NULL, 0, NULL);
        for (int tries = 0; hot_reads < reads + 20 && tries < 5000; tries++) {
            Sleep(1);
        }
        CHECK(hot_reads >= reads + 20);
        TerminateThread(thread, 0);
        WaitForSingleObject(thread, INFINITE);
        CloseHandle(thread);
        outb(0x302, (uint8_t)i);
        CHECK(inb(0x302) == i);
        CHECK(read_hot() == 0x77);
    }
}

/* One byte after the other on the parallel port at 0x378, by its strobe. */
static void print(const char *text)
{
    for (; *text != 0; text++) {
        outb(0x378, (uint8_t)*text);
        outb(0x37A, 0x0D);
        outb(0x37A, 0x0C);
    }
}

/* Waits for a line of the test's. */
static void next(void)
{
    char line[16];
    printf("?\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL) {
        exit(2);
    }
}

/* What one access comes to: its value, or the exception. */
static void try_in(void)
{
    uint32_t value = 0;
    memset(&seen, 0, sizeof seen);
    skip = 1;
    __asm__ volatile("inb %%dx, %%al" : "+a"(value) : "d"(0x300) : "memory");
    skip = 0;
    if (seen.count != 0) {
        printf("exception %08lx\n", seen.code);
    } else {
        printf("value %02x\n", (unsigned)(value & 0xFF));
    }
    fflush(stdout);
}

/* Code for i386 has no names for them, and does not use them. */
#ifdef _WIN64
#define VECTORS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
#else
#define VECTORS
#endif

/* A jump that is undone because its port is not granted any more leaves the program's registers alone. */
static void undone(void)
{
    uint64_t set[8][2], got[8][2];
    uint32_t value = 0;
    heat();
    CHECK(is_hot_jump());
    /* The first says that it is a jump, the second that the port is not granted any more. */
    next();
    next();
    for (int i = 0; i < 8; i++) {
        set[i][0] = 0x0102030405060708u * (unsigned)(i + 1);
        set[i][1] = ~set[i][0];
    }
    memset(&seen, 0, sizeof seen);
    skip = 1;
    __asm__ volatile("movups 0(%[set]), %%xmm0\n movups 16(%[set]), %%xmm1\n movups 32(%[set]), %%xmm2\n"
                     "movups 48(%[set]), %%xmm3\n movups 64(%[set]), %%xmm4\n movups 80(%[set]), %%xmm5\n"
                     "movups 96(%[set]), %%xmm6\n movups 112(%[set]), %%xmm7\n"
                     "call " SYMBOL("hot_in") "\n"
                     "movups %%xmm0, 0(%[got])\n movups %%xmm1, 16(%[got])\n movups %%xmm2, 32(%[got])\n"
                     "movups %%xmm3, 48(%[got])\n movups %%xmm4, 64(%[got])\n movups %%xmm5, 80(%[got])\n"
                     "movups %%xmm6, 96(%[got])\n movups %%xmm7, 112(%[got])"
                     : "+a"(value)
                     : "d"(0x301), [set] "S"(set), [got] "D"(got)
                     : VECTORS "memory", "ecx");
    skip = 0;
    CHECK(seen.count == 1 && seen.code == (DWORD)STATUS_PRIVILEGED_INSTRUCTION);
    CHECK(seen.address == (uintptr_t)hot_in);
    CHECK(memcmp(set, got, sizeof set) == 0);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    AddVectoredExceptionHandler(0, on_exception);
    SetUnhandledExceptionFilter(on_unhandled);
    if (strcmp(what, "forms") == 0) {
        /* The first time through Wine's dispatcher, then by the signal handler, then where code is rewritten. */
        for (int turn = 0; turn < 3; turn++) {
            plain_forms();
        }
        string_forms();
    } else if (strcmp(what, "faults") == 0) {
        faults();
    } else if (strcmp(what, "step") == 0) {
        single_step();
    } else if (strcmp(what, "again") == 0) {
        loaded_again();
    } else if (strcmp(what, "ended") == 0) {
        ended_threads();
    } else if (strcmp(what, "undone") == 0) {
        undone();
    } else if (strcmp(what, "threads") == 0) {
        threads();
    } else if (strcmp(what, "denied") == 0) {
        denied();
    } else if (strcmp(what, "unhandled") == 0) {
        outb(0x300, 1);
        printf("it went through\n");
    } else if (strcmp(what, "try") == 0) {
        /* Once now and once after each line. */
        int times = argc > 2 ? atoi(argv[2]) : 1;
        try_in();
        for (int i = 1; i < times; i++) {
            next();
            try_in();
        }
    } else if (strcmp(what, "giveio") == 0) {
        /* ioperm.sys grants its ports to who opens it, and closing it changes nothing, as with GIVEIO.SYS. */
        SC_HANDLE service = OpenServiceA(OpenSCManagerA(NULL, NULL, SC_MANAGER_CONNECT), "ioperm", SERVICE_START);
        try_in();
        if (!StartServiceA(service, 0, NULL)) {
            printf("no service: error %lu\n", GetLastError());
            return 2;
        }
        HANDLE device = CreateFileA("\\\\.\\ioperm", GENERIC_READ, 0, NULL, OPEN_EXISTING, 0, NULL);
        if (device == INVALID_HANDLE_VALUE) {
            printf("error %lu\n", GetLastError());
            return 2;
        }
        printf("opened\n");
        try_in();
        outb(0x300, 0x3C);
        try_in();
        CloseHandle(device);
        printf("closed\n");
        try_in();
    } else if (strcmp(what, "write") == 0) {
        outb(0x300, (uint8_t)strtoul(argv[2], NULL, 16));
    } else if (strcmp(what, "print") == 0) {
        print(argv[2]);
    } else if (strcmp(what, "start") == 0 || strcmp(what, "leave") == 0) {
        /* The rest is another program, whose exit status is this one's, or which is left alone. */
        STARTUPINFOA startup = {.cb = sizeof startup};
        PROCESS_INFORMATION child;
        int is_left = strcmp(what, "leave") == 0;
        char *rest = strstr(GetCommandLineA(), is_left ? " leave " : " start ");
        DWORD code = 2;
        if (rest == NULL || !CreateProcessA(NULL, rest + 7, NULL, NULL, TRUE, 0, NULL, NULL, &startup, &child)) {
            printf("no child: error %lu\n", GetLastError());
            return 2;
        }
        if (is_left) {
            return 0;
        }
        WaitForSingleObject(child.hProcess, INFINITE);
        GetExitCodeProcess(child.hProcess, &code);
        return (int)code;
    } else if (strcmp(what, "exit") == 0) {
        return atoi(argv[2]);
    } else {
        printf("what?\n");
        return 2;
    }
    printf("%s: %d failures\n", what, failures);
    return failures == 0 ? 0 : 2;
}
