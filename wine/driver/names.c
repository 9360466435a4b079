/* The driver's devices and symbolic links, made in Wine's namespace. Only the keeper uses this. */
#include "driver.h"

enum {
    /* All names of a driver, in bytes. */
    NAMES_BYTES = 64 * 1024,
    NAME_MAX = 260,
};

struct name {
    struct name *next;
    DEVICE_OBJECT *device; /* null: a symbolic link */
    bool is_there;         /* the micro-VM still has it */
    WCHAR text[NAME_MAX];
    WCHAR target[NAME_MAX];
};

/* A line of the answer, cut up. */
struct line {
    const WCHAR *fields[6];
    size_t lengths[6];
    int count;
};

/* Cuts off the first line of what is left; false if there is none. */
static bool next_line(const WCHAR **at, const WCHAR *end, struct line *line)
{
    line->count = 0;
    if (*at == end) {
        return false;
    }
    const WCHAR *begin = *at;
    for (;;) {
        bool is_end = *at == end || **at == '\n';
        if ((is_end || **at == '\t') && line->count < 6) {
            line->fields[line->count] = begin;
            line->lengths[line->count++] = (size_t)(*at - begin);
            begin = *at + 1;
        }
        if (is_end) {
            *at += *at != end;
            return true;
        }
        ++*at;
    }
}

static bool copy_field(const struct line *line, int field, WCHAR to[NAME_MAX])
{
    if (field >= line->count || line->lengths[field] == 0 || line->lengths[field] >= NAME_MAX) {
        return false;
    }
    rf_copy(to, line->fields[field], line->lengths[field] * sizeof(WCHAR));
    to[line->lengths[field]] = 0;
    return true;
}

static ULONG number_field(const struct line *line, int field)
{
    ULONG value = 0;
    for (size_t i = 0; field < line->count && i < line->lengths[field]; i++) {
        WCHAR character = line->fields[field][i] | 32;
        value = value << 4 | (ULONG)(character >= 'a' ? character - 'a' + 10 : character - '0');
    }
    return value;
}

static bool is_same(const WCHAR *left, const WCHAR *right)
{
    while (*left != 0 && *left == *right) {
        left++;
        right++;
    }
    return *left == *right;
}

static struct name *find(struct names *names, const struct name *wanted, bool is_link)
{
    for (struct name *name = names->first; name != NULL; name = name->next) {
        if ((name->device == NULL) == is_link && is_same(name->text, wanted->text) &&
            (!is_link || is_same(name->target, wanted->target))) {
            return name;
        }
    }
    return NULL;
}

/* Wine 10 makes one that is there a second time, and leaves it as it is: it would be taken away with the second driver. */
static bool is_link_there(UNICODE_STRING *text)
{
    HANDLE link;
    OBJECT_ATTRIBUTES attributes;
    InitializeObjectAttributes(&attributes, text, OBJ_CASE_INSENSITIVE, NULL, NULL);
    if (!NT_SUCCESS(ZwOpenSymbolicLinkObject(&link, GENERIC_READ, &attributes))) {
        return false;
    }
    ZwClose(link);
    return true;
}

static NTSTATUS create(struct name *name, DRIVER_OBJECT *driver, ULONG type, ULONG characteristics, bool is_link)
{
    UNICODE_STRING text;
    UNICODE_STRING target;
    RtlInitUnicodeString(&text, name->text);
    if (is_link) {
        RtlInitUnicodeString(&target, name->target);
        return is_link_there(&text) ? STATUS_OBJECT_NAME_COLLISION : IoCreateSymbolicLink(&text, &target);
    }
    NTSTATUS status = IoCreateDevice(driver, sizeof name->text, &text, type, characteristics, FALSE, &name->device);
    if (NT_SUCCESS(status)) {
        rf_copy(name->device->DeviceExtension, name->text, sizeof name->text);
        name->device->Flags &= ~(ULONG)DO_DEVICE_INITIALIZING;
    }
    return status;
}

static void remove(struct name *name)
{
    if (name->device != NULL) {
        IoDeleteDevice(name->device);
    } else {
        UNICODE_STRING text;
        RtlInitUnicodeString(&text, name->text);
        IoDeleteSymbolicLink(&text);
    }
    heap_free(name);
}

/* Removes links, or devices, that the micro-VM has not. */
static void sweep(struct names *names, bool is_link)
{
    struct name **at = &names->first;
    while (*at != NULL) {
        struct name *name = *at;
        if (name->is_there || (name->device == NULL) != is_link) {
            at = &name->next;
            continue;
        }
        *at = name->next;
        remove(name);
    }
}

static NTSTATUS add(struct names *names, DRIVER_OBJECT *driver, const struct line *line, bool is_link)
{
    struct name *name = heap_allocate(sizeof *name);
    if (name == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    bool is_whole = is_link ? copy_field(line, 1, name->text) && copy_field(line, 2, name->target)
                            : copy_field(line, 4, name->text);
    struct name *known = is_whole ? find(names, name, is_link) : NULL;
    NTSTATUS status = STATUS_SUCCESS;
    if (known != NULL) {
        known->is_there = true;
    } else if (is_whole) {
        status = create(name, driver, number_field(line, 1), number_field(line, 2), is_link);
        if (!NT_SUCCESS(status)) {
            log_line("%w cannot be made in Wine's namespace: status %x", name->text, (uint32_t)status);
        }
    }
    if (!is_whole || known != NULL || !NT_SUCCESS(status)) {
        heap_free(name);
        return status;
    }
    name->is_there = true;
    name->next = names->first;
    names->first = name;
    return STATUS_SUCCESS;
}

NTSTATUS names_update(struct names *names, DRIVER_OBJECT *driver, struct rf_channel *channel, uint64_t *version,
                      NTSTATUS *not_made)
{
    *not_made = STATUS_SUCCESS;
    WCHAR *text = heap_allocate(NAMES_BYTES);
    if (text == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    struct rf_request query = {
        .opcode = RF_OP_QUERY,
        .code = RF_QUERY_NAMES,
        .output = text,
        .output_bytes = NAMES_BYTES,
    };
    NTSTATUS status = (NTSTATUS)rf_call(channel, &query);
    if (status != STATUS_SUCCESS) {
        log_line("the names of the driver's devices are not to be had: status %x", (uint32_t)status);
        heap_free(text);
        return status;
    }
    *version = query.value;
    for (struct name *name = names->first; name != NULL; name = name->next) {
        name->is_there = false;
    }
    const WCHAR *end = text + query.output_written / sizeof(WCHAR);
    struct line line;
    /* Devices before the links to them. */
    for (int is_link = 0; is_link <= 1; is_link++) {
        const WCHAR *at = text;
        while (next_line(&at, end, &line)) {
            if (line.lengths[0] == (is_link ? 4u : 6u)) {
                NTSTATUS made = add(names, driver, &line, is_link);
                /* Links outlive a process of Wine's that was killed: one that is there already may be of our own start before. */
                *not_made = NT_SUCCESS(*not_made) && !is_link ? made : *not_made;
            }
        }
    }
    sweep(names, true);
    sweep(names, false);
    heap_free(text);
    return STATUS_SUCCESS;
}

void names_remove_links(struct names *names)
{
    for (struct name *name = names->first; name != NULL; name = name->next) {
        name->is_there = false;
    }
    sweep(names, true);
}

void names_remove(struct names *names)
{
    names_remove_links(names);
    sweep(names, false);
}
