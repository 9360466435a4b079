/* Talks to a driver that `ringfence run DRIVER --socket PATH` serves. Link with -lringfence.
 *
 * A connection is a process in the driver's guest: it has handles and an I/O permission map of its own, which end with
 * it. Every function may be called from any thread. Functions return an NTSTATUS: 0 is success, and values from
 * 0xC0000000 are errors. 0xC000009D (STATUS_DEVICE_NOT_CONNECTED) means that the driver is gone, 0xC0000450 that it
 * crashed. A null pointer where one is not allowed is 0xC000000D (STATUS_INVALID_PARAMETER), and so is another connection's
 * buffer: nothing has been done then.
 */
#ifndef RINGFENCE_H
#define RINGFENCE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ringfence_connection ringfence_connection;

/* How a request ended. `output` is valid until the function that got it returns. */
typedef struct ringfence_completion {
    uint64_t tag;
    uint64_t information; /* IO_STATUS_BLOCK.Information: the driver's number, which may exceed output_bytes */
    const void *output;
    size_t output_bytes;
    uint32_t status;
    uint32_t reserved;
} ringfence_completion;

/* Called once for each request that ringfence_submit_* has accepted: by the thread of ringfence_start_thread, by
 * ringfence_process, by any blocking function, in whatever thread, while that waits for an answer of its own, and at the
 * latest by ringfence_disconnect. It may submit further requests and disconnect, but not use the blocking calls. */
typedef void (*ringfence_callback)(void *context, const ringfence_completion *completion);

/* Connects to a driver's socket. */
uint32_t ringfence_connect(const char *path, ringfence_connection **connection);
/* Ends the connection: requests under way are cancelled, handles closed. Null is allowed.
 * When it returns, the callback of each request has been called and has returned, so contexts may be freed: with what came of
 * the request, or with 0xC0000120 (STATUS_CANCELLED) if it was under way; and the thread of ringfence_start_thread has ended.
 * Calls that wait in other threads end with an error at once; no call may begin any more. It waits for callbacks that other
 * threads are in, so hold no lock that those want. In a callback it may be called too; then it does not wait for that callback,
 * and the thread of ringfence_start_thread, if that is the one, ends when the callback has returned. */
void ringfence_disconnect(ringfence_connection *connection);
/* Id of this process in the guest; 0 for null. */
uint32_t ringfence_process_id(const ringfence_connection *connection);

/* Blocking. While one waits it calls the callbacks of other requests that are completed. If as many requests are under way as
 * can be, it waits until one is completed, too. */

/* Opens a device, `\\.\NAME` in UTF-8; access 0 is reading and writing. */
uint32_t ringfence_open(ringfence_connection *connection, const char *path, uint32_t access, uint64_t *handle);
uint32_t ringfence_close(ringfence_connection *connection, uint64_t handle);
uint32_t ringfence_flush(ringfence_connection *connection, uint64_t handle);
/* DeviceIoControl. What is in `output` before is seen by the driver with METHOD_IN_DIRECT and METHOD_NEITHER.
 * `information` may be null. */
uint32_t ringfence_ioctl(ringfence_connection *connection, uint64_t handle, uint32_t code, const void *input,
                         uint32_t input_bytes, void *output, uint32_t output_bytes, uint64_t *information);
uint32_t ringfence_read(ringfence_connection *connection, uint64_t handle, uint64_t offset, void *output,
                        uint32_t output_bytes, uint64_t *information);
uint32_t ringfence_write(ringfence_connection *connection, uint64_t handle, uint64_t offset, const void *input,
                         uint32_t input_bytes, uint64_t *information);
/* `in` and `out` of 1, 2 or 4 bytes; 0xC0000096 (STATUS_PRIVILEGED_INSTRUCTION) if the driver has not granted the port. */
uint32_t ringfence_port_in(ringfence_connection *connection, uint16_t port, uint32_t width, uint32_t *value);
uint32_t ringfence_port_out(ringfence_connection *connection, uint16_t port, uint32_t width, uint32_t value);
/* Cancels a request by its tag; it still completes. Blocks until the driver's cancel routine has run. One place is kept for
 * it among the requests under way, so it does not wait for any of them. */
