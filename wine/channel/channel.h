/* The client's end of the channel (docs/channel.md), for code without a C library: ringfence.sys and the port DLL.
 *
 * A channel may be used by any number of threads. Nothing here allocates from a heap or waits for anything of Windows;
 * memory is mmap's, locks are futexes. What the VMM sends is checked before it is used as an index, a length or an offset:
 * a broken VMM ends the channel and no more.
 *
 * Compile channel.c, connect.c, queue.c and call.c with what uses them.
 */
#ifndef RINGFENCE_CHANNEL_H
#define RINGFENCE_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire.h"

/* NTSTATUS values that the channel itself ends requests with. */
#define RF_STATUS_INVALID_PARAMETER 0xC000000Du
#define RF_STATUS_NOT_CONNECTED 0xC000009Du       /* the VMM is gone without a farewell */
#define RF_STATUS_CANCELLED 0xC0000120u
#define RF_STATUS_INVALID_BUFFER_SIZE 0xC0000206u /* more data than a request, or the data area, has room for */

struct rf_channel;

/* A request: the caller's memory, from rf_submit until it is done. Zero what is not set. */
struct rf_request {
    /* What is asked; docs/channel.md says which field is what for which opcode. */
    uint16_t opcode;
    uint32_t process; /* 0: the connection's own */
    uint32_t code;
    uint64_t handle;
    uint64_t argument;
    const void *input;
    uint32_t input_bytes;
    uint32_t output_bytes;
    void *output;
    /* The driver sees what is in `output` before (METHOD_IN_DIRECT, METHOD_OUT_DIRECT, METHOD_NEITHER). */
    bool is_output_sent;
    /* Called when it is done, on whatever thread noticed; the request is the caller's again, and may be gone when this
     * returns. It may submit, not wait. Null: somebody calls rf_wait. */
    void (*complete)(struct rf_request *request);
    void *context;

    /* The answer. */
    uint32_t status;        /* NTSTATUS */
    uint32_t output_written; /* bytes of `output` that were written */
    uint64_t information;   /* IO_STATUS_BLOCK.Information: may exceed output_bytes */
    uint64_t value;

    /* The channel's own. */
    uint64_t tag; /* 0: not submitted yet */
    bool is_cancelled; /* before it was submitted */
    uint32_t is_done;
    uint32_t first_cell;
    uint32_t cells;
    struct rf_request *next;
};

/* Why rf_connect failed. */
struct rf_failure {
    const char *what; /* in a few words */
    uint32_t error;   /* errno, or 0 */
    uint32_t status;  /* NTSTATUS: the VMM's refusal, or one that says what `error` does */
};

/* Connects to the socket at `path` (at most 107 bytes). `data_bytes`: room for the data of all requests under way, 4 KiB to
 * 64 MiB. The VMM has `timeout_ms` for its answer. Null and `*failure` if it fails. */
struct rf_channel *rf_connect(const char *path, uint32_t data_bytes, uint32_t timeout_ms, struct rf_failure *failure);
/* Ends the channel: what is under way is done with STATUS_DEVICE_NOT_CONNECTED, rf_run returns. Any thread, any time. */
void rf_disconnect(struct rf_channel *channel);
/* Gives everything back. No thread uses the channel any more. */
void rf_free(struct rf_channel *channel);

/* Id of the connection's own process in the guest. */
uint32_t rf_process(const struct rf_channel *channel);
/* 0 i386, 1 amd64. */
uint32_t rf_driver_abi(const struct rf_channel *channel);
/* Most bytes of a request's input, and of its output, that can be sent over this channel. */
uint32_t rf_transfer_max(const struct rf_channel *channel);
/* 0 while the channel is up; then the NTSTATUS with which everything ends. */
uint32_t rf_end_status(struct rf_channel *channel);

/* Makes a request; does not wait. What finds no room in the ring waits for its turn. */
void rf_submit(struct rf_channel *channel, struct rf_request *request);
/* Waits until a request without `complete` is done. Returns its status. */
uint32_t rf_wait(struct rf_channel *channel, struct rf_request *request);
/* rf_submit and rf_wait. */
uint32_t rf_call(struct rf_channel *channel, struct rf_request *request);
/* Asks for the cancelling of a request whose memory is still valid; it is done nevertheless, with whatever status, and may
 * be one that another thread is about to submit. `request` carries the question: its `complete` and `context` are the caller's to set. */
void rf_cancel(struct rf_channel *channel, struct rf_request *victim, struct rf_request *request);
/* Handles completions until the channel has ended and everything that was under way is done: for a thread of its own, where
 * `complete` is used. */
void rf_run(struct rf_channel *channel);

/* call.c: what a program's process does, blocking. `process` 0 is the connection's own. `width` is in bytes. */
uint32_t rf_port_in(struct rf_channel *channel, uint32_t process, uint16_t port, uint32_t width, uint32_t *value);
uint32_t rf_port_out(struct rf_channel *channel, uint32_t process, uint16_t port, uint32_t width, uint32_t value);
#define RF_TOKEN_BYTES 16
/* The process of a token (RF_OP_SHARE), for use in requests on this connection. */
uint32_t rf_join(struct rf_channel *channel, const uint8_t token[RF_TOKEN_BYTES], uint32_t *process);

#endif
