/* The folder of the sockets. It may lie in a folder that is everybody's (the prefix's path may be too long for sockets in it), and a
 * reboot may have taken it away: whoever made it first would own the sockets in it. */
#include "driver.h"

enum {
    NR_MKDIR = RF_NR(83, 39),
    NR_GETUID = RF_NR(102, 199),
    NR_STATX = RF_NR(332, 383),
    AT_FDCWD = -100,
    AT_SYMLINK_NOFOLLOW = 0x100,
    STATX_TYPE_MODE_UID = 1 | 2 | 8,
    S_IFMT = 0170000,
    S_IFDIR = 0040000,
};

/* struct statx, as far as it is needed; it is the same for every architecture. */
struct statx {
    uint32_t mask, block_bytes;
    uint64_t attributes;
    uint32_t links, uid, gid;
    uint16_t mode, spare;
    uint8_t rest[256 - 32];
};

bool folder_make(const char *path)
{
    struct statx found;
    rf_zero(&found, sizeof found);
    rf_syscall3(NR_MKDIR, rf_at(path), 0700, 0);
    intptr_t error = rf_syscall(NR_STATX, AT_FDCWD, rf_at(path), AT_SYMLINK_NOFOLLOW, STATX_TYPE_MODE_UID, rf_at(&found), 0);
    if (rf_is_error(error)) {
        log_line("%s cannot be made: error %u", path, (uint32_t)-error);
        return false;
    }
    if ((found.mode & S_IFMT) != S_IFDIR || (found.mode & 022) != 0 || found.uid != (uint32_t)rf_syscall3(NR_GETUID, 0, 0, 0)) {
        log_line("%s is a folder that others may write to: no sockets are put there", path);
        return false;
    }
    return true;
}
