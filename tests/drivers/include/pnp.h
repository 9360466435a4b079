/* pnp.sys: a WDM function driver of one root-enumerated device, as the WDK's samples have it.
 *
 * It has no name: programs open its interface, \\?\ROOT#PNP#0000#{4d1e55b2-f16f-11cf-88cb-0011a0000031}. It takes what
 * IRP_MN_START_DEVICE gives it: up to 8 ranges of ports and of memory, which it maps, and one interrupt, which it
 * connects. Requests that need hardware are STATUS_DEVICE_NOT_READY while it is stopped, and STATUS_NO_SUCH_DEVICE after
 * a surprise removal; in a low power state STATUS_DEVICE_POWERED_OFF. All codes are METHOD_BUFFERED.
 */
#ifndef RINGFENCE_PNP_H
#define RINGFENCE_PNP_H
#include "codes.h"

enum pnp_state {
    PNP_ADDED = 0,
    PNP_STARTED = 1,
    PNP_STOP_PENDING = 2,
    PNP_STOPPED = 3,
    PNP_REMOVE_PENDING = 4,
    PNP_SURPRISE_REMOVED = 5
};

/* 0x00222000: out struct pnp_report. It works in every state. */
#define PNP_REPORT RF_CODE(0x800u, RF_BUFFERED)
struct pnp_report {
    rf_u32 state;           /* enum pnp_state */
    rf_u32 device_power;    /* DEVICE_POWER_STATE: 1 is D0, 4 is D3 */
    rf_u32 system_power;    /* SYSTEM_POWER_STATE: 1 is S0 */
    rf_u32 starts;          /* how often it was started */
    rf_u32 stops;
    rf_u32 port_ranges;
    rf_u32 memory_ranges;
    rf_u32 interrupt_vector; /* 0: none is connected */
    rf_u32 raw_line;         /* the interrupt's level in the raw list */
    rf_u32 first_port;
    rf_u32 first_port_count;
    rf_u32 dma_channel;      /* 0xffffffff: none */
    rf_u64 first_address;
    rf_u32 first_bytes;
    rf_u32 open_files;
};

/* 0x00222004: in rf_u32 offset in the first range of ports; out rf_u32, the byte that was read.
 * STATUS_INVALID_PARAMETER: beyond the range; STATUS_NO_SUCH_DEVICE: there is no such resource. */
#define PNP_READ_PORT RF_CODE(0x801u, RF_BUFFERED)
/* 0x00222008: in rf_u32 offset, rf_u32 byte. */
#define PNP_WRITE_PORT RF_CODE(0x802u, RF_BUFFERED)
/* 0x0022200C: in rf_u32 offset in the first range of memory, a multiple of 4; out rf_u32.
 * STATUS_INSUFFICIENT_RESOURCES: it could not be mapped. */
#define PNP_READ_MEMORY RF_CODE(0x803u, RF_BUFFERED)
/* 0x00222010: in rf_u32 offset, rf_u32 value. */
#define PNP_WRITE_MEMORY RF_CODE(0x804u, RF_BUFFERED)
/* 0x00222014: in rf_u32 DEVICE_REGISTRY_PROPERTY; out its bytes. */
#define PNP_PROPERTY RF_CODE(0x805u, RF_BUFFERED)
/* 0x00222018: reports that the device has failed (PNP_DEVICE_FAILED, IoInvalidateDeviceState). */
#define PNP_FAIL RF_CODE(0x806u, RF_BUFFERED)

#endif
