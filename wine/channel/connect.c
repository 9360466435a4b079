/* From a socket's path to a channel. */
#include "internal.h"

enum { DESCRIPTORS = 3 };

/* NTSTATUS for what can go wrong before the VMM says one itself. */
static uint32_t status_of(uint32_t error)
{
    switch (error) {
    case RF_ENOENT:
    case RF_ENOTDIR:
    case RF_ECONNREFUSED:
        return 0xC0000034; /* STATUS_OBJECT_NAME_NOT_FOUND: nobody serves there */
    case RF_EPERM:
    case RF_EACCES:
        return 0xC0000022; /* STATUS_ACCESS_DENIED */
    case RF_EAGAIN:
    case RF_ETIMEDOUT:
        return 0xC00000B5; /* STATUS_IO_TIMEOUT */
    case RF_EPROTO:
        return 0xC0000059; /* STATUS_REVISION_MISMATCH */
    default:
        return 0xC000009A; /* STATUS_INSUFFICIENT_RESOURCES */
    }
}

static bool fail(struct rf_failure *failure, const char *what, intptr_t error)
{
    failure->what = what;
    failure->error = (uint32_t)-error;
    failure->status = status_of((uint32_t)-error);
    return false;
}

static bool open_socket(struct rf_channel *channel, const char *path, uint32_t timeout_ms, struct rf_failure *failure)
{
    struct rf_sockaddr_un address = {.family = RF_AF_UNIX};
    size_t length = 0;
    while (path[length] != 0) {
        if (length + 1 >= sizeof address.path) {
            return fail(failure, "the socket's path is longer than 107 bytes", -RF_ENAMETOOLONG);
        }
        address.path[length] = path[length];
        length++;
    }
    intptr_t fd = rf_syscall3(RF_NR_SOCKET, RF_AF_UNIX, RF_SOCK_STREAM | RF_SOCK_CLOEXEC, 0);
    if (rf_is_error(fd)) {
        return fail(failure, "no socket can be made", fd);
    }
    channel->socket_fd = (int)fd;
    struct rf_timeval timeout = {(intptr_t)(timeout_ms / 1000), (intptr_t)(timeout_ms % 1000 * 1000)};
    rf_syscall(RF_NR_SETSOCKOPT, fd, RF_SOL_SOCKET, RF_SO_RCVTIMEO, rf_at(&timeout), sizeof timeout, 0);
    rf_syscall(RF_NR_SETSOCKOPT, fd, RF_SOL_SOCKET, RF_SO_SNDTIMEO, rf_at(&timeout), sizeof timeout, 0);
    intptr_t result;
    do {
        result = rf_syscall3(RF_NR_CONNECT, fd, rf_at(&address), (intptr_t)(sizeof address.family + length + 1));
    } while (result == -RF_EINTR);
    return rf_is_error(result) ? fail(failure, "nobody serves the socket", result) : true;
}

static bool say_hello(struct rf_channel *channel, uint32_t data_bytes, struct rf_failure *failure)
{
    struct rf_hello hello = {
        .magic = RF_WIRE_MAGIC,
        .version_min = RF_WIRE_VERSION,
        .version_max = RF_WIRE_VERSION,
        .queue_size = RF_QUEUE_MAX,
        .data_bytes = data_bytes,
    };
    intptr_t sent;
    do {
        sent = rf_syscall(RF_NR_SENDTO, channel->socket_fd, rf_at(&hello), sizeof hello, RF_MSG_NOSIGNAL, 0, 0);
    } while (sent == -RF_EINTR);
    return sent == sizeof hello ? true : fail(failure, "the hello cannot be sent", rf_is_error(sent) ? sent : -RF_EPROTO);
}

/* The control message that carries descriptors, as the kernel fills it. */
struct control {
    struct rf_cmsghdr header;
    int32_t descriptors[DESCRIPTORS + 1]; /* one more than there may be, for the alignment */
};

static void close_all(const int32_t *descriptors, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        rf_close(descriptors[i]);
    }
}

static bool receive_welcome(struct rf_channel *channel, struct rf_welcome *welcome, struct rf_failure *failure)
{
    struct control control = {.header = {0, 0, 0}};
    struct rf_iovec iovec = {welcome, sizeof *welcome};
    struct rf_msghdr message = {
        .iov = &iovec,
        .iov_count = 1,
        .control = &control,
        .control_bytes = sizeof control.header + DESCRIPTORS * sizeof(int32_t),
    };
    intptr_t received;
    do {
        received = rf_syscall3(RF_NR_RECVMSG, channel->socket_fd, rf_at(&message), RF_MSG_WAITALL | RF_MSG_CMSG_CLOEXEC);
    } while (received == -RF_EINTR);
    if (rf_is_error(received)) {
        return fail(failure, "no welcome comes", received);
    }
    uint32_t count = 0;
    if (message.control_bytes >= sizeof control.header && control.header.level == RF_SOL_SOCKET &&
        control.header.type == RF_SCM_RIGHTS) {
        count = (uint32_t)((control.header.bytes - sizeof control.header) / sizeof(int32_t));
    }
    bool is_whole = received == sizeof *welcome && welcome->magic == RF_WIRE_MAGIC;
    if (is_whole && welcome->status != 0) {
        close_all(control.descriptors, count);
        failure->what = welcome->version == RF_WIRE_VERSION ? "the driver's VMM refuses" : "the driver's VMM speaks another version";
        failure->error = 0;
        failure->status = welcome->status;
        return false;
    }
    if (!is_whole || count != DESCRIPTORS || (message.flags & RF_MSG_CTRUNC) != 0 || welcome->version != RF_WIRE_VERSION) {
        close_all(control.descriptors, count);
        return fail(failure, "what came is no welcome; is this a `ringfence run --socket`, with room for a client?", -RF_EPROTO);
    }
    channel->memory_fd = control.descriptors[0];
    channel->kick_fd = control.descriptors[1];
    channel->call_fd = control.descriptors[2];
    return true;
}

