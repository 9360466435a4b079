/* What is known of each handle.
 *
 * A handle's number is used again as soon as it is closed, so what is known of it goes before it is closed, and nothing that
 * was found out meanwhile is kept: each change of a handle's word raises the number in its upper half, and an answer of
 * ringfence.sys counts only if the word is the one from before the question. No locks: the threads are the program's, which may
 * be suspended or ended anywhere.
 */
#include "direct.h"

#include "../channel/linux.h"
#include "../include/ringfence_wine.h"

enum {
    /* Handles beyond go through winedevice. */
    HANDLES = 16384,
    FILES = 1024,
    ACCESS_BYTES = 56,
};

/* Lower half of a handle's word. */
enum {
    UNKNOWN,
    CANDIDATE, /* opened by a name that may be a driver's */
    REFUSED,   /* no handle of ours, or one whose requests go through winedevice */
    CLOSING,
    FIRST_FILE = 16, /* and so on: the file's index */
    VALUE_MASK = 0xFFFF,
    CHANGE = 0x10000,
};

enum file_state { FREE, TAKEN, IN_USE, GONE };

static uint32_t words[HANDLES];
static struct file files[FILES];

NTSTATUS NTAPI NtQueryObject(HANDLE handle, OBJECT_INFORMATION_CLASS class, void *information, ULONG bytes, ULONG *needed);

/* Null: a pseudo-handle, or one of those beyond. */
static uint32_t *word_of(HANDLE handle)
{
    uintptr_t index = (uintptr_t)handle >> 2;
    return index != 0 && index < HANDLES ? &words[index] : NULL;
}

static uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static int change(uint32_t *word, uint32_t expected, uint32_t value)
{
    uint32_t next = ((expected & ~(uint32_t)VALUE_MASK) + CHANGE) | value;
    return __atomic_compare_exchange_n(word, &expected, next, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static struct file *file_of(uint32_t word)
{
    uint32_t value = word & VALUE_MASK;
    return value >= FIRST_FILE && value < FIRST_FILE + FILES ? &files[value - FIRST_FILE] : NULL;
}

/* An entry for a file; null: there is none. */
static struct file *take_file(void)
{
    for (unsigned i = 0; i < FILES; i++) {
        struct file *file = &files[i];
        uint32_t state = load(&file->state);
        if ((state != FREE && state != GONE) || load(&file->users) != 0 ||
            !__atomic_compare_exchange_n(&file->state, &state, TAKEN, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            continue;
        }
        if (load(&file->users) == 0) {
            if (state == GONE) {
                machine_release(file->machine);
            }
            return file;
        }
        /* Somebody who came late looks at what it was, and leaves. */
        __atomic_store_n(&file->state, state, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* The handle is not the file's any more. Who uses it may go on: its entry, and its micro-VM's, are not another's before. */
static void drop(struct file *file)
{
    if (file != NULL) {
        __atomic_store_n(&file->state, GONE, __ATOMIC_RELEASE);
    }
}

/* Asks ringfence.sys. 0: the handle is none of ours. STATUS_RETRY: not now. */
static NTSTATUS ask(HANDLE handle, struct rf_direct *direct)
{
    static const uint8_t magic[RF_DIRECT_MAGIC_BYTES] = RF_DIRECT_MAGIC;
    uint8_t question[RF_DIRECT_MAGIC_BYTES];
    IO_STATUS_BLOCK io = {{0}, 0};
    /* Whatever it is a handle of: the answer must have come when this returns. */
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (event == NULL) {
        return STATUS_RETRY;
    }
    rf_copy(question, magic, sizeof question);
    NTSTATUS status = original_device_control(handle, event, NULL, NULL, &io, RF_IOCTL_DIRECT, question, sizeof question,
                                              direct, sizeof *direct);
    if (status == STATUS_PENDING) {
        WaitForSingleObject(event, INFINITE);
        status = io.Status;
    }
    CloseHandle(event);
    return status == 0 && io.Information != sizeof *direct ? STATUS_NOT_SUPPORTED : status;
}

/* Fills a file in. Whether its requests can be sent. */
static int describe(struct file *file, HANDLE handle, const struct rf_direct *direct)
{
    uint32_t basic[ACCESS_BYTES / 4] = {0};
    /* ObjectBasicInformation: attributes, granted access, ... */
    if (NtQueryObject(handle, (OBJECT_INFORMATION_CLASS)0, basic, sizeof basic, NULL) != 0) {
        return 0;
    }
    file->machine = machine_of(direct);
    if (file->machine == NULL) {
        return 0;
    }
    file->access = basic[1];
    rf_zero(&file->lanes, sizeof file->lanes);
    file->lanes.owners = direct->handle;
    return 1;
}

/* What is known of the handle from now on. */
static uint32_t look_up(HANDLE handle, uint32_t *word, uint32_t known)
{
    DWORD error = GetLastError();
    struct rf_direct direct;
    rf_zero(&direct, sizeof direct);
    NTSTATUS status = ask(handle, &direct);
    struct file *file = status == 0 ? take_file() : NULL;
    if (file != NULL && describe(file, handle, &direct)) {
        __atomic_store_n(&file->state, IN_USE, __ATOMIC_RELEASE);
        if (!change(word, known, FIRST_FILE + (uint32_t)(file - files))) {
            drop(file);
        }
    } else {
        if (file != NULL) {
            __atomic_store_n(&file->state, FREE, __ATOMIC_RELEASE);
        }
        if (status != STATUS_RETRY) {
            change(word, known, REFUSED);
        }
    }
    SetLastError(error);
    return load(word);
}

struct file *file_enter(HANDLE handle, enum handle_use use)
{
    uint32_t *word = word_of(handle);
    if (word == NULL) {
        return NULL;
    }
    uint32_t known = load(word);
    if (((known & VALUE_MASK) == CANDIDATE && use != HANDLE_LOOKED_AT) ||
        ((known & VALUE_MASK) == UNKNOWN && use == HANDLE_CONTROL)) {
        known = look_up(handle, word, known);
    }
    struct file *file = file_of(known);
    if (file == NULL) {
        return NULL;
    }
    __atomic_add_fetch(&file->users, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != known) {
        file_leave(file);
        return NULL;
    }
    return file;
}

void file_leave(struct file *file)
{
    __atomic_sub_fetch(&file->users, 1, __ATOMIC_SEQ_CST);
}

void file_forget(HANDLE handle, const struct file *file)
{
    uint32_t *word = word_of(handle);
    uint32_t known = word == NULL ? 0 : load(word);
    if (word != NULL && file_of(known) == file && change(word, known, UNKNOWN)) {
        drop(file_of(known));
    }
}

void handle_made(HANDLE handle, int may_be_drivers)
{
    uint32_t *word = word_of(handle);
    uint32_t known;
    if (word == NULL) {
        return;
    }
    do {
        known = load(word);
    } while (!change(word, known, may_be_drivers ? CANDIDATE : UNKNOWN));
    drop(file_of(known));
}

int handle_is_candidate(HANDLE handle)
{
    uint32_t *word = word_of(handle);
    uint32_t known = word == NULL ? 0 : load(word);
    return (known & VALUE_MASK) == CANDIDATE || file_of(known) != NULL;
}

uint32_t handle_closing(HANDLE handle)
{
    uint32_t *word = word_of(handle);
    uint32_t known;
    if (word == NULL) {
        return UNKNOWN;
    }
    do {
        known = load(word);
    } while (!change(word, known, CLOSING));
    drop(file_of(known));
    return file_of(known) != NULL ? CANDIDATE : known & VALUE_MASK;
}

void handle_closed(HANDLE handle, uint32_t closing, int is_closed)
{
    uint32_t *word = word_of(handle);
    uint32_t known = word == NULL ? 0 : load(word);
    /* Else somebody has got the same number meanwhile. */
    if (word != NULL && (known & VALUE_MASK) == CLOSING) {
        change(word, known, is_closed ? UNKNOWN : closing);
    }
}
