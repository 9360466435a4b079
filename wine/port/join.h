/* A connection to a micro-VM, in the guest process that a token stands for. */
#ifndef RINGFENCE_PORT_JOIN_H
#define RINGFENCE_PORT_JOIN_H
#include "../channel/channel.h"

/* Null: the VMM is not there, has no room, or does not know the token. `*process`: the guest process. */
struct rf_channel *join_open(const char *path, const uint8_t token[RF_TOKEN_BYTES], uint32_t data_bytes, uint32_t *process);
void join_close(struct rf_channel *channel);
int join_is_same(const uint8_t left[RF_TOKEN_BYTES], const uint8_t right[RF_TOKEN_BYTES]);

#endif
