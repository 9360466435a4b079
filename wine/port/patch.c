/* In front of the fault: an in or out that a program executes often becomes a jump.
 *
 * The fault alone costs several times what the access does. But an in is one or two bytes long, and a jump is five, so the
 * bytes behind it would have to give way; nobody can tell who jumps to them. So they stay as they are: only the first byte
 * becomes E9, the opcode of a jump, and the four bytes behind it *are* its distance, whatever they happen to say. The place
 * that they lead to is where a few bytes of code are put. If that place is taken, the instruction goes on faulting.
 *
 * What makes that sound: one byte is written, by one store, so every processor sees the old instruction or the jump; whoever
 * jumps behind the first byte finds what was there before; nothing else of the program changes. Only code of an image is
 * patched: code that was made at run time may be written again. A patch is undone as soon as an access is denied: then the
 * instruction itself faults, where it is, as on Windows. Programs that compare their code with a checksum see the E9:
 * RINGFENCE_PORT_PATCH=0 is for them.
 */
#include "port.h"

#include "../channel/linux.h"

enum {
    SITES_MAX = 512,
    /* Faults before it is worth it. */
    HITS = 64,
    /* Undone so often, it is left alone. */
    UNDONE_MAX = 4,
    JUMP = 0xE9,
    JUMP_BYTES = 5,
    GRANULE = 0x10000,
    PAGE = 0x1000,
    PROT_EXEC_ = 4,
#ifdef _WIN64
    /* call *8(%rip); the site; the routine. */
    ROOM = 6 + 8 + 8,
#else
    /* call *routine; the site; the routine. */
    ROOM = 6 + 4 + 4,
#endif
};

/* The 64-bit forms keep the whole addresses of the last x87 instruction and its operand. */
#ifdef _WIN64
#define XSAVE "xsave64"
#define XRSTOR "xrstor64"
#define FXSAVE "fxsave64"
#define FXRSTOR "fxrstor64"
#else
#define XSAVE "xsave"
#define XRSTOR "xrstor"
#define FXSAVE "fxsave"
#define FXRSTOR "fxrstor"
#endif

struct port_site {
    uintptr_t at; /* 0: unused */
    uint32_t state;
    uint32_t hits;
    uint32_t undone;
    uint8_t first; /* the byte that the jump has replaced */
    struct port_instruction decoded;
    uintptr_t room; /* what the jump leads to, once there was one */
};

static struct port_site sites[SITES_MAX];
static uint32_t is_off;
static uint32_t has_xsave;
/* Held for patching and undoing: in ordinary code only. */
static uint32_t patch_lock;

/* What the entry code has saved, from the stack's top. */
struct frame {
#ifdef _WIN64
    uintptr_t bp, r11, r10, r9, r8, dx, cx, ax, flags, next;
#else
    uintptr_t bp, dx, cx, ax, flags, next;
#endif
};

static struct port_site *find(uintptr_t at)
{
    uint32_t start = (uint32_t)(at ^ at >> 9) % SITES_MAX;
    for (uint32_t i = 0; i < SITES_MAX; i++) {
        struct port_site *site = &sites[(start + i) % SITES_MAX];
        uintptr_t found = __atomic_load_n(&site->at, __ATOMIC_ACQUIRE);
        if (found == at) {
            return site;
        }
        if (found == 0) {
            return NULL;
        }
    }
    return NULL;
}

enum port_site_state port_site_state(uintptr_t at)
{
    struct port_site *site = find(at);
    return site == NULL ? PORT_SITE_COUNTED : __atomic_load_n(&site->state, __ATOMIC_ACQUIRE);
}

