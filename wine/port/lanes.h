/* What lanes.c and exchange.c share. */
#ifndef RINGFENCE_PORT_LANES_H
#define RINGFENCE_PORT_LANES_H
#include "direct.h"

#include "../channel/internal.h"

enum {
    /* Requests with more data go through winedevice. The VMM maps steps of 2 MiB. */
    LANE_DATA_BYTES = 1 << 20,
    NR_SCHED_YIELD = RF_NR(24, 158),
};

/* Low bits of a lane's word; above them is the tag of its request. */
enum phase {
    IDLE,
    WAITING,    /* its thread waits for the answer, and only reads */
    CANCELLING, /* another thread uses the available ring */
    CANCELLED,  /* both chains are with the VMM */
    PHASE_MASK = 3,
    TAG_STEP = 4,
};

struct lane {
    uint32_t owner;  /* the Linux thread that has it; 0: nobody */
    uint32_t thread; /* the same as Windows knows it */
    uint32_t word;
    uint32_t tag;
    struct rf_channel *channel; /* null: not connected */
    uint32_t connection;        /* which one it is, of all that there ever were */
    uint32_t process;
    const void *status_block;
    uint64_t file;
};

/* exchange.c */

/* Cancels what a lane's thread waits for, if its word is still this one. */
int lane_cancel(struct lane *lane, uint32_t word);

/* lanes.c */

/* A lane that is the caller's alone, connected; null: there is none. */
struct lane *lane_take(struct machine *machine);
void lane_give_back(struct lane *lane);
/* Which of its machine's lanes it is. */
unsigned lane_index(const struct machine *machine, const struct lane *lane);
/* Nobody begins to cancel any more; who is at it gets done. */
void lane_stop_waiting(struct lane *lane);
/* The caller has the lane, and nothing of it is under way, or its thread is gone. */
void lane_disconnect(struct lane *lane);
int machine_is_ready(const struct machine *machine);
/* The micro-VM is gone, or of no use. */
void machine_end(struct machine *machine);

#endif
