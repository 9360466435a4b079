/* The prefix's log: a file of Linux, to which the micro-VM appends too. */
#include <stdarg.h>

#include "driver.h"

enum {
    NR_RENAME = RF_NR(82, 38),
    CLOCK_REALTIME = 0,
    O_WRONLY_APPEND_CREATE = 1 | 02000 | 0100,
    LINE_BYTES = 2048,
    /* A log that is larger makes room when a driver starts. */
    LOG_MAX = 1 << 20,
};

static const struct config *whose;

struct line {
    char text[LINE_BYTES];
    size_t length;
};

static void add(struct line *line, char character)
{
    if (line->length < LINE_BYTES - 1) {
        line->text[line->length++] = character;
    }
}

static void add_text(struct line *line, const char *text)
{
    while (*text != 0) {
        add(line, *text++);
    }
}

static void add_number(struct line *line, uint32_t value, uint32_t base, int digits)
{
    char reversed[10];
    int count = 0;
    do {
        reversed[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0 && count < 10);
    while (digits > count) {
        add(line, '0');
        digits--;
    }
    while (count > 0) {
        add(line, reversed[--count]);
    }
}

/* Names come from programs: what is not printable ASCII is shown as a question mark. */
static void add_wide(struct line *line, const WCHAR *text)
{
    for (; *text != 0; text++) {
        add(line, *text >= 0x20 && *text < 0x7F ? (char)*text : '?');
    }
}

/* UTC, as RFC 3339 has it. Days to date as in the proleptic Gregorian calendar, years counted from March. */
static void add_time(struct line *line)
{
    struct rf_timespec time = {0, 0};
    rf_syscall3(RF_NR_CLOCK_GETTIME, CLOCK_REALTIME, rf_at(&time), 0);
    uint32_t seconds = (uint32_t)time.seconds;
    uint32_t days = seconds / 86400 + 719468; /* since 0000-03-01 */
    uint32_t era = days / 146097;
    uint32_t day_of_era = days % 146097;
    uint32_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint32_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint32_t shifted = (5 * day_of_year + 2) / 153;
    uint32_t month = shifted < 10 ? shifted + 3 : shifted - 9;
    add_number(line, year_of_era + era * 400 + (month <= 2), 10, 4);
    add(line, '-');
    add_number(line, month, 10, 2);
    add(line, '-');
    add_number(line, day_of_year - (153 * shifted + 2) / 5 + 1, 10, 2);
    add(line, 'T');
    add_number(line, seconds / 3600 % 24, 10, 2);
    add(line, ':');
    add_number(line, seconds / 60 % 60, 10, 2);
    add(line, ':');
    add_number(line, seconds % 60, 10, 2);
    add_text(line, "Z ");
}

static void begin_line(struct line *line)
{
    line->length = 0;
    add_time(line);
    add_text(line, whose == NULL ? "?" : whose->name8);
    add_text(line, ": ");
}

void log_raw(const char *text, size_t bytes)
{
    if (whose == NULL || whose->log[0] == 0) {
        return;
    }
    intptr_t fd = rf_syscall3(RF_NR_OPEN, rf_at(whose->log), O_WRONLY_APPEND_CREATE | RF_O_CLOEXEC, 0600);
    if (rf_is_error(fd)) {
        return;
    }
    /* One write: lines of several processes do not mix. */
    rf_syscall3(RF_NR_WRITE, fd, rf_at(text), (intptr_t)bytes);
    rf_close((int)fd);
}

void log_line(const char *format, ...)
{
    struct line line;
    begin_line(&line);
    va_list arguments;
    va_start(arguments, format);
    for (; *format != 0; format++) {
        if (*format != '%') {
            add(&line, *format);
            continue;
        }
        switch (*++format) {
        case 's':
            add_text(&line, va_arg(arguments, const char *));
            break;
        case 'w':
            add_wide(&line, va_arg(arguments, const WCHAR *));
            break;
        case 'u':
            add_number(&line, va_arg(arguments, uint32_t), 10, 1);
            break;
        case 'x':
            add_text(&line, "0x");
            add_number(&line, va_arg(arguments, uint32_t), 16, 1);
            break;
        default:
            add(&line, *format);
            break;
        }
    }
    va_end(arguments);
    line.text[line.length++] = '\n';
    log_raw(line.text, line.length);
}

void log_lines(char *text, size_t bytes)
{
    size_t begin = 0;
    for (size_t at = 0; at < bytes; at++) {
        bool is_end = text[at] == '\n' || at + 1 == bytes;
        if ((uint8_t)text[at] < ' ' && text[at] != '\n') {
            text[at] = '?';
        }
        if (!is_end) {
            continue;
        }
        struct line line;
        begin_line(&line);
        for (size_t from = begin; from <= at && text[from] != '\n'; from++) {
            add(&line, text[from]);
        }
        line.text[line.length++] = '\n';
        log_raw(line.text, line.length);
        begin = at + 1;
    }
}

void log_begin(const struct config *config)
{
    whose = config;
    intptr_t fd = rf_syscall3(RF_NR_OPEN, rf_at(config->log), RF_O_RDONLY | RF_O_CLOEXEC, 0);
    if (rf_is_error(fd)) {
        return;
    }
    intptr_t bytes = rf_syscall3(RF_NR_LSEEK, fd, 0, RF_SEEK_END);
    rf_close((int)fd);
    if (bytes > LOG_MAX) {
        char old[PATH_BYTES + 5];
        size_t length = 0;
        while (config->log[length] != 0) {
            old[length] = config->log[length];
            length++;
        }
        rf_copy(old + length, ".old", 5);
        rf_syscall3(NR_RENAME, rf_at(config->log), rf_at(old), 0);
    }
}
