/* What a program's process does over a channel, one blocking call each. */
#include "internal.h"

uint32_t rf_port_in(struct rf_channel *channel, uint32_t process, uint16_t port, uint32_t width, uint32_t *value)
{
    struct rf_request request = {.opcode = RF_OP_PORT_IN, .process = process, .code = port, .argument = width};
    uint32_t status = rf_call(channel, &request);
    *value = (uint32_t)request.value;
    return status;
}

uint32_t rf_port_out(struct rf_channel *channel, uint32_t process, uint16_t port, uint32_t width, uint32_t value)
{
    struct rf_request request = {
        .opcode = RF_OP_PORT_OUT,
        .process = process,
        .code = port,
        .argument = (uint64_t)value << 32 | width,
    };
    return rf_call(channel, &request);
}

uint32_t rf_join(struct rf_channel *channel, const uint8_t token[RF_TOKEN_BYTES], uint32_t *process)
{
    struct rf_request request = {.opcode = RF_OP_JOIN, .input = token, .input_bytes = RF_TOKEN_BYTES};
    uint32_t status = rf_call(channel, &request);
    *process = (uint32_t)request.value;
    return status;
}
