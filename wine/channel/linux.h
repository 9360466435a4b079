/* System calls of Linux from code that has no C library: a PE file under Wine, or a test.
 *
 * A Wine process is a Linux process. Its PE code may execute `syscall` (amd64) and `int 0x80` (i386, also in the 32-bit
 * code of a 64-bit process) itself, so a PE file reaches a Unix socket without a Unix library beside it, whose interface
 * changes from one Wine to the next. It does not work where Wine directs system calls of PE code to itself (Syscall User
 * Dispatch, prctl(2)): they fail as NT system calls do.
 *
 * Every function returns what the kernel does: a value, or an errno, negated. EINTR is the caller's to handle; Wine sends
 * its threads signals.
 */
#ifndef RINGFENCE_LINUX_H
#define RINGFENCE_LINUX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __x86_64__
#define RF_NR(amd64, i386) (amd64)
#else
#define RF_NR(amd64, i386) (i386)
#endif

/* Numbers: arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl. */
enum {
    RF_NR_READ = RF_NR(0, 3),
    RF_NR_WRITE = RF_NR(1, 4),
    RF_NR_OPEN = RF_NR(2, 5),
    RF_NR_CLOSE = RF_NR(3, 6),
    RF_NR_POLL = RF_NR(7, 168),
    RF_NR_LSEEK = RF_NR(8, 19),
    RF_NR_MMAP = RF_NR(9, 192), /* i386: mmap2, whose offset is in pages */
    RF_NR_MUNMAP = RF_NR(11, 91),
    RF_NR_GETPID = RF_NR(39, 20),
    RF_NR_SOCKET = RF_NR(41, 359),
    RF_NR_CONNECT = RF_NR(42, 362),
    RF_NR_SENDTO = RF_NR(44, 369),
    RF_NR_RECVFROM = RF_NR(45, 371),
    RF_NR_RECVMSG = RF_NR(47, 372),
    RF_NR_SHUTDOWN = RF_NR(48, 373),
    RF_NR_SETSOCKOPT = RF_NR(54, 366),
    RF_NR_FCNTL = RF_NR(72, 221), /* i386: fcntl64 */
    RF_NR_GETTID = RF_NR(186, 224),
    RF_NR_FUTEX = RF_NR(202, 240),
    RF_NR_SCHED_GETAFFINITY = RF_NR(204, 242),
    RF_NR_CLOCK_GETTIME = RF_NR(228, 265),
    RF_NR_TGKILL = RF_NR(234, 270),
};

enum {
    RF_EPERM = 1,
    RF_ENOENT = 2,
    RF_ESRCH = 3,
    RF_EINTR = 4,
    RF_EAGAIN = 11,
    RF_EACCES = 13,
    RF_ENOTDIR = 20,
    RF_EINVAL = 22,
    RF_ENAMETOOLONG = 36,
    RF_EPROTO = 71,
    RF_ECONNREFUSED = 111,
    RF_ETIMEDOUT = 110,
};

enum {
    RF_O_RDONLY = 0,
    RF_O_CLOEXEC = 02000000,
    RF_SEEK_END = 2,
    RF_PROT_READ = 1,
    RF_PROT_WRITE = 2,
    RF_MAP_SHARED = 1,
    RF_MAP_PRIVATE = 2,
    RF_MAP_ANONYMOUS = 0x20,
    RF_AF_UNIX = 1,
    RF_SOCK_STREAM = 1,
    RF_SOCK_CLOEXEC = 02000000,
    RF_SOL_SOCKET = 1,
    RF_SO_RCVTIMEO = 20,
    RF_SO_SNDTIMEO = 21,
    RF_SCM_RIGHTS = 1,
    RF_MSG_CTRUNC = 0x8,
    RF_MSG_DONTWAIT = 0x40,
    RF_MSG_WAITALL = 0x100,
    RF_MSG_NOSIGNAL = 0x4000,
    RF_MSG_CMSG_CLOEXEC = 0x40000000,
    RF_SHUT_RDWR = 2,
    RF_F_GET_SEALS = 1034,
    RF_F_SEAL_SHRINK = 2,
    RF_POLLIN = 1,
    RF_FUTEX_WAIT_PRIVATE = 128,
    RF_FUTEX_WAKE_PRIVATE = 129,
    RF_CLOCK_MONOTONIC = 1,
};

/* The kernel's structures have the words of the code that makes the call. */
struct rf_pollfd {
    int32_t fd;
    int16_t events;
    int16_t revents;
};
struct rf_timespec {
    intptr_t seconds;
    intptr_t nanoseconds;
};
struct rf_timeval {
    intptr_t seconds;
    intptr_t microseconds;
};
struct rf_iovec {
    void *base;
    size_t bytes;
};
struct rf_msghdr {
    void *name;
    uint32_t name_bytes;
    struct rf_iovec *iov;
    size_t iov_count;
    void *control;
    size_t control_bytes;
    uint32_t flags;
};
struct rf_cmsghdr {
    size_t bytes;
    int32_t level;
    int32_t type;
};
struct rf_sockaddr_un {
    uint16_t family;
    char path[108];
};

