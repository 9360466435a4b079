/* What machines.c and lanes.c do alike. They keep a table each: a token of ringfence.sys's for ports is this process's own, and
 * one for a handle is that of the process that has opened the file. Who inherits a handle must not get the ports. */
#include "join.h"

int join_is_same(const uint8_t left[RF_TOKEN_BYTES], const uint8_t right[RF_TOKEN_BYTES])
{
    unsigned different = 0;
    for (unsigned i = 0; i < RF_TOKEN_BYTES; i++) {
        different |= left[i] ^ right[i];
    }
    return different == 0;
}

void join_close(struct rf_channel *channel)
{
    rf_disconnect(channel);
    rf_free(channel);
}

struct rf_channel *join_open(const char *path, const uint8_t token[RF_TOKEN_BYTES], uint32_t data_bytes, uint32_t *process)
{
    enum { TIMEOUT_MS = 5000 };
    struct rf_failure failure;
    struct rf_channel *channel = rf_connect(path, data_bytes, TIMEOUT_MS, &failure);
    if (channel != NULL && rf_join(channel, token, process) != 0) {
        join_close(channel);
        return NULL;
    }
    return channel;
}