uint32_t ringfence_cancel(ringfence_connection *connection, uint64_t tag);

/* With a callback. `tag` may be null. They do not wait: 0xC0000044 (STATUS_QUOTA_EXCEEDED) means that as many requests are
 * under way as can be (1023, fewer if their data fills the connection's 16 MiB), and that one must be completed, and its
 * callback called, first. After an error the callback is not called. */

uint32_t ringfence_submit_ioctl(ringfence_connection *connection, uint64_t handle, uint32_t code, const void *input,
                                uint32_t input_bytes, uint32_t output_bytes, ringfence_callback callback,
                                void *context, uint64_t *tag);
uint32_t ringfence_submit_read(ringfence_connection *connection, uint64_t handle, uint64_t offset,
                               uint32_t output_bytes, ringfence_callback callback, void *context, uint64_t *tag);
uint32_t ringfence_submit_write(ringfence_connection *connection, uint64_t handle, uint64_t offset,
                                const void *input, uint32_t input_bytes, ringfence_callback callback, void *context,
                                uint64_t *tag);
/* Starts a thread that calls callbacks; ringfence_disconnect waits for its end. */
uint32_t ringfence_start_thread(ringfence_connection *connection);

/* Buffers that driver and program share: whole pages of the connection's memory. With METHOD_IN_DIRECT, METHOD_OUT_DIRECT
 * and devices of DO_DIRECT_IO the driver works on these very pages and nothing is copied; it may do so until the request
 * is completed. A buffer that is freed earlier goes then. `information` and `tag` may be null. */

typedef struct ringfence_buffer ringfence_buffer;

uint32_t ringfence_buffer_create(ringfence_connection *connection, uint32_t bytes, ringfence_buffer **buffer);
/* Null is allowed. */
void ringfence_buffer_free(ringfence_buffer *buffer);
/* Its first byte, at the beginning of a page; null for null. */
void *ringfence_buffer_address(const ringfence_buffer *buffer);
uint32_t ringfence_ioctl_buffer(ringfence_connection *connection, uint64_t handle, uint32_t code, const void *input,
                                uint32_t input_bytes, const ringfence_buffer *buffer, uint64_t buffer_offset,
                                uint32_t output_bytes, uint64_t *information);
uint32_t ringfence_read_buffer(ringfence_connection *connection, uint64_t handle, uint64_t offset,
                               const ringfence_buffer *buffer, uint64_t buffer_offset, uint32_t bytes,
                               uint64_t *information);
uint32_t ringfence_write_buffer(ringfence_connection *connection, uint64_t handle, uint64_t offset,
                                const ringfence_buffer *buffer, uint64_t buffer_offset, uint32_t bytes,
                                uint64_t *information);
uint32_t ringfence_submit_read_buffer(ringfence_connection *connection, uint64_t handle, uint64_t offset,
                                      const ringfence_buffer *buffer, uint64_t buffer_offset, uint32_t bytes,
                                      ringfence_callback callback, void *context, uint64_t *tag);
uint32_t ringfence_submit_write_buffer(ringfence_connection *connection, uint64_t handle, uint64_t offset,
                                       const ringfence_buffer *buffer, uint64_t buffer_offset, uint32_t bytes,
                                       ringfence_callback callback, void *context, uint64_t *tag);

/* With a file descriptor: wait until it is readable (poll, epoll), then call ringfence_process, which calls the callbacks
 * that are due and does not block. This and other threads may use blocking functions meanwhile: those call callbacks too. The
 * descriptor is the connection's; do not close it. -1 for null. */
int ringfence_fd(const ringfence_connection *connection);
uint32_t ringfence_process(ringfence_connection *connection);

#ifdef __cplusplus
}
#endif
#endif