/* A pointer as a system call's argument. */
static inline intptr_t rf_at(const void *pointer)
{
    return (intptr_t)pointer;
}

static inline intptr_t rf_syscall(intptr_t number, intptr_t a, intptr_t b, intptr_t c, intptr_t d, intptr_t e, intptr_t f)
{
#ifdef __x86_64__
    register intptr_t r10 __asm__("r10") = d;
    register intptr_t r8 __asm__("r8") = e;
    register intptr_t r9 __asm__("r9") = f;
    intptr_t result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory", "cc");
    return result;
#else
    /* All six registers are taken, EBP among them. */
    intptr_t words[7] = {number, a, b, c, d, e, f};
    intptr_t result;
    __asm__ volatile("pushl %%ebx\n\tpushl %%esi\n\tpushl %%edi\n\tpushl %%ebp\n\t"
                     "movl 4(%%eax), %%ebx\n\tmovl 8(%%eax), %%ecx\n\tmovl 12(%%eax), %%edx\n\t"
                     "movl 16(%%eax), %%esi\n\tmovl 20(%%eax), %%edi\n\tmovl 24(%%eax), %%ebp\n\t"
                     "movl (%%eax), %%eax\n\tint $0x80\n\t"
                     "popl %%ebp\n\tpopl %%edi\n\tpopl %%esi\n\tpopl %%ebx"
                     : "=a"(result)
                     : "a"(words)
                     : "ecx", "edx", "memory", "cc");
    return result;
#endif
}

static inline intptr_t rf_syscall3(intptr_t number, intptr_t a, intptr_t b, intptr_t c)
{
    return rf_syscall(number, a, b, c, 0, 0, 0);
}

static inline void rf_close(int fd)
{
    rf_syscall3(RF_NR_CLOSE, fd, 0, 0);
}

/* The kernel's last page of addresses stands for errors. */
static inline int rf_is_error(intptr_t result)
{
    return (uintptr_t)result >= (uintptr_t)-4095;
}

/* Anonymous memory, zeroed; a null pointer if there is none. */
static inline void *rf_allocate(size_t bytes)
{
    intptr_t at = rf_syscall(RF_NR_MMAP, 0, (intptr_t)bytes, RF_PROT_READ | RF_PROT_WRITE,
                             RF_MAP_PRIVATE | RF_MAP_ANONYMOUS, -1, 0);
    return rf_is_error(at) ? NULL : (void *)at;
}

static inline void rf_release(void *at, size_t bytes)
{
    rf_syscall3(RF_NR_MUNMAP, rf_at(at), (intptr_t)bytes, 0);
}

/* Sleeps while `*word` is `value`; may return early. */
static inline void rf_futex_wait(uint32_t *word, uint32_t value)
{
    rf_syscall(RF_NR_FUTEX, rf_at(word), RF_FUTEX_WAIT_PRIVATE, (intptr_t)value, 0, 0, 0);
}

static inline void rf_futex_wake(uint32_t *word, int count)
{
    rf_syscall(RF_NR_FUTEX, rf_at(word), RF_FUTEX_WAKE_PRIVATE, count, 0, 0, 0);
}

/* The calling thread, as Linux knows it. */
static inline uint32_t rf_own_thread(void)
{
    return (uint32_t)rf_syscall3(RF_NR_GETTID, 0, 0, 0);
}

/* Whether a thread of this process has ended. */
static inline int rf_is_thread_gone(uint32_t thread)
{
    intptr_t process = rf_syscall3(RF_NR_GETPID, 0, 0, 0);
    return rf_syscall3(RF_NR_TGKILL, process, (intptr_t)thread, 0) == -RF_ESRCH;
}

/* A time that only goes forward, in nanoseconds. */
static inline uint64_t rf_now(void)
{
    struct rf_timespec time = {0, 0};
    rf_syscall3(RF_NR_CLOCK_GETTIME, RF_CLOCK_MONOTONIC, rf_at(&time), 0);
    return (uint64_t)time.seconds * 1000000000u + (uint64_t)time.nanoseconds;
}

/* Not memcpy: a driver has no C library. */
static inline void rf_copy(void *to, const void *from, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

static inline void rf_zero(void *to, size_t bytes)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0) : "memory");
}

/* A lock of one word; zero is unlocked (1: held, 2: held and waited for). */
typedef uint32_t rf_lock;

static inline void rf_acquire(rf_lock *lock)
{
    uint32_t expected = 0;
    if (__atomic_compare_exchange_n(lock, &expected, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        return;
    }
    while (__atomic_exchange_n(lock, 2, __ATOMIC_ACQUIRE) != 0) {
        rf_futex_wait(lock, 2);
    }
}

static inline void rf_unlock(rf_lock *lock)
{
    if (__atomic_exchange_n(lock, 0, __ATOMIC_RELEASE) == 2) {
        rf_futex_wake(lock, 1);
    }
}

#endif
