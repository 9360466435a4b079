/* What the channel's sources share. */
#ifndef RINGFENCE_CHANNEL_INTERNAL_H
#define RINGFENCE_CHANNEL_INTERNAL_H

#include "channel.h"
#include "linux.h"

enum {
    /* The unit in which the data area is handed out; a small request takes one. */
    RF_CELL_BYTES = 256,
    RF_CELLS_MAX = RF_DATA_MAX / RF_CELL_BYTES,
    RF_PROCESS_PLACES = 256,
};

/* The split queue with its memory: queue.c. Nothing of it locks. */
struct rf_queue {
    uint8_t *memory;
    size_t memory_bytes;
    uint32_t size; /* descriptors; a power of two */
    uint32_t available_at;
    uint32_t used_at;
    uint32_t data_at;
    uint32_t cells;      /* of the data area */
    uint32_t cells_free;
    uint32_t cell_hint;  /* where a free one is likely */
    uint16_t available;  /* the available index */
    uint16_t kicked;     /* the available index when the VMM was last notified, or need not be */
    uint16_t next_used;  /* how far the used ring was read */
    uint16_t free_count;
    uint16_t free[RF_QUEUE_MAX];
    /* By a chain's first descriptor: its second, and whose it is (null: the VMM does not have it). */
    uint16_t second[RF_QUEUE_MAX];
    struct rf_request *owner[RF_QUEUE_MAX];
    uint32_t taken[RF_CELLS_MAX / 32];
};

/* Whether and how long to look before sleeping: looking.c. */
struct rf_looking {
    bool may_look; /* not with one processor: looking keeps the VMM from answering */
    uint32_t window_ns;
    uint32_t rest; /* sleeps without a look that are left */
    uint32_t next_rest; /* how many it will be next time */
    uint64_t yield_from; /* when looking may yield the processor again */
};

struct rf_channel {
    struct rf_queue queue;
    rf_lock lock;
    int memory_fd;
    int kick_fd;
    int call_fd;
    int socket_fd;
    uint32_t process;
    uint32_t driver_abi;
    uint32_t transfer_max;
    uint32_t in_flight_max;
    uint32_t in_flight;
    /* Of each process, or of those few together that have a place in common. */
    uint16_t in_flight_of[RF_PROCESS_PLACES];
    /* Requests that wait for room, oldest first; and those of them that end others. */
    struct rf_request *waiting_first;
    struct rf_request *waiting_last;
    struct rf_request *ending_first;
    struct rf_request *ending_last;
    uint64_t next_tag;
    /* 0, or the NTSTATUS of everything from now on. */
    uint32_t end;
    /* The client itself has ended it: the VMM is about to cancel what is under way. */
    bool is_left;
    /* A thread waits for the VMM; it hands out what comes. */
    bool is_watched;
    /* Raised when that thread is back: the others sleep on it. */
    uint32_t generation;
    uint32_t sleepers;
    struct rf_looking looking;
};

/* Whether a layout is this version's, and sets the queue up in `memory`, whose bytes it has checked. */
bool rf_queue_accept(struct rf_queue *queue, const struct rf_welcome *welcome);
size_t rf_queue_bytes(const struct rf_welcome *welcome);
/* Makes a request available. False: there is no room now. */
bool rf_queue_add(struct rf_queue *queue, struct rf_request *request);
/* Whether the VMM wants to be notified of what was made available since this was last asked. */
bool rf_queue_is_kick_due(struct rf_queue *queue);
bool rf_queue_has_used(const struct rf_queue *queue);
/* Takes one request that the VMM has given back, with its answer. Null: there is none, or `*is_broken`. */
struct rf_request *rf_queue_take_used(struct rf_queue *queue, bool *is_broken);
/* Asks for a notification of the next one. */
void rf_queue_arm(struct rf_queue *queue);
/* Takes back a request that the VMM will not answer; null when there is none left. */
struct rf_request *rf_queue_take_back(struct rf_queue *queue);
/* Whether a request leaves room for so many small ones. */
bool rf_queue_leaves(const struct rf_queue *queue, const struct rf_request *request, uint32_t count);
/* Whether a request would have room in an empty queue. */
bool rf_queue_could_hold(const struct rf_queue *queue, const struct rf_request *request);

void rf_looking_start(struct rf_looking *looking, bool may_look);
/* Looks for what the VMM gives back for as long as that is worth it now. Whether there is something. */
bool rf_look(struct rf_looking *looking, const struct rf_queue *queue);
/* The thread has slept for so long until something came. */
void rf_slept(struct rf_looking *looking, uint64_t slept_ns);

#endif