static bool map_memory(struct rf_channel *channel, const struct rf_welcome *welcome, uint32_t data_bytes,
                       struct rf_failure *failure)
{
    if (!rf_queue_accept(&channel->queue, welcome)) {
        return fail(failure, "the memory's layout is not this version's", -RF_EPROTO);
    }
    /* Callers count on what they have asked for. */
    if (welcome->data_bytes < data_bytes) {
        return fail(failure, "the memory has less room for data than was asked for", -RF_EPROTO);
    }
    size_t bytes = rf_queue_bytes(welcome);
    /* Memory that shrinks would be a SIGBUS. */
    intptr_t seals = rf_syscall3(RF_NR_FCNTL, channel->memory_fd, RF_F_GET_SEALS, 0);
    if (rf_is_error(seals) || (seals & RF_F_SEAL_SHRINK) == 0) {
        return fail(failure, "the memory is not sealed against shrinking", -RF_EPROTO);
    }
    intptr_t end = rf_syscall3(RF_NR_LSEEK, channel->memory_fd, 0, RF_SEEK_END);
    if (rf_is_error(end) || (size_t)end < bytes) {
        return fail(failure, "the memory is smaller than its layout", -RF_EPROTO);
    }
    intptr_t at = rf_syscall(RF_NR_MMAP, 0, (intptr_t)bytes, RF_PROT_READ | RF_PROT_WRITE, RF_MAP_SHARED, channel->memory_fd, 0);
    if (rf_is_error(at)) {
        return fail(failure, "the memory cannot be mapped", at);
    }
    channel->queue.memory = (uint8_t *)at;
    channel->queue.memory_bytes = bytes;
    return true;
}

static bool has_processors(void)
{
    uint32_t mask[256];
    intptr_t bytes = rf_syscall3(RF_NR_SCHED_GETAFFINITY, 0, sizeof mask, rf_at(mask));
    uint32_t words_with_one = 0;
    for (intptr_t word = 0; word < bytes / 4; word++) {
        if ((mask[word] & (mask[word] - 1)) != 0) {
            return true;
        }
        words_with_one += mask[word] != 0;
    }
    return words_with_one > 1;
}

static bool connect(struct rf_channel *channel, const char *path, uint32_t data_bytes, uint32_t timeout_ms,
                    struct rf_failure *failure)
{
    struct rf_welcome welcome;
    rf_zero(&welcome, sizeof welcome);
    if (!open_socket(channel, path, timeout_ms, failure) || !say_hello(channel, data_bytes, failure) ||
        !receive_welcome(channel, &welcome, failure) || !map_memory(channel, &welcome, data_bytes, failure)) {
        return false;
    }
    channel->process = welcome.process;
    channel->driver_abi = welcome.driver_abi;
    channel->transfer_max = welcome.transfer_max;
    channel->in_flight_max = welcome.in_flight_max == 0 ? 1 : welcome.in_flight_max;
    channel->next_tag = 1;
    rf_looking_start(&channel->looking, has_processors());
    return true;
}

struct rf_channel *rf_connect(const char *path, uint32_t data_bytes, uint32_t timeout_ms, struct rf_failure *failure)
{
    struct rf_channel *channel = rf_allocate(sizeof *channel);
    if (channel == NULL) {
        fail(failure, "no memory", -12);
        return NULL;
    }
    channel->memory_fd = channel->kick_fd = channel->call_fd = channel->socket_fd = -1;
    if (!connect(channel, path, data_bytes, timeout_ms, failure)) {
        rf_free(channel);
        return NULL;
    }
    return channel;
}

void rf_free(struct rf_channel *channel)
{
    if (channel->queue.memory != NULL) {
        rf_release(channel->queue.memory, channel->queue.memory_bytes);
    }
    const int descriptors[] = {channel->memory_fd, channel->kick_fd, channel->call_fd, channel->socket_fd};
    for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++) {
        if (descriptors[i] >= 0) {
            rf_close(descriptors[i]);
        }
    }
    rf_release(channel, sizeof *channel);
}
