/* One port access at a time over a channel, at the least cost: the chain is always the same two descriptors, and only what
 * changes is written. The channel is used for nothing else from the first access on. */
#ifndef RINGFENCE_PORT_RING_H
#define RINGFENCE_PORT_RING_H
#include "../channel/channel.h"

/* Another thread has the channel, and has had it for long: it may be suspended. An NTSTATUS that no VMM answers. */
#define RING_BUSY 0xE0000001u

/* `in` and `out` of `width` bytes as `process`; `*value` is read or written. Any thread: one has its turn, the others look for
 * about a millisecond. Returns the NTSTATUS, or RING_BUSY; RF_STATUS_NOT_CONNECTED, or what the VMM
 * has said in the end, when the channel is over. */
uint32_t ring_access(struct rf_channel *channel, uint32_t process, int is_write, uint16_t port, uint32_t width,
                     uint32_t *value);
/* Prepares a channel on which no request is under way. */
void ring_start(struct rf_channel *channel);

#endif
