/* Requests of the benchmark driver: BENCH_RUN with a bench_request as input and a bench_result as output.
 * tests/benches/guest.rs has the same numbers. */
#ifndef RINGFENCE_BENCH_H
#define RINGFENCE_BENCH_H

#define BENCH_RUN 0x00222000

enum {
    BENCH_NOTHING,       /* two time stamps */
    BENCH_PLAIN_CALL,    /* `count` indirect calls of a function of the driver's own that reads a variable */
    BENCH_GET_IRQL,      /* KeGetCurrentIrql */
    BENCH_FAST_MUTEX,    /* ExAcquireFastMutex and ExReleaseFastMutex */
    BENCH_SPIN_LOCK,     /* KeAcquireSpinLock and KeReleaseSpinLock */
    BENCH_EVENT,         /* KeSetEvent and a wait that is satisfied */
    BENCH_POOL,          /* 64 bytes allocated and freed */
    BENCH_DPC,           /* a DPC queued and run */
    BENCH_THREAD_SWITCH, /* switches between two threads, by two events */
    BENCH_DEVICES,       /* `count` named devices made, then all deleted */
    BENCH_POOL_BLOCKS,   /* `count` blocks allocated, then all freed */
    BENCH_TIMERS,        /* `count` timers set, then all cancelled */
    BENCH_THREADS,       /* `count` threads started, all waiting, then all ended */
    BENCH_TOUCHED        /* `count` blocks that are there written to, then read and written to in another order */
};

struct bench_request {
    unsigned what, count;
};
struct bench_result {
    unsigned long long start, end; /* time stamps */
};

#endif
