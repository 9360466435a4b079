/* echo.sys: moves data through every kind of request, changed on the way so that a wrong copy is noticed.
 *
 * Three devices, alike but for their flags:
 *   \Device\echo          DO_BUFFERED_IO   link \DosDevices\echo          read key 0x11
 *   \Device\echo_direct   DO_DIRECT_IO     link \DosDevices\echo_direct   read key 0x22
 *   \Device\echo_neither  neither          link \DosDevices\echo_neither  read key 0x33
 *
 * "Coded with key k" means: byte i of the result is ((input[i] ^ k) + i) modulo 256.
 *
 * IRP_MJ_WRITE keeps a copy of at most 4096 bytes in the device (Information = length; more is
 * STATUS_INVALID_BUFFER_SIZE). IRP_MJ_READ returns that copy coded with the device's key, as much as fits;
 * STATUS_END_OF_FILE if nothing was written since the driver was loaded.
 */
#ifndef RINGFENCE_ECHO_H
#define RINGFENCE_ECHO_H
#include "codes.h"

#define ECHO_READ_KEY_BUFFERED 0x11u
#define ECHO_READ_KEY_DIRECT 0x22u
#define ECHO_READ_KEY_NEITHER 0x33u

/* 0x00222000: METHOD_BUFFERED. Output: input coded with key 0xA5, min(input, output) bytes. */
#define ECHO_BUFFERED RF_CODE(0x800u, RF_BUFFERED)
#define ECHO_KEY_BUFFERED 0xA5u
/* 0x00222005: METHOD_IN_DIRECT. The second buffer is input too (read through its MDL); Information is 0.
 * Ask ECHO_QUERY_HASH what arrived. */
#define ECHO_IN_DIRECT RF_CODE(0x801u, RF_IN_DIRECT)
/* 0x0022200A: METHOD_OUT_DIRECT. Output (through its MDL): input coded with key 0x5A, min(input, output) bytes. */
#define ECHO_OUT_DIRECT RF_CODE(0x802u, RF_OUT_DIRECT)
#define ECHO_KEY_OUT_DIRECT 0x5Au
/* 0x0022200F: METHOD_NEITHER. Output: input coded with key 0xC3, min(input, output) bytes, straight between the
 * caller's addresses. STATUS_ACCESS_VIOLATION if one is not below MmUserProbeAddress. */
#define ECHO_NEITHER RF_CODE(0x803u, RF_NEITHER)
#define ECHO_KEY_NEITHER 0xC3u

/* 0x00222010: METHOD_BUFFERED; out struct echo_hash: of the device's last request of the four above. */
#define ECHO_QUERY_HASH RF_CODE(0x804u, RF_BUFFERED)
struct echo_hash {
    rf_u32 hash; /* FNV-1a, 32 bits, over the input and, for IN_DIRECT, then over the second buffer */
    rf_u32 input_length;
    rf_u32 output_length;
};

/* 0x00222040: METHOD_BUFFERED; in struct echo_pend, out rf_u32 = tag ^ 0xFFFFFFFF. Pending; completed by a DPC
 * that KeSetTimer queues after delay_ms (0: at the next tick). Any number at a time. Cannot be cancelled. */
#define ECHO_PEND RF_CODE(0x810u, RF_BUFFERED)
struct echo_pend {
    rf_u32 delay_ms;
    rf_u32 tag;
};

/* 0x00222044: METHOD_BUFFERED; in rf_u32 tag, out rf_u32 = tag ^ 0xFFFFFFFF. Pending until ECHO_RELEASE
 * (STATUS_SUCCESS), cancellation or the file's cleanup (STATUS_CANCELLED, Information 0). */
#define ECHO_WAIT RF_CODE(0x811u, RF_BUFFERED)
/* 0x00222048: completes every waiting ECHO_WAIT of this device, oldest first; out rf_u32, how many. */
#define ECHO_RELEASE RF_CODE(0x812u, RF_BUFFERED)

/* 0x0022204C: METHOD_BUFFERED; in struct echo_complete. Fills the output buffer with `fill` and completes with
 * exactly this status and Information, however wrong (Information beyond the output length must not leak). */
#define ECHO_COMPLETE RF_CODE(0x813u, RF_BUFFERED)
struct echo_complete {
    rf_u32 status;
    rf_u32 information;
    rf_u32 fill; /* low byte */
};

/* 0x00222052: METHOD_OUT_DIRECT; in rf_u32, its low byte fills the second buffer, through its MDL; Information is that
 * buffer's length. */
#define ECHO_FILL RF_CODE(0x814u, RF_OUT_DIRECT)
/* 0x00222056: METHOD_OUT_DIRECT; in struct echo_pend. As ECHO_FILL with the tag's low byte, by the DPC of ECHO_PEND. */
#define ECHO_PEND_FILL RF_CODE(0x815u, RF_OUT_DIRECT)

#endif
