/* The micro-VM's socket, a path of Linux. */
#include "driver.h"

enum {
    NR_BIND = RF_NR(49, 361),
    NR_LISTEN = RF_NR(50, 363),
    NR_CHMOD = RF_NR(90, 15),
    F_DUPFD_CLOEXEC = 1030,
    BACKLOG = 128,
};

static struct rf_sockaddr_un address_of(const struct config *config)
{
    struct rf_sockaddr_un address = {.family = RF_AF_UNIX};
    rf_copy(address.path, config->socket, sizeof address.path);
    return address;
}

/* Makes the socket, for its owner alone; a descriptor that is not below LISTEN_FD, or an error, negated. */
intptr_t socket_make(const struct config *config)
{
    /* Nobody else gets into its folder (folder.c), so the socket's permissions may come late. */
    intptr_t made = rf_syscall3(RF_NR_SOCKET, RF_AF_UNIX, RF_SOCK_STREAM | RF_SOCK_CLOEXEC, 0);
    intptr_t fd = rf_is_error(made) ? made : rf_syscall3(RF_NR_FCNTL, made, F_DUPFD_CLOEXEC, LISTEN_FD);
    if (!rf_is_error(made)) {
        rf_close((int)made);
    }
    if (rf_is_error(fd)) {
        return fd;
    }
    struct rf_sockaddr_un address = address_of(config);
    intptr_t result = rf_syscall3(NR_BIND, fd, rf_at(&address), sizeof address);
    if (!rf_is_error(result)) {
        rf_syscall3(NR_CHMOD, rf_at(config->socket), 0600, 0);
        result = rf_syscall3(NR_LISTEN, fd, BACKLOG, 0);
    }
    if (rf_is_error(result)) {
        rf_close((int)fd);
        return result;
    }
    return fd;
}

/* One text command; docs/channel.md: anything that does not begin with a zero is text. */
void socket_command(const struct config *config, const char *line, size_t bytes, int milliseconds)
{
    struct rf_sockaddr_un address = address_of(config);
    intptr_t fd = rf_syscall3(RF_NR_SOCKET, RF_AF_UNIX, RF_SOCK_STREAM | RF_SOCK_CLOEXEC, 0);
    if (rf_is_error(fd)) {
        return;
    }
    struct rf_timeval timeout = {milliseconds / 1000, milliseconds % 1000 * 1000};
    char reply[256];
    rf_syscall(RF_NR_SETSOCKOPT, fd, RF_SOL_SOCKET, RF_SO_RCVTIMEO, rf_at(&timeout), sizeof timeout, 0);
    if (!rf_is_error(rf_syscall3(RF_NR_CONNECT, fd, rf_at(&address), sizeof address)) &&
        rf_syscall(RF_NR_SENDTO, fd, rf_at(line), (intptr_t)bytes, RF_MSG_NOSIGNAL, 0, 0) == (intptr_t)bytes) {
        /* Its answer is in the micro-VM's log; what matters is that it was done. */
        rf_syscall(RF_NR_RECVFROM, fd, rf_at(reply), sizeof reply, 0, 0, 0);
    }
    rf_close((int)fd);
}
