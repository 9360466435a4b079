/* ntdll's functions become ours.
 *
 * Each is a few instructions that load the number of a system call and make it. One of them, five bytes long, becomes a jump:
 * amd64 `mov $number, %eax`, the second one, i386 the same, the first one. Threads may be running: the five bytes are
 * written by one store that does not leave an aligned word of eight, so each thread sees the instruction or the jump, and none
 * can be in the middle of it. What is not exactly as it is understood here is left alone, and so are all the others then: a
 * function that closes handles must not be missed.
 */
#include "direct.h"

#include "../channel/linux.h"

enum {
    HOOKS_MAX = 16,
    MOVE_EAX = 0xB8,
    JUMP = 0xE9,
    JUMP_BYTES = 5,
    GRANULE = 0x10000,
#ifdef _WIN64
    /* Where the instruction is in the function. */
    AT = 3,
    FAR_JUMP_BYTES = 14,
    /* mov %rcx, %r10; mov $number, %eax; jmp *behind; and jmp *own. */
    CODE_BYTES = 8 + FAR_JUMP_BYTES + FAR_JUMP_BYTES,
#else
    AT = 0,
    /* mov $number, %eax; jmp behind. */
    CODE_BYTES = JUMP_BYTES + JUMP_BYTES,
#endif
};

static int is_at(const uint8_t *at, const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (at[i] != bytes[i]) {
            return 0;
        }
    }
    return 1;
}

/* Whether the function is one of those that are understood. Wine 8 and later. */
static int is_understood(const uint8_t *at)
{
    if ((uintptr_t)at % 8 != 0) {
        return 0;
    }
#ifdef _WIN64
    /* mov %rcx, %r10; mov $number, %eax; testb $1, 0x7ffe0308; jne */
    static const uint8_t start[] = {0x4C, 0x8B, 0xD1, MOVE_EAX};
    static const uint8_t rest[] = {0x00, 0x00, 0xF6, 0x04, 0x25, 0x08, 0x03, 0xFE, 0x7F, 0x01, 0x75};
    return is_at(at, start, sizeof start) && is_at(at + 6, rest, sizeof rest);
#else
    /* mov $number, %eax; mov $dispatcher, %edx; call *%edx; ret $bytes */
    static const uint8_t call[] = {0xFF, 0xD2, 0xC2};
    return at[0] == MOVE_EAX && at[3] == 0 && at[4] == 0 && at[5] == 0xBA && is_at(at + 10, call, sizeof call);
#endif
}

/* Memory for our code that a jump from the function reaches. */
static uint8_t *allocate(uint8_t *function)
{
#ifdef _WIN64
    enum { STEP = 0x100000, STEPS = 1900 };
    for (int step = 1; step < STEPS; step++) {
        for (int side = -1; side <= 1; side += 2) {
            uintptr_t at = ((uintptr_t)function & ~(uintptr_t)(GRANULE - 1)) + (uintptr_t)((intptr_t)side * step * STEP);
            void *code = VirtualAlloc((void *)at, GRANULE, MEM_RESERVE | MEM_COMMIT, PAGE_EXECUTE_READWRITE);
            if (code != NULL) {
                return code;
            }
        }
    }
    return NULL;
#else
    (void)function;
    return VirtualAlloc(NULL, GRANULE, MEM_RESERVE | MEM_COMMIT, PAGE_EXECUTE_READWRITE);
#endif
}

/* Writes the bytes of an instruction of five bytes. */
static void write_instruction(uint8_t *at, const uint8_t bytes[JUMP_BYTES])
{
    uint64_t *word = (uint64_t *)((uintptr_t)at & ~(uintptr_t)7);
    unsigned offset = (unsigned)((uintptr_t)at & 7);
    union {
        uint64_t whole;
        uint8_t bytes[8];
    } value;
    value.whole = *word;
    for (unsigned i = 0; i < JUMP_BYTES; i++) {
        value.bytes[offset + i] = bytes[i];
    }
#ifdef _WIN64
    __atomic_store_n(word, value.whole, __ATOMIC_SEQ_CST);
#else
    uint64_t expected = *word;
    while (!__sync_bool_compare_and_swap(word, expected, value.whole)) {
        expected = *word;
    }
#endif
}

#ifdef _WIN64
static uint8_t *put_far_jump(uint8_t *to, const void *target)
{
    static const uint8_t jump[] = {0xFF, 0x25, 0, 0, 0, 0};
    uint64_t address = (uint64_t)target;
    rf_copy(to, jump, sizeof jump);
    rf_copy(to + sizeof jump, &address, sizeof address);
    return to + FAR_JUMP_BYTES;
}
#endif

static void put_jump(uint8_t bytes[JUMP_BYTES], const uint8_t *at, const void *target)
{
    uint32_t distance = (uint32_t)((uintptr_t)target - (uintptr_t)(at + JUMP_BYTES));
    bytes[0] = JUMP;
    rf_copy(bytes + 1, &distance, sizeof distance);
}

/* How the original is called, and what its jump leads to. */
static const void *put_code(uint8_t *code, const uint8_t *function, const struct hook *hook)
{
    rf_copy(code, function, AT + JUMP_BYTES);
    *hook->original = code;
#ifdef _WIN64
    uint8_t *relay = put_far_jump(code + AT + JUMP_BYTES, function + AT + JUMP_BYTES);
    put_far_jump(relay, hook->own);
    return relay;
#else
    put_jump(code + JUMP_BYTES, code + JUMP_BYTES, function + JUMP_BYTES);
    return hook->own;
#endif
}

static int put_hook(uint8_t *function, const void *target)
{
    uint8_t jump[JUMP_BYTES];
    DWORD before, ignored;
    put_jump(jump, function + AT, target);
    if (!VirtualProtect(function, AT + JUMP_BYTES, PAGE_EXECUTE_READWRITE, &before)) {
        return 0;
    }
    write_instruction(function + AT, jump);
    VirtualProtect(function, AT + JUMP_BYTES, before, &ignored);
    FlushInstructionCache(GetCurrentProcess(), function, AT + JUMP_BYTES);
    return 1;
}

int hook_all(const struct hook *hooks, unsigned count)
{
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    uint8_t *functions[HOOKS_MAX];
    const void *targets[HOOKS_MAX];
    DWORD ignored;
    if (count > HOOKS_MAX) {
        return 0;
    }
    for (unsigned i = 0; i < count; i++) {
        functions[i] = (uint8_t *)(void *)GetProcAddress(ntdll, hooks[i].name);
        if (functions[i] == NULL || !is_understood(functions[i])) {
            return 0;
        }
    }
    uint8_t *code = allocate(functions[0]);
    if (code == NULL) {
        return 0;
    }
    /* All originals can be called before the first hook is there. */
    for (unsigned i = 0; i < count; i++) {
        targets[i] = put_code(code + i * CODE_BYTES, functions[i], &hooks[i]);
    }
    VirtualProtect(code, GRANULE, PAGE_EXECUTE_READ, &ignored);
    /* In this order: the first ones are those that forget. */
    for (unsigned i = 0; i < count; i++) {
        if (!put_hook(functions[i], targets[i])) {
            return 0;
        }
    }
    return 1;
}