void port_site_count(uintptr_t at, const struct port_instruction *decoded)
{
    struct port_site *site = find(at);
    if (is_off) {
        return;
    }
    if (site == NULL) {
        uint32_t start = (uint32_t)(at ^ at >> 9) % SITES_MAX;
        for (uint32_t i = 0; i < SITES_MAX && site == NULL; i++) {
            uintptr_t unused = 0;
            struct port_site *candidate = &sites[(start + i) % SITES_MAX];
            if (__atomic_compare_exchange_n(&candidate->at, &unused, at, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
                site = candidate;
            } else if (unused == at) {
                /* Another thread has just done it, and counts. */
                return;
            }
        }
        if (site == NULL) {
            return;
        }
        site->decoded = *decoded;
    }
    if (__atomic_load_n(&site->state, __ATOMIC_ACQUIRE) == PORT_SITE_COUNTED &&
        __atomic_add_fetch(&site->hits, 1, __ATOMIC_SEQ_CST) == HITS) {
        /* Not if another thread has patched it meanwhile, along with one before it. */
        uint32_t counted = PORT_SITE_COUNTED;
        __atomic_compare_exchange_n(&site->state, &counted, PORT_SITE_WANTED, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
}

int port_is_jump(uintptr_t at)
{
    return *(const volatile uint8_t *)at == JUMP;
}

/* Whoever holds it is not suspended: another thread may be waiting in the middle of the program's code. */
static uint64_t lock(void)
{
    uint64_t mask = port_block_signals();
    while (__atomic_exchange_n(&patch_lock, 1, __ATOMIC_ACQUIRE) != 0) {
        Sleep(0);
    }
    return mask;
}

static void unlock(uint64_t mask)
{
    __atomic_store_n(&patch_lock, 0, __ATOMIC_RELEASE);
    port_restore_signals(mask);
}

/* Counts an instruction anew. The lock is held. */
static void start_over(struct port_site *site, enum port_site_state state)
{
    site->hits = 0;
    __atomic_store_n(&site->state, state, __ATOMIC_SEQ_CST);
}

int port_site_renew(uintptr_t at)
{
    struct port_site *site = find(at);
    uint64_t mask = lock();
    int is_jump = port_is_jump(at);
    if (site != NULL && site->state == PORT_SITE_PATCHED && !is_jump) {
        start_over(site, PORT_SITE_COUNTED);
    }
    unlock(mask);
    return is_jump;
}

/* Writes the first byte of the program's instruction, if it is `expected`: the code may have been loaded again. */
static int write_code(uintptr_t at, uint8_t expected, uint8_t byte)
{
    DWORD before, ignored;
    if (!VirtualProtect((void *)at, 1, PAGE_EXECUTE_READWRITE, &before)) {
        return 0;
    }
    __atomic_compare_exchange_n((uint8_t *)at, &expected, byte, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    VirtualProtect((void *)at, 1, before, &ignored);
    FlushInstructionCache(GetCurrentProcess(), (void *)at, 1);
    return 1;
}

/* Whether `site` lies in the distance of a jump at `before`. */
static int is_in_distance(const struct port_site *site, const struct port_site *before)
{
    return site->at > before->at && site->at - before->at < JUMP_BYTES;
}

/* Whether a jump here would change where another one leads to. */
static int is_behind_another(const struct port_site *of)
{
    for (uint32_t i = 0; i < SITES_MAX; i++) {
        if (sites[i].state == PORT_SITE_PATCHED && is_in_distance(of, &sites[i])) {
            return 1;
        }
    }
    return 0;
}

/* Whether the code for a jump lies in the way of another one's. */
static int is_in_the_way(const struct port_site *of, uintptr_t room)
{
    for (uint32_t i = 0; i < SITES_MAX; i++) {
        const struct port_site *site = &sites[i];
        uintptr_t distance = site->room > room ? site->room - room : room - site->room;
        if (site != of && site->room != 0 && distance < ROOM) {
            return 1;
        }
    }
    return 0;
}

/* Whether code of ours is in the page's granule. */
static int is_ours(uintptr_t page)
{
    for (uint32_t i = 0; i < SITES_MAX; i++) {
        uintptr_t room = sites[i].room;
        if (room != 0 && ((room ^ page) < GRANULE || ((room + ROOM - 1) ^ page) < GRANULE)) {
            return 1;
        }
    }
    return 0;
}

#ifndef _WIN64
/* Memory that Wine does not give out: the upper half, where half of all jumps of 32-bit code lead to, and what lies outside
 * of the ranges that Wine has reserved. Linux does, if it is free. */
static int map_beyond_wine(uintptr_t granule)
{
    enum { MAP_FIXED_NOREPLACE_ = 0x100000 };
    intptr_t at = rf_syscall(RF_NR_MMAP, (intptr_t)granule, GRANULE, RF_PROT_READ | PROT_EXEC_,
                             RF_MAP_PRIVATE | RF_MAP_ANONYMOUS | MAP_FIXED_NOREPLACE_, -1, 0);
    if (rf_is_error(at)) {
        return 0;
    }
    if ((uintptr_t)at != granule) {
        /* A kernel that does not know the flag takes the address for a wish. */
        rf_release((void *)at, GRANULE);
        return 0;
    }
    return 1;
}
#endif

/* Takes the 64 KiB around a page, to read and execute; not if something else is there. */
static int take_granule(uintptr_t page)
{
    uintptr_t granule = page & ~(uintptr_t)(GRANULE - 1);
#ifndef _WIN64
    if (map_beyond_wine(granule)) {
        return 1;
    }
#endif
    return VirtualAlloc((void *)granule, GRANULE, MEM_RESERVE | MEM_COMMIT, PAGE_EXECUTE_READ) != NULL;
}

/* By Linux, for memory of both kinds: in the end it is as Wine knows it. */
static int protect(uintptr_t page, int protection)
{
    enum { NR_MPROTECT = RF_NR(10, 125) };
    return !rf_is_error(rf_syscall3(NR_MPROTECT, (intptr_t)page, PAGE, protection));
}

/* Makes a page writable that is to hold code of ours, or holds some already, which threads may be executing. */
static int open_page(uintptr_t page)
{
    return (is_ours(page) || take_granule(page)) && protect(page, RF_PROT_READ | RF_PROT_WRITE | PROT_EXEC_);
}

static void close_page(uintptr_t page)
{
    protect(page, RF_PROT_READ | PROT_EXEC_);
}

void port_jump_entry(void);

/* Puts code where the jump of a site leads to. */
static int fill_room(struct port_site *site, uintptr_t room)
{
    uintptr_t first = room & ~(uintptr_t)(PAGE - 1), last = (room + ROOM - 1) & ~(uintptr_t)(PAGE - 1);
    uintptr_t routine = (uintptr_t)port_jump_entry, of = (uintptr_t)site;
    uint8_t *to = (uint8_t *)room;

    if (room < GRANULE || room + ROOM < room || is_in_the_way(site, room)) {
        return 0;
    }
    if (!open_page(first)) {
        return 0;
    }
    if ((first ^ last) >= GRANULE && !is_ours(last) && !take_granule(last)) {
        close_page(first);
        return 0;
    }
    /* From now on both granules are known to be ours. */
    site->room = room;
    if (last != first && !open_page(last)) {
        close_page(first);
        site->room = 0;
        return 0;
    }
    to[0] = 0xFF;
    to[1] = 0x15;
#ifdef _WIN64
    *(uint32_t *)(to + 2) = 8;
#else
    *(uint32_t *)(to + 2) = (uint32_t)room + 10;
#endif
    *(uintptr_t *)(to + 6) = of;
    *(uintptr_t *)(to + 6 + sizeof of) = routine;
    close_page(first);
    if (last != first) {
        close_page(last);
    }
    return 1;
}

static int patch(struct port_site *site);

/* Of two instructions close to each other the second is patched first: its first byte is part of the first one's distance. */
static void patch_those_behind(const struct port_site *site)
{
    for (uint32_t i = 0; i < SITES_MAX; i++) {
        struct port_site *behind = &sites[i];
        int is_often = behind->state == PORT_SITE_WANTED ||
                       (behind->state == PORT_SITE_COUNTED && behind->hits >= HITS / 2);
        if (behind->at != 0 && is_in_distance(behind, site) && is_often) {
            if (!patch(behind)) {
                behind->state = PORT_SITE_REFUSED;
            }
        }
    }
}

static int patch(struct port_site *site)
{
    MEMORY_BASIC_INFORMATION memory;
    int32_t distance = 0;

    patch_those_behind(site);

    /* A site of code that is not there any more is not read. */
    if (VirtualQuery((void *)site->at, &memory, sizeof memory) == 0 || memory.Type != MEM_IMAGE ||
        (uintptr_t)memory.BaseAddress + memory.RegionSize - site->at < JUMP_BYTES || is_behind_another(site) ||
        !port_decode((const volatile uint8_t *)site->at, sizeof(void *) == 8, &site->decoded) || site->decoded.is_string) {
        return 0;
    }
    for (unsigned i = 0; i < sizeof distance; i++) {
        distance |= (int32_t)((uint32_t)((const volatile uint8_t *)site->at)[1 + i] << 8 * i);
    }
    uintptr_t room = site->at + JUMP_BYTES + (uintptr_t)(intptr_t)distance;
    if (site->room != room && (site->room != 0 || !fill_room(site, room))) {
        return 0;
    }
    site->first = *(const volatile uint8_t *)site->at;
    /* Before the byte: whoever faults meanwhile tries again. */
    __atomic_store_n(&site->state, PORT_SITE_PATCHED, __ATOMIC_SEQ_CST);
    return write_code(site->at, site->first, JUMP);
}

void port_patch(uintptr_t at)
{
    DWORD error = GetLastError();
    struct port_site *site = find(at);
    uint64_t mask = lock();
    if (site != NULL && site->state == PORT_SITE_WANTED && !patch(site)) {
        __atomic_store_n(&site->state, PORT_SITE_REFUSED, __ATOMIC_SEQ_CST);
    }
    unlock(mask);
    SetLastError(error);
}

static void undo(struct port_site *site)
{
    /* First those whose distance it is part of. */
    for (uint32_t i = 0; i < SITES_MAX; i++) {
        if (sites[i].state == PORT_SITE_PATCHED && is_in_distance(site, &sites[i])) {
            undo(&sites[i]);
        }
    }
    if (site->state == PORT_SITE_PATCHED && write_code(site->at, JUMP, site->first)) {
        site->undone++;
        start_over(site, site->undone < UNDONE_MAX ? PORT_SITE_COUNTED : PORT_SITE_REFUSED);
    }
}

/* The same in the middle of the program's code, whose vector and x87 registers Windows functions use. */
__attribute__((noinline)) static void undo_in_code(struct port_site *site)
{
    /* x87, SSE, AVX and AVX-512 in the standard format: Intel SDM, volume 1, section 13.4. */
    enum { HEADER_AT = 512, HEADER_BYTES = 64, AREA_BYTES = 2688, COMPONENTS = 0xE7 };
    _Alignas(64) uint8_t area[AREA_BYTES];
    DWORD error = GetLastError();
    if (has_xsave) {
        rf_zero(area + HEADER_AT, HEADER_BYTES);
        __asm__ volatile(XSAVE " %0" : "+m"(area) : "a"(COMPONENTS), "d"(0));
    } else {
        __asm__ volatile(FXSAVE " %0" : "=m"(area));
    }
    uint64_t held = lock();
    undo(site);
    unlock(held);
    SetLastError(error);
    if (has_xsave) {
        __asm__ volatile(XRSTOR " %0" : : "m"(area), "a"(COMPONENTS), "d"(0));
    } else {
        __asm__ volatile(FXRSTOR " %0" : : "m"(area));
    }
}

/* In place of a patched instruction. */
void port_jump(struct frame *frame)
{
    struct port_site *site = *(struct port_site **)frame->next;
    const struct port_instruction *decoded = &site->decoded;
    uint16_t port = decoded->is_immediate ? decoded->port : (uint16_t)frame->dx;
    uintptr_t mask = decoded->width == 4 ? 0xFFFFFFFFu : ((uintptr_t)1 << (8 * (decoded->width & 3))) - 1;
    uint32_t value = (uint32_t)(frame->ax & mask);

    if (port_access(decoded->is_write, port, decoded->width, &value, 1) == PORT_DENIED) {
        undo_in_code(site);
        frame->next = site->at;
        return;
    }
    if (!decoded->is_write) {
        frame->ax = decoded->width == 4 ? value : (frame->ax & ~mask) | (value & mask);
    }
    frame->next = site->at + decoded->length;
}

#ifdef _WIN64
__asm__(".text\n"
        ".globl port_jump_entry\n"
        "port_jump_entry:\n" /* on the stack: the address of the site's address */
        "    pushfq\n"
        "    pushq %rax\n"
        "    pushq %rcx\n"
        "    pushq %rdx\n"
        "    pushq %r8\n"
        "    pushq %r9\n"
        "    pushq %r10\n"
        "    pushq %r11\n"
        "    pushq %rbp\n"
        "    movq %rsp, %rbp\n"
        "    cld\n"
        "    andq $-16, %rsp\n"
        "    subq $32, %rsp\n"
        "    movq %rbp, %rcx\n"
        "    call port_jump\n"
        "    movq %rbp, %rsp\n"
        "    popq %rbp\n"
        "    popq %r11\n"
        "    popq %r10\n"
        "    popq %r9\n"
        "    popq %r8\n"
        "    popq %rdx\n"
        "    popq %rcx\n"
        "    popq %rax\n"
        "    popfq\n"
        "    ret\n");
#else
__asm__(".text\n"
        ".globl _port_jump_entry\n"
        "_port_jump_entry:\n"
        "    pushfl\n"
        "    pushl %eax\n"
        "    pushl %ecx\n"
        "    pushl %edx\n"
        "    pushl %ebp\n"
        "    movl %esp, %ebp\n"
        "    cld\n"
        "    andl $-16, %esp\n"
        "    subl $12, %esp\n"
        "    pushl %ebp\n"
        "    call _port_jump\n"
        "    movl %ebp, %esp\n"
        "    popl %ebp\n"
        "    popl %edx\n"
        "    popl %ecx\n"
        "    popl %eax\n"
        "    popfl\n"
        "    ret\n");
#endif

void port_start_patches(void)
{
    char value[4];
    enum { OSXSAVE = 1 << 27 };
    uint32_t leaf = 1, ignored, features;
    DWORD length = GetEnvironmentVariableA("RINGFENCE_PORT_PATCH", value, sizeof value);
    __asm__("cpuid" : "+a"(leaf), "=b"(ignored), "=c"(features), "=d"(ignored));
    has_xsave = (features & OSXSAVE) != 0;
    is_off = length == 1 && value[0] == '0';
}
