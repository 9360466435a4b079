/* What `ringfence wine list` shows of the service: NAME.state, a file beside the socket, with lines KEY=VALUE.
 *
 * | key | value |
 * |---|---|
 * | driver, policy | paths of Linux |
 * | reason | why the micro-VM has ended |
 * | state | starting, running, crashed, stopping; the last line |
 *
 * It is locked (flock) while the service runs: a lock goes with Wine's process, however that ends, so that what is left of
 * one that was killed is not believed. */
#include "driver.h"

enum {
    NR_FLOCK = RF_NR(73, 143),
    NR_FTRUNCATE = RF_NR(77, 93),
    NR_UNLINK = RF_NR(87, 10),
    O_RDWR_CREATE_NOFOLLOW = 2 | 0100 | 0400000,
    LOCK_EXCLUSIVE_NOW = 2 | 4,
    /* Somebody who looks at the file has a lock of his own for a moment. */
    LOCK_TRIES = 200,
    TEXT_BYTES = 2 * PATH_BYTES + 512,
};

static const struct config *whose;
static int file = -1;
static char path[SOCKET_BYTES];

struct text {
    char bytes[TEXT_BYTES];
    size_t length;
};

static void add(struct text *text, const char *from)
{
    for (; *from != 0 && text->length < TEXT_BYTES; from++) {
        text->bytes[text->length++] = *from;
    }
}

/* A line; none for an empty value. A value is one line, whoever it comes from. */
static void add_line(struct text *text, const char *key, const char *value)
{
    if (*value == 0) {
        return;
    }
    add(text, key);
    add(text, "=");
    size_t begin = text->length;
    add(text, value);
    for (size_t at = begin; at < text->length; at++) {
        if ((uint8_t)text->bytes[at] < ' ') {
            text->bytes[at] = '?';
        }
    }
    add(text, "\n");
}

void state_set(const char *state, const char *reason)
{
    if (file < 0) {
        return;
    }
    struct text text;
    text.length = 0;
    add_line(&text, "driver", whose->driver);
    add_line(&text, "policy", whose->policy);
    add_line(&text, "reason", reason);
    add_line(&text, "state", state);
    rf_syscall3(RF_NR_LSEEK, file, 0, 0);
    rf_syscall3(NR_FTRUNCATE, file, 0, 0);
    rf_syscall3(RF_NR_WRITE, file, rf_at(text.bytes), (intptr_t)text.length);
}

void state_begin(const struct config *config)
{
    static const char ending[] = "state";
    size_t length = 0;
    while (config->socket[length] != 0) {
        length++;
    }
    whose = config;
    rf_copy(path, config->socket, length - (sizeof "socket" - 1));
    rf_copy(path + length - (sizeof "socket" - 1), ending, sizeof ending);
    intptr_t opened = rf_syscall3(RF_NR_OPEN, rf_at(path), O_RDWR_CREATE_NOFOLLOW | RF_O_CLOEXEC, 0600);
    intptr_t locked = opened;
    for (int try = 0; try < LOCK_TRIES && !rf_is_error(opened); try++) {
        locked = rf_syscall3(NR_FLOCK, opened, LOCK_EXCLUSIVE_NOW, 0);
        if (!rf_is_error(locked)) {
            file = (int)opened;
            break;
        }
        rf_syscall3(RF_NR_POLL, 0, 0, 5);
    }
    if (rf_is_error(locked)) {
        log_line("%s cannot be made or locked (error %u): `ringfence wine list` does not know whether the service runs", path,
                 (uint32_t)-locked);
        if (!rf_is_error(opened)) {
            rf_close((int)opened);
        }
    }
    state_set("starting", "");
}

void state_end(void)
{
    if (file >= 0) {
        rf_syscall3(NR_UNLINK, rf_at(path), 0, 0);
        rf_close(file);
        file = -1;
    }
}
