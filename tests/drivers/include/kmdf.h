/* kmdf.sys: a KMDF driver of a control device, \\.\kmdf, as such drivers are usually built.
 *
 * Reads and writes are buffered. A write keeps a copy of at most 4096 bytes in the device (more is
 * STATUS_INVALID_BUFFER_SIZE), a read returns it coded with key 0x44 (STATUS_END_OF_FILE if there is none). Both go
 * through a sequential queue of their own, all others through a parallel one. "Coded with key k" is echo.h's.
 */
#ifndef RINGFENCE_KMDF_SAMPLE_H
#define RINGFENCE_KMDF_SAMPLE_H
#include "codes.h"

#define KMDF_READ_KEY 0x44u

/* 0x00222000, 0x00222005, 0x0022200A, 0x0022200F: one for each method. Output (METHOD_IN_DIRECT: none): the input,
 * coded with the key, min(input, output) bytes; an empty buffer is STATUS_BUFFER_TOO_SMALL. METHOD_IN_DIRECT stores the
 * sum of both buffers' bytes for KMDF_QUERY. METHOD_NEITHER locks the client's buffers in EvtIoInCallerContext. */
#define KMDF_BUFFERED RF_CODE(0x800u, RF_BUFFERED)
#define KMDF_IN_DIRECT RF_CODE(0x801u, RF_IN_DIRECT)
#define KMDF_OUT_DIRECT RF_CODE(0x802u, RF_OUT_DIRECT)
#define KMDF_NEITHER RF_CODE(0x803u, RF_NEITHER)
#define KMDF_KEY_BUFFERED 0xA5u
#define KMDF_KEY_OUT_DIRECT 0x5Au
#define KMDF_KEY_NEITHER 0xC3u

/* 0x00222010: out struct kmdf_state. */
#define KMDF_QUERY RF_CODE(0x804u, RF_BUFFERED)
struct kmdf_state {
    rf_u32 opened, cleaned, closed; /* files of the device */
    rf_u32 sum;                     /* KMDF_IN_DIRECT's */
    rf_u32 timers, work_items;      /* callbacks that ran */
    rf_u32 waiting;                 /* requests in the manual queue */
    rf_u32 own_requests;            /* of this file */
    rf_u32 parameter;               /* REG_DWORD Parameters\Value, 0 if there is none */
    rf_u32 overlaps;                /* callbacks that ran while another one of the serialized queue did */
};

/* 0x00222014: in rf_u32 milliseconds, out rf_u32 = ~milliseconds, completed by a timer. Cancellable. One at a time:
 * STATUS_DEVICE_BUSY. */
#define KMDF_TIMER RF_CODE(0x805u, RF_BUFFERED)
/* 0x00222018: in rf_u32, out rf_u32 = ~input, completed by a work item. */
#define KMDF_WORK RF_CODE(0x806u, RF_BUFFERED)
/* 0x0022201C: in rf_u32, out rf_u32 = ~input at KMDF_RELEASE; waits in the manual queue. */
#define KMDF_WAIT RF_CODE(0x807u, RF_BUFFERED)
/* 0x00222020: completes what waits; out rf_u32, how many. */
#define KMDF_RELEASE RF_CODE(0x808u, RF_BUFFERED)
/* 0x00222024: input: name of a value below Parameters (UTF-16, no NUL); out: its string. */
#define KMDF_STRING RF_CODE(0x809u, RF_BUFFERED)
/* 0x00222028: in rf_u32: purges (0) the manual queue, which then takes no request (STATUS_WDF_BUSY, 0xC0200204), or
 * starts (1) it. */
#define KMDF_QUEUE RF_CODE(0x80Au, RF_BUFFERED)

#endif
